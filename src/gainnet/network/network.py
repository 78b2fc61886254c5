"""The radio network in motion: one ``advance`` a frame, from the load of the last frame to the state of this one."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from gainnet.network import channel, link, near, topology
from gainnet.network.channel_kernel import radiate
from gainnet.network.columns import AZIMUTH, CLEAR, EAST, LOG_GAIN, NONE, NORTH, RIVAL, RULES, SERVING, SLOPE, TILE, UP
from gainnet.network.draws import Normals
from gainnet.network.link_kernel import connect
from gainnet.network.mobility import mobility
from gainnet.network.near_kernel import settle
from gainnet.network.state import LinkView, Load, NetworkState
from gainnet.rng import stream
from gainnet.scenario.hardware import base_station
from gainnet.scenario.network import Network as NetworkConfig
from gainnet.scenario.network import Radio
from gainnet.units import db_to_linear

TABLE_STEP_M = 1.0
DB_PER_NEPER = 1.0 / channel.NEPER_PER_DB


class Network:
    """Ends that move, the radio field around them, what soundings tell of it, and the links that follow.

    Up to ``near.NEAR_ALL`` cells every link is simulated; in larger networks each end has the links to the
    ``near.NEAR`` cells about it, and the others make up a mean field (see ``near``): an end costs the same in any area.

    Attributes:
        topology: cells, fixed machines and backhaul.
        blocks: resource blocks of the band, 12 subcarriers each.
        block_hz: width of one.
        block_power_w: downlink power per resource block of one cell, ``transceivers power_max_w`` over the band (the
            base station's model is of one transceiver).
    """

    def __init__(
        self, config: NetworkConfig, *, seed: int, frame_s: float, duration_s: float, near_cells: int | None = None
    ) -> None:
        """Build the network at time zero; every end counts as sounded once with ``sensing.sounding_blocks``.

        Args:
            config: what to build.
            seed: of all randomness.
            frame_s: length of a frame.
            duration_s: how long the mobility must last.
            near_cells: how many cells each end tracks; None for what ``near`` says, the number of cells for exact
                interference.

        Raises:
            InputError: a topology or a mobility that cannot be built (see ``topology.build`` and ``mobility.build``).
        """
        radio = config.radio
        self.topology = topology.build(config)
        self.blocks = link.blocks(radio)
        self.block_hz = link.block_hz(radio)
        station = base_station(radio.base_station)
        self.block_power_w = station.transceivers * station.power_max_w / self.blocks
        self._frame_s = frame_s
        self._frame = 0
        self._mobility = mobility.build(
            config, self.topology, generator=stream(seed, "mobility"), frame_s=frame_s, duration_s=duration_s
        )
        self._channel_normals = Normals(stream(seed, "channel"))
        self._sounding_normals = Normals(stream(seed, "sounding"))
        self._fading_normals = Normals(stream(seed, "fading"))
        self._arrival_normals = Normals(stream(seed, "near"))
        self._set_constants(config)
        self._tiles = near.build(self._cells, self.topology.area_m, self._table, self._rules, near_cells)
        self._set_state(config.ends, self._tiles.near.shape[1], radio.candidates, radio.fading_samples)

    def _set_constants(self, config: NetworkConfig) -> None:
        """What the kernels read and nothing changes, and the cells, of whom their powers change."""
        radio = config.radio
        left, low, right, high = self.topology.area_m
        across_m = float(np.hypot(right - left, high - low))
        self._table = channel.tabulate(radio, across_m, TABLE_STEP_M)
        self._ladder = link.ladder(radio)
        self._grid = link.ladder_grid()
        self._doppler = link.doppler(radio.carrier_hz, self._frame_s)
        self._first_sounding = np.full(config.ends, float(config.sensing.sounding_blocks))
        self._rules = self._build_rules(radio, config.sensing.margin_sigma, across_m / 2.0)
        self._cells = np.zeros((len(self.topology.cell_edge), 6))
        self._cells[:, [EAST, NORTH]] = self.topology.cell_xy_m
        self._cells[:, AZIMUTH] = self.topology.cell_azimuth_rad

    def _build_rules(self, radio: Radio, margin: float, way_max_m: float) -> NDArray[Any]:
        """The numbers of ``columns.RULES``."""
        varies = channel.VARIATIONS[radio.path_loss]
        p0_w, alpha, limit_w = link.power_control(radio)
        spread, clear_spread = link.fading_spread(radio)
        given = {
            "step_m": TABLE_STEP_M,
            "state_m": varies.state_correlation_m / channel.SMOOTH_LENGTHS,
            "clear_m": varies.los_correlation_m,
            "blocked_m": varies.nlos_correlation_m,
            "attenuation_max": channel.NEPER_PER_DB * channel.ATTENUATION_MAX_DB,
            "beamwidth_rad": channel.BEAMWIDTH_RAD,
            "block_w": self.block_power_w,
            "p0_w": p0_w,
            "alpha": alpha,
            "limit_w": limit_w,
            "end_noise_w": link.noise_w(self.block_hz, radio.end_noise_figure_db),
            "cell_noise_w": link.noise_w(self.block_hz, radio.cell_noise_figure_db),
            "margin": margin,
            "rician_k": db_to_linear(radio.rician_k_db),
            "spread": spread,
            "clear_spread": clear_spread,
            "hysteresis": channel.NEPER_PER_DB * radio.handover_hysteresis_db,
            "trigger_s": radio.handover_time_to_trigger_s,
            "frame_s": self._frame_s,
            "way_max_m": way_max_m,
            "drop_m": radio.cell_height_m - radio.end_height_m,
        }
        return np.array([tuple(given[name] for name in RULES.names or ())], dtype=RULES)

    def _set_state(self, users: int, slots: int, candidates: int, samples: int) -> None:
        """What the kernels carry from frame to frame."""
        self._field = np.zeros((users, slots, 6))
        self._field[:, :, : SLOPE + 1] = self._channel_normals.take(2 * users * slots).reshape(users, slots, 2)
        self._field[:, :, SLOPE + 1] = self._channel_normals.take(users * slots).reshape(users, slots)
        self._memory = np.zeros((users, slots, 5))
        self._near = np.tile(self._tiles.near[0], (users, 1))
        self._ends = np.zeros((users, 5))
        self._ties = np.zeros((users, 3), dtype=np.int64)
        self._ties[:, [SERVING, RIVAL]] = NONE
        self._far_w, self._sent_w = np.zeros((2, len(self._tiles.near)))
        self._position: Float[np.ndarray, "user 2"] | None = None
        self._was = np.full((users, candidates), -1, dtype=np.int64)
        self._fading = (np.zeros((users, candidates, samples, 2)), np.zeros((users, candidates, samples, 2)))
        self._faded = np.zeros((users, candidates, samples))
        self._level = np.zeros(slots)
        self._slots = np.zeros((users, candidates), dtype=np.int64)
        self._links = np.zeros((users, candidates, 6))

    def advance(self, load: Load) -> NetworkState:
        """Move one frame on, the first call to frame 0, and describe it.

        Pilots that ``load`` spent count as measured at the start of this frame. Interference follows the uses of
        ``load``. Cells of ``load.health`` that are down send nothing and are never candidates; while sensing is down no
        pilot is measured. All arrays of the result are its own: later calls don't change them.
        """
        position, velocity = self._mobility.step()
        self._settle(position)
        tiles, uplink_cell = self._tiles, np.ascontiguousarray(load.uplink_cell, dtype=np.int64)
        users, slots = self._near.shape
        radiate(
            position, position if self._position is None else self._position,
            self._channel_normals.take(3 * users * slots).reshape(users, slots, 3),
            np.ascontiguousarray(load.downlink_use), np.ascontiguousarray(load.health.cell_up),
            np.ascontiguousarray(load.uplink_use), uplink_cell, self._table, self._rules, tiles.far_cell,
            tiles.far_gain, tiles.rest_gain, self._far_w, self._sent_w, self._near, self._cells, self._field,
            self._ends, self._ties,
        )  # fmt: skip
        candidate = np.empty(self._was.shape, dtype=np.int64)
        handover = np.empty(users, dtype=np.bool_)
        out = np.empty((9, *candidate.shape))
        old, new = self._fading
        pilots, pilot_normals = self._pilots(load)
        connect(
            position, velocity, uplink_cell, pilots, pilot_normals,
            self._fading_normals.take(new.size).reshape(new.shape), self._table, self._rules, self._ladder, self._grid,
            self._doppler, self._far_w, self._near, self._cells, self._field, self._memory, self._ends, self._ties,
            self._was, old, new, self._faded, self._level, self._slots, self._links, candidate, handover, out,
        )  # fmt: skip
        self._was, self._position, self._fading = candidate, position, (new, old)
        self._frame += 1
        return NetworkState(
            frame=self._frame - 1,
            time_s=(self._frame - 1) * self._frame_s,
            position_m=position,
            velocity_m_per_s=velocity,
            candidate=candidate,
            handover=handover,
            truth=LinkView(out[0], out[1], out[2]),
            observed=LinkView(out[3], out[4], out[5]),
            observed_error_db=out[8, :, 0] * DB_PER_NEPER,
            uplink_power_w=out[6],
            cell_distance_m=out[7],
            load=load,
        )

    def alone(
        self,
    ) -> tuple[Float[np.ndarray, "user slot"], Float[np.ndarray, "user slot"], Bool[np.ndarray, "user slot"]]:
        """Each tracked link as it is in this frame if nobody else sends and nothing fades.

        Returns the natural logarithms of its SINR down and up, -inf where its cell is down, and whether it is in line of
        sight.
        """
        rule, gain = self._rules[0], self._field[:, :, LOG_GAIN]
        up = self._cells[self._near, UP] > 0.0
        sent = np.minimum(np.log(rule["limit_w"]), np.log(rule["p0_w"]) - rule["alpha"] * gain)
        down = np.log(rule["block_w"] / rule["end_noise_w"]) + gain
        rise = sent - np.log(rule["cell_noise_w"]) + gain
        return np.where(up, down, -np.inf), np.where(up, rise, -np.inf), self._field[:, :, CLEAR] > 0.5

    def _settle(self, position: Float[np.ndarray, "user 2"]) -> None:
        """Track the cells near each user that came into another tile; at frame 0 those near every user."""
        if len(self._tiles.near) == 1:
            return
        tile = self._tiles.at(position)
        if self._position is None:
            self._near[:], self._ties[:, TILE] = self._tiles.near[tile], tile
            return
        users = np.flatnonzero(tile != self._ties[:, TILE])
        slots = self._near.shape[1]
        settle(
            users, tile, self._tiles.near, position,
            self._arrival_normals.take(3 * len(users) * slots).reshape(len(users), slots, 3), self._cells, self._table,
            self._rules, self._near, self._field, self._memory, self._ends, self._ties,
        )  # fmt: skip

    def _pilots(self, load: Load) -> tuple[Float[np.ndarray, " user"], Float[np.ndarray, "sounded slot"]]:
        """Pilots of each user and fresh normals for those who spent some; at frame 0 all do, whatever works."""
        slots = self._near.shape[1]
        if self._frame == 0:
            pilots, sounded = self._first_sounding, len(self._first_sounding)
        else:
            pilots = np.ascontiguousarray(load.sounding_block)
            sounded = int(np.count_nonzero(pilots > 0.0)) if load.health.sensing_up else 0
        return pilots, self._sounding_normals.take(sounded * slots).reshape(sounded, slots)
