"""Faults of a scenario as a schedule: what works in each frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from gainnet.network.state import Health
from gainnet.network.topology import Topology
from gainnet.rng import stream
from gainnet.scenario.execution import (
    CellOutage,
    ControllerOutage,
    DemandSurge,
    EdgeDown,
    EndDown,
    Fault,
    LinkDegradation,
    SensingOutage,
)


class Schedule:
    """The health of a network at any time of the run.

    Args:
        faults: what fails, and when.
        topology: cells, fixed machines and links.
        ends: how many ends there are.
        seed: of the run; ends that fail are drawn from its stream ``faults``.
    """

    def __init__(self, faults: Sequence[Fault], topology: Topology, *, ends: int, seed: int) -> None:
        self._faults = faults
        self._topology = topology
        self._ends = ends
        rng = stream(seed, "faults")
        self._down = [_ends_of(fault, ends, rng) for fault in faults]
        self._changes = np.unique([time for fault in faults for time in (fault.begin_s, fault.end_s)])
        self._interval = -1
        self._health = self._at(-1.0)

    def health(self, time_s: float) -> Health:
        """What works at a time; a fault holds from its begin up to, not including, its end."""
        interval = int(np.searchsorted(self._changes, time_s + 1e-9, side="right"))
        if interval != self._interval:
            self._interval = interval
            self._health = self._at(time_s + 1e-9)
        return self._health

    def _at(self, time_s: float) -> Health:
        topology = self._topology
        cell_up = np.ones(len(topology.cell_edge), np.bool_)
        node_up = np.ones(topology.fixed, np.bool_)
        link_factor = np.ones(len(topology.link_a))
        end_up = np.ones(self._ends, np.bool_)
        sensing_up, controller_up, demand_factor = True, True, 1.0
        for fault, down in zip(self._faults, self._down, strict=True):
            if not fault.begin_s <= time_s < fault.end_s:
                continue
            match fault:
                case EdgeDown():
                    node_up[topology.clouds + fault.edge] = False
                case EndDown():
                    end_up[down] = False
                case CellOutage():
                    cell_up[fault.cell] = False
                case SensingOutage():
                    sensing_up = False
                case ControllerOutage():
                    controller_up = False
                case DemandSurge():
                    demand_factor *= fault.factor
                case LinkDegradation():
                    node = None if fault.edge is None else topology.clouds + fault.edge
                    touched = (topology.link_a == node) | (topology.link_b == node)
                    link_factor[touched if node is not None else slice(None)] *= fault.factor
        return Health(cell_up, node_up, link_factor, end_up, sensing_up, demand_factor, controller_up)


def _ends_of(fault: Fault, ends: int, rng: np.random.Generator) -> Int[np.ndarray, " down"]:
    """The ends that a fault takes down; a fraction is of all, rounded, and at least one."""
    if not isinstance(fault, EndDown):
        return np.empty(0, np.int64)
    if fault.ends is not None:
        return np.array(fault.ends, np.int64)
    assert fault.fraction is not None
    return np.sort(rng.permutation(ends)[: max(1, round(fault.fraction * ends))])
