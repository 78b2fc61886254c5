"""The radio network in motion: one ``advance`` a frame, from the load of the last frame to the state of this one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.network import channel, link, topology
from gainnet.network.channel_kernel import interfere, propagate
from gainnet.network.draws import Normals
from gainnet.network.link_kernel import connect
from gainnet.network.mobility import mobility
from gainnet.network.observe_kernel import associate, sound
from gainnet.network.state import LinkView, Load, NetworkState
from gainnet.rng import stream
from gainnet.scenario.hardware import base_station
from gainnet.scenario.network import Network as NetworkConfig
from gainnet.units import db_to_linear

TABLE_STEP_M = 1.0
DB_PER_NEPER = 1.0 / channel.NEPER_PER_DB


class Network:
    """Ends that move, the radio field around them, what soundings tell of it, and the links that follow.

    Attributes:
        topology: cells, fixed machines and backhaul.
        blocks: resource blocks of the band, 12 subcarriers each.
        block_hz: width of one.
        block_power_w: downlink power per resource block of one cell: ``power_max_w`` of the base station's model is of one
            transceiver, so ``transceivers power_max_w`` over the band.
    """

    def __init__(self, config: NetworkConfig, *, seed: int, frame_s: float, duration_s: float) -> None:
        """Build the network at time zero; every end counts as sounded once with ``sensing.sounding_blocks``.

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
        self._set_constants(config)
        self._set_state(config.ends, len(self.topology.cell_edge), radio.candidates, radio.fading_samples)

    def _set_constants(self, config: NetworkConfig) -> None:
        """What the kernels read and nothing changes."""
        radio, varies = config.radio, channel.VARIATIONS[config.radio.path_loss]
        left, low, right, high = self.topology.area_m
        across_m = float(np.hypot(right - left, high - low))
        self._table = channel.tabulate(radio, across_m, TABLE_STEP_M)
        self._correlation_m = np.array(
            [
                varies.state_correlation_m / channel.SMOOTH_LENGTHS,
                varies.los_correlation_m,
                varies.nlos_correlation_m,
            ]
        )
        self._power = link.power_control(radio)
        self._spread = link.fading_spread(radio)
        self._ladder = link.ladder(radio)
        self._grid = link.ladder_grid()
        self._rule = np.array(
            [
                channel.NEPER_PER_DB * radio.handover_hysteresis_db,
                radio.handover_time_to_trigger_s,
                self._frame_s,
                across_m / 2.0,
            ]
        )
        self._cell_noise_w = link.noise_w(self.block_hz, radio.cell_noise_figure_db)
        self._constants = np.array(
            [
                link.noise_w(self.block_hz, radio.end_noise_figure_db),
                self._cell_noise_w,
                config.sensing.margin_sigma,
                radio.power_control_alpha,
            ]
        )
        self._log_power = np.log([self._power[0], self._power[2], self.block_power_w])
        self._attenuation_max = channel.NEPER_PER_DB * channel.ATTENUATION_MAX_DB
        self._drop_m = radio.cell_height_m - radio.end_height_m
        self._rician_k = db_to_linear(radio.rician_k_db)
        self._doppler = link.doppler(radio.carrier_hz, self._frame_s)
        self._first_sounding = np.full(config.ends, float(config.sensing.sounding_blocks))

    def _set_state(self, users: int, cells: int, candidates: int, samples: int) -> None:
        """What the kernels carry from frame to frame."""
        self._latent = self._channel_normals.take(2 * users * cells).reshape(users, cells, 2).copy()
        self._shadow = self._channel_normals.take(users * cells).reshape(users, cells).copy()
        self._los = np.zeros((users, cells), dtype=np.bool_)
        self._log_gain = np.zeros((users, cells))
        self._gain = np.zeros((users, cells))
        self._memory = np.zeros((users, cells, 4))
        self._known_los = np.zeros((users, cells), dtype=np.bool_)
        self._moved_m = np.zeros(users)
        self._serving = np.full(users, -1, dtype=np.int64)
        self._rival = np.full(users, -1, dtype=np.int64)
        self._waited_s = np.zeros(users)
        self._position: Float[np.ndarray, "user 2"] | None = None
        self._was = np.full((users, candidates), -1, dtype=np.int64)
        self._fading = np.zeros((2, users, candidates, samples, 2))
        self._faded = np.zeros((users, candidates, samples))
        self._downlink = np.zeros(users)
        self._uplink = np.zeros(cells)
        self._own_w = np.zeros(users)
        self._seen = np.zeros((2, users, candidates))
        self._seen_downlink = np.zeros(users)

    def advance(self, load: Load) -> NetworkState:
        """Move one frame on, the first call to frame 0, and describe it.

        Pilots that ``load`` spent count as measured at the start of this frame. Interference follows the uses of
        ``load``. Cells of ``load.health`` that are down send nothing and are never candidates; while sensing is down no
        pilot is measured. All arrays of the result are its own: later calls don't change them.
        """
        position, velocity = self._mobility.step()
        up = np.ascontiguousarray(load.health.cell_up)
        downlink_w = self.block_power_w * load.downlink_use * up
        uplink_cell = np.ascontiguousarray(load.uplink_cell, dtype=np.int64)
        self._propagate(position)
        interfere(
            self._log_gain, self._gain, downlink_w, np.ascontiguousarray(load.uplink_use), uplink_cell, self._power,
            self._downlink, self._uplink, self._own_w,
        )  # fmt: skip
        self._sound(position, load)
        users, candidates = self._was.shape
        candidate = np.empty((users, candidates), dtype=np.int64)
        handover = np.empty(users, dtype=np.bool_)
        associate(
            self._memory, self._known_los, self._moved_m, up, downlink_w, self._table, TABLE_STEP_M,
            self._correlation_m, self._rule, self._serving, self._rival, self._waited_s, candidate, handover,
            self._seen[0], self._seen[1], self._seen_downlink,
        )  # fmt: skip
        out = np.empty((9, users, candidates))
        old, new = self._fading[self._frame % 2], self._fading[(self._frame + 1) % 2]
        connect(
            candidate, position, velocity, self.topology.cell_xy_m, self._drop_m, self._los, self._known_los,
            self._log_gain, self._gain, downlink_w, self._downlink, self._uplink, self._own_w, uplink_cell,
            self._seen, self._seen_downlink, self._rician_k, self._doppler, self._constants, self._log_power,
            self._ladder, self._grid, self._was, old, self._fading_normals.take(new.size).reshape(new.shape), new,
            self._faded, out,
        )  # fmt: skip
        self._was, self._position = candidate, position
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

    def _propagate(self, position: Float[np.ndarray, "user 2"]) -> None:
        normals = self._channel_normals.take(3 * self._gain.size).reshape(*self._gain.shape, 3)
        propagate(
            position, position if self._position is None else self._position, normals, self.topology.cell_xy_m,
            self.topology.cell_azimuth_rad, self._table, TABLE_STEP_M, self._correlation_m, self._attenuation_max,
            channel.BEAMWIDTH_RAD, self._latent, self._shadow, self._los, self._log_gain, self._gain, self._moved_m,
        )  # fmt: skip

    def _sound(self, position: Float[np.ndarray, "user 2"], load: Load) -> None:
        """Measure the users whose pilots were paid for; at frame 0 all of them, whatever works."""
        pilots = self._first_sounding if self._frame == 0 else np.ascontiguousarray(load.sounding_block)
        sounded = int(np.count_nonzero(pilots > 0.0))
        if sounded == 0 or (self._frame > 0 and not load.health.sensing_up):
            return
        cells = self._gain.shape[1]
        normals = self._sounding_normals.take(sounded * cells).reshape(sounded, cells)
        sound(
            position, self.topology.cell_xy_m, self._table, TABLE_STEP_M, pilots, self._serving, self._shadow,
            self._los, self._log_gain, self._gain, self._cell_noise_w + self._uplink, self._power, self._spread,
            self._memory, self._known_los, self._moved_m, normals,
        )  # fmt: skip
