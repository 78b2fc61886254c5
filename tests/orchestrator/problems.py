"""Random matching problems, shaped as a network makes them: coupled radio, compute, backhaul and memory rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gainnet.orchestrator.problem import Problem

END, EDGE, CLOUD = 0, 1, 2
VARIANT_QUALITY = (0.55, 0.8, 1.0)
VARIANT_WORK = (0.15, 0.5, 1.5)
VARIANT_BYTE = (1.0, 3.0, 8.0)


@dataclass(frozen=True)
class Column:
    """One pattern in the making."""

    value: float
    demand: dict[int, float]
    setup: tuple[int, int]
    tier: int
    nearest: bool


@dataclass
class Rows:
    """Rows and set-ups, numbered as they are first named."""

    index: dict[tuple[object, ...], int] = field(default_factory=dict)

    def __call__(self, *name: object) -> int:
        return self.index.setdefault(name, len(self.index))


def assemble(
    tasks: Sequence[Sequence[Column]],
    capacity: np.ndarray,
    setups: Sequence[tuple[int, float, float]] = (),
) -> Problem:
    """A Problem from columns by task; ``setups`` are (row, size, cost)."""
    columns = [column for task in tasks for column in task]
    lengths = [len(column.demand) for column in columns]
    entries = [(row, amount) for column in columns for row, amount in sorted(column.demand.items())]
    return Problem(
        task_ptr=np.concatenate([[0], np.cumsum([len(task) for task in tasks])]).astype(np.int64),
        value=np.array([column.value for column in columns], dtype=np.float64),
        demand_ptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        demand_row=np.array([row for row, _ in entries], dtype=np.int64),
        demand_amount=np.array([amount for _, amount in entries], dtype=np.float64),
        capacity=np.asarray(capacity, dtype=np.float64),
        row_id=np.arange(len(capacity), dtype=np.int64),
        setup=np.array([column.setup for column in columns], dtype=np.int64).reshape(-1, 2),
        setup_row=np.array([row for row, _, _ in setups], dtype=np.int64),
        setup_size=np.array([size for _, size, _ in setups], dtype=np.float64),
        setup_cost=np.array([cost for _, _, cost in setups], dtype=np.float64),
        tier=np.array([column.tier for column in columns], dtype=np.int64),
        nearest=np.array([column.nearest for column in columns], dtype=np.int64),
    )


def network(
    rng: np.random.Generator,
    tasks: int,
    scarcity: float = 1.0,
    *,
    cells: int = 4,
    edges: int = 6,
    slots: int = 2,
    setup_cost: float = 0.5,
    value_scale: float = 1.0,
) -> Problem:
    """One frame of a cloud-edge-end network. ``scarcity`` 0 leaves all rows loose, 1 contends, 3 starves.

    Each task sees its two strongest cells and can compute at its own end (a private row), at the edges of these cells,
    at one more edge over backhaul, or in the cloud, with one of three model variants and possibly its service's
    adapter. Edge memory holds weights (set-ups) and KV caches of the requests (pattern demands) in the same row.
    """
    rows, setups = Rows(), Rows()
    columns = [_task_columns(rng, rows, setups, task, cells, edges, slots) for task in range(tasks)]
    names, capacity = list(rows.index), np.zeros(len(rows.index))
    for task in columns:
        for column in task:
            for row, amount in column.demand.items():
                capacity[row] += amount / len(task)
    if scarcity > 0.0:
        capacity *= rng.uniform(0.6, 1.6, len(capacity)) / scarcity
    else:
        capacity *= 1e6
    for index, name in enumerate(names):
        if name[0] == "end":
            capacity[index] = 1.0
    table = []
    for name in setups.index:
        row = rows.index.get(("memory", name[0]), -1)
        table.append((row, 0.0, setup_cost * value_scale * float(rng.choice([0.0, 0.2, 1.0]))))
        if row >= 0:
            size = VARIANT_BYTE[int(name[2])] if name[1] == "model" else 0.3
            table[-1] = (row, size, table[-1][2])
            capacity[row] += size * min(1.0, 1.0 / max(scarcity, 0.5))
    scaled = [[Column(c.value * value_scale, c.demand, c.setup, c.tier, c.nearest) for c in task] for task in columns]
    return assemble(scaled, capacity, table)


def _task_columns(
    rng: np.random.Generator, rows: Rows, setups: Rows, task: int, cells: int, edges: int, slots: int
) -> list[Column]:
    bits, work = rng.uniform(0.5, 2.0), rng.uniform(0.3, 2.0)
    # Big tasks are worth more, as they are to the network's users: else taking the most valuable first is near optimal.
    weight = (0.5 * bits + work) * rng.uniform(0.7, 1.4)
    cache, service = rng.uniform(0.05, 0.4), int(rng.integers(4))
    seen = [int(cell) for cell in rng.permutation(cells)[:2]]
    efficiency = np.sort(rng.uniform(0.5, 6.0, 2))[::-1]
    slot = int(rng.integers(slots))
    columns = [
        Column(weight * VARIANT_QUALITY[v] * 0.9, {rows("end", task): VARIANT_WORK[v] * work}, (-1, -1), END, False)
        for v in (0, 1)
        if VARIANT_WORK[v] * work < 0.5
    ]
    for rank, cell in enumerate(seen):
        radio = {rows("radio", cell, slot): bits / float(efficiency[rank])}
        places = [cell % edges, int(rng.integers(edges)), edges]
        for place in dict.fromkeys(places):
            for v in range(3):
                tier = CLOUD if place == edges else EDGE
                demand = dict(radio)
                demand[rows("compute", place, slot)] = work * VARIANT_WORK[v] * rng.uniform(0.8, 1.2)
                if place != cell % edges:
                    demand[rows("backhaul", cell, slot)] = bits
                setup = (-1, -1)
                if tier == EDGE:
                    demand[rows("memory", place)] = cache * VARIANT_BYTE[v]
                    adapter = setups(place, "adapter", service) if v == 1 else -1
                    setup = (setups(place, "model", v), adapter)
                value = weight * VARIANT_QUALITY[v] - 0.05 * work * VARIANT_WORK[v] - 0.02 * tier
                columns.append(Column(value, demand, setup, tier, rank == 0 and place == cell % edges))
    return columns


def assignment(rng: np.random.Generator, agents: int, jobs: int) -> Problem:
    """A generalised-assignment instance of class D (cost and demand anti-correlated), as maximisation."""
    demand = rng.integers(1, 100, (agents, jobs)).astype(np.float64)
    cost = 111.0 - demand + rng.integers(-10, 11, (agents, jobs))
    capacity = np.floor(0.8 * demand.sum(axis=1) / agents)
    tasks = [
        [Column(1000.0 - cost[a, job], {a: demand[a, job]}, (-1, -1), EDGE, False) for a in range(agents)]
        for job in range(jobs)
    ]
    return assemble(tasks, capacity)
