"""What a person writes about the network: sites, streets, radio, sensing, backhaul, machines.

dB and dBm live here and in reports only; `gainnet.network` converts them once, when it is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gainnet.scenario.hardware import BaseStation, Hardware, base_station, hardware
from gainnet.scenario.quantity import Count, Finite, Fraction, NonNegative, Positive, PositiveFraction, Section


class Hexagonal(Section):
    """Sites on a hexagonal grid, filled ring by ring from the centre, each with one or three sectors."""

    kind: Literal["hexagonal"] = "hexagonal"
    sites: Count = 7
    inter_site_m: Positive = 200.0
    sectors: Literal[1, 3] = 1


class Manhattan(Section):
    """A grid of streets; cells stand at street corners, spread as evenly as the grid allows."""

    kind: Literal["manhattan"] = "manhattan"
    blocks_x: Count = 4
    blocks_y: Count = 4
    block_x_m: Positive = 150.0
    block_y_m: Positive = 150.0
    cells: Count = 13

    @model_validator(mode="after")
    def _cells_fit(self) -> Self:
        corners = (self.blocks_x + 1) * (self.blocks_y + 1)
        if self.cells > corners:
            raise ValueError(f"cells = {self.cells}, but the streets have {corners} corners (sites): give at most that")
        return self


class Site(Section):
    """One cell at a given place; an azimuth makes it a sector, none makes it omnidirectional."""

    x_m: Finite
    y_m: Finite
    azimuth_deg: Finite | None = None


class Explicit(Section):
    """Cells where the scenario says."""

    kind: Literal["explicit"] = "explicit"
    cells: Annotated[tuple[Site, ...], Field(min_length=1)]
    margin_m: NonNegative = 100.0


Topology = Annotated[Hexagonal | Manhattan | Explicit, Field(discriminator="kind")]


class ManhattanMobility(Section):
    """Vehicles on the street grid of a Manhattan topology: they follow streets and turn at corners."""

    kind: Literal["manhattan"] = "manhattan"
    speed_mean_m_per_s: Positive = 11.0
    speed_std_m_per_s: NonNegative = 3.0
    turn_probability: Fraction = 0.5


class WaypointMobility(Section):
    """Random waypoint in the area of the topology."""

    kind: Literal["waypoint"] = "waypoint"
    speed_min_m_per_s: Positive = 0.5
    speed_max_m_per_s: Positive = 2.0
    pause_max_s: NonNegative = 10.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.speed_max_m_per_s < self.speed_min_m_per_s:
            raise ValueError("speed_max_m_per_s must be at least speed_min_m_per_s")
        return self


class TraceMobility(Section):
    """Recorded positions: a CSV file with the columns time_s, end, x_m, y_m, linearly interpolated."""

    kind: Literal["trace"] = "trace"
    path: Path


class SumoMobility(Section):
    """A SUMO configuration, recorded once and replayed (extra ``sumo``).

    Positions are shifted so that the centre of the recorded traffic is the centre of the topology. ``begin_s`` None
    starts at the configuration's own begin time plus ``warmup_s``.
    """

    kind: Literal["sumo"] = "sumo"
    path: Path
    begin_s: NonNegative | None = None
    warmup_s: NonNegative = 300.0


Mobility = Annotated[ManhattanMobility | WaypointMobility | TraceMobility | SumoMobility, Field(discriminator="kind")]


class Radio(Section):
    """Carrier, propagation, power control and hand-over. Uplink, downlink and sensing share the band in time (TDD).

    ``power_budget`` is the fraction of a cell's greatest transmit energy that its downlink and its own radar may spend.
    """

    carrier_hz: Annotated[float, Field(ge=0.5e9, le=100e9)] = 3.5e9
    bandwidth_hz: Positive = 40e6
    subcarrier_hz: Positive = 30e3
    path_loss: Literal["umi", "uma", "rma"] = "umi"
    base_station: BaseStation | str = "micro"
    cell_height_m: Annotated[float, Field(ge=5.0, le=150.0)] = 10.0
    end_height_m: Annotated[float, Field(ge=1.0, le=10.0)] = 1.5
    antenna: Literal["omni", "sector"] = "omni"
    antenna_gain_dbi: Finite = 8.0
    end_antenna_gain_dbi: Finite = 0.0
    cell_noise_figure_db: NonNegative = 5.0
    end_noise_figure_db: NonNegative = 9.0
    power_budget: PositiveFraction = 1.0
    end_power_max_dbm: Finite = 23.0
    power_control_p0_dbm: Finite = -85.0
    power_control_alpha: Fraction = 0.8
    candidates: Annotated[int, Field(ge=1, le=8)] = 2
    fading_samples: Annotated[int, Field(ge=1, le=16)] = 4
    rician_k_db: Finite = 9.0
    handover_hysteresis_db: NonNegative = 3.0
    handover_time_to_trigger_s: NonNegative = 0.16
    handover_interruption_s: NonNegative = 0.05

    @model_validator(mode="after")
    def _one_resource_block(self) -> Self:
        base_station(self.base_station, "base_station")
        if self.bandwidth_hz < 12.0 * self.subcarrier_hz:
            raise ValueError("bandwidth_hz must hold at least one resource block of 12 subcarriers")
        return self


class Sensing(Section):
    """What may be spent on knowing: channel sounding of ends, and OFDM radar for perception tasks.

    ``sounding_share`` of each cell's resource blocks may go to pilots; a sounded end's gain is measured with an error
    that falls with what was spent, and then goes stale as the end moves. ``margin_sigma`` standard deviations of that
    error are held back when the orchestrator turns an observed gain into a rate.
    """

    sounding_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.04
    sounding_blocks: Count = 2
    margin_sigma: NonNegative = 0.5
    radar_carrier_gain_dbi: Finite = 12.0
    end_radar_gain_dbi: Finite = 6.0
    target_cross_section_dbsm: Finite = 11.25
    false_alarm_probability: Annotated[float, Field(gt=0.0, lt=0.5)] = 1e-6
    blocks: Annotated[tuple[Count, ...], Field(min_length=1)] = (4, 12, 40)
    symbols: Annotated[tuple[Count, ...], Field(min_length=1)] = (14, 28, 56)
    range_error_max_m: Positive = 1.0

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.blocks) != len(self.symbols):
            raise ValueError("blocks and symbols are the sensing levels, one pair each: give both the same length")
        return self


class Backhaul(Section):
    """Links between machines: every edge to the cloud, and a ring through the edges where ``ring_bit_per_s`` is given."""

    cloud_bit_per_s: Positive = 1e9
    cloud_latency_s: NonNegative = 0.02
    ring_bit_per_s: Positive | None = 1e9
    ring_latency_s: NonNegative = 0.002


class Machine(Section):
    """The machines of one tier: their hardware, and the models that are loaded at the start."""

    hardware: Hardware | str
    count: Count = 1
    resident: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        hardware(self.hardware, "hardware")
        return self


class Network(Section):
    """The physical network of a scenario.

    Ends may differ: the factors ``end_scale`` are dealt out to them in turn, and each end's machine has so many times the
    speed, memory bandwidth and memory of ``end.hardware``.
    """

    topology: Topology
    mobility: Mobility
    ends: Annotated[int, Field(ge=1, le=100_000)]
    cells_per_edge: Count = 1
    radio: Radio = Radio()
    sensing: Sensing = Sensing()
    backhaul: Backhaul = Backhaul()
    end: Machine
    edge: Machine
    cloud: Machine
    end_scale: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    load_initial: PositiveFraction = 0.3

    @property
    def cells(self) -> int:
        """Number of cells of the topology."""
        match self.topology:
            case Hexagonal():
                return self.topology.sites * self.topology.sectors
            case Manhattan():
                return self.topology.cells
            case Explicit():
                return len(self.topology.cells)

    @property
    def edges(self) -> int:
        """Number of edge nodes: every ``cells_per_edge`` consecutive cells share one."""
        return -(-self.cells // self.cells_per_edge)

    @model_validator(mode="after")
    def _streets_where_vehicles_drive(self) -> Self:
        if self.mobility.kind == "manhattan" and self.topology.kind != "manhattan":
            raise ValueError("mobility.kind = manhattan needs topology.kind = manhattan (use waypoint, trace or sumo)")
        if self.end.count != 1:
            raise ValueError("end.count must be 1: each end is one machine (network.ends says how many ends there are)")
        return self
