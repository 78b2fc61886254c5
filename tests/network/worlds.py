"""Small networks and loads for the radio tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from gainnet.network.network import Network
from gainnet.network.state import Health, Load
from gainnet.scenario.network import Hexagonal, Machine, Manhattan, ManhattanMobility, Radio, Sensing, WaypointMobility
from gainnet.scenario.network import Network as Config

FRAME_S = 0.1
MACHINES: dict[str, Any] = {
    "end": Machine(hardware="phone-soc"),
    "edge": Machine(hardware="edge-accelerator"),
    "cloud": Machine(hardware="cloud-accelerator"),
}
STROLL = WaypointMobility(speed_min_m_per_s=1.0, speed_max_m_per_s=10.0, pause_max_s=0.0)


def config(ends: int = 200, **changes: Any) -> Config:
    """Seven omnidirectional sites, strolling ends and three candidate cells, with changes."""
    given = {"topology": Hexagonal(), "mobility": STROLL, "ends": ends, "radio": Radio(candidates=3), **MACHINES}
    return Config(**(given | changes))


def streets(ends: int = 200, **changes: Any) -> Config:
    """Vehicles on a grid of streets with 13 cells."""
    return config(ends, topology=Manhattan(), mobility=ManhattanMobility(), **changes)


def network(given: Config, seed: int = 1, duration_s: float = 60.0) -> Network:
    return Network(given, seed=seed, frame_s=FRAME_S, duration_s=duration_s)


def load(
    net: Network,
    users: int,
    *,
    downlink: float = 0.3,
    uplink: float = 0.0,
    uplink_cell: Any = None,
    sounding: float = 0.0,
    up: Any = None,
    sensing_up: bool = True,
) -> Load:
    """A load under which every cell and every user does the same."""
    cells, fixed = len(net.topology.cell_edge), net.topology.fixed
    nodes = fixed + users
    return Load(
        downlink_use=np.full(cells, downlink),
        uplink_use=np.full(users, uplink),
        uplink_cell=np.full(users, -1) if uplink_cell is None else np.asarray(uplink_cell),
        sounding_block=np.full(users, sounding),
        batch=np.ones((nodes, 1)),
        resident=np.zeros((nodes, 1), dtype=bool),
        ready_s=np.full((nodes, 1), np.inf),
        pinned=np.zeros((nodes, 1), dtype=np.int64),
        used_s=np.zeros((nodes, 1)),
        committed=np.zeros(1),
        memory_used_byte=np.zeros(nodes),
        health=Health(
            cell_up=np.ones(cells, dtype=bool) if up is None else np.asarray(up),
            node_up=np.ones(fixed, dtype=bool),
            link_factor=np.ones(len(net.topology.link_a)),
            end_up=np.ones(users, dtype=bool),
            sensing_up=sensing_up,
        ),
    )


__all__ = ["FRAME_S", "Radio", "Sensing", "config", "load", "network", "streets"]
