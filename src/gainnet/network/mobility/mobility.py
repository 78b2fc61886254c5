"""The protocol that every mobility follows, and the choice among them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gainnet.network.mobility.replay import Replay
from gainnet.network.mobility.street import Street
from gainnet.network.mobility.sumo import record
from gainnet.network.mobility.trace import read
from gainnet.network.mobility.waypoint import Waypoint
from gainnet.network.topology import Topology
from gainnet.scenario.network import (
    Manhattan,
    ManhattanMobility,
    Network,
    SumoMobility,
    TraceMobility,
    WaypointMobility,
)


@runtime_checkable
class Mobility(Protocol):
    """Where the ends are, frame after frame."""

    def step(self) -> tuple[Float[np.ndarray, "user 2"], Float[np.ndarray, "user 2"]]:
        """Position (m) and velocity (m/s) at the next frame, the first call at time zero; fresh arrays."""
        ...


def build(
    config: Network, topology: Topology, *, generator: np.random.Generator, frame_s: float, duration_s: float
) -> Mobility:
    """The mobility of a scenario.

    Raises:
        TraceError: a trace file is malformed, too short or has too few ends.
        InputError: a SUMO configuration cannot be recorded, or has too few vehicles.
    """
    kind = config.mobility
    if isinstance(kind, ManhattanMobility):
        assert isinstance(config.topology, Manhattan)
        return Street(kind, config.topology, config.ends, generator, frame_s)
    if isinstance(kind, WaypointMobility):
        return Waypoint(kind, topology.area_m, config.ends, generator, frame_s)
    if isinstance(kind, TraceMobility):
        return Replay(read(kind.path, ends=config.ends, frame_s=frame_s, duration_s=duration_s))
    assert isinstance(kind, SumoMobility)
    return Replay(record(kind, topology.area_m, ends=config.ends, frame_s=frame_s, duration_s=duration_s))
