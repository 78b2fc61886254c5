"""The matching problem of one frame: tasks, their patterns, and the pool rows they draw on.

Maximise ``sum_p value_p x_p - sum_m cost_m y_m`` subject to

- at most one pattern a task (none is a refusal),
- ``sum_p demand_rp x_p + sum_m size_rm y_m <= capacity_r`` for every row r,
- ``x_p <= y_m`` for every set-up m (a model or an adapter at a node) that pattern p needs.

It is a multi-dimensional multiple-choice knapsack with set-up. Everything is a NumPy struct of arrays, so that the
matchers can be vectorised or compiled, and nothing in here knows what a row or a pattern means in the network: the
same matchers answer a generalised-assignment instance from a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, slots=True)
class Problem:
    """One frame's matching problem. Patterns are sorted by task; every array is C-contiguous.

    Attributes:
        task_ptr: patterns of task i are ``task_ptr[i]:task_ptr[i + 1]``.
        value: net value of each pattern (its utility less its running cost), any finite number.
        demand_ptr: the CSR pointer: pattern p draws ``demand_amount[k]`` on row ``demand_row[k]`` for
            k in ``demand_ptr[p]:demand_ptr[p + 1]``; a row appears at most once in a pattern.
        demand_row: row index of each entry.
        demand_amount: amount of each entry, > 0, in the row's unit.
        capacity: what is left of each row, >= 0, in the row's unit.
        row_id: a name for each row that stays the same from frame to frame (prices are warm-started by it).
        setup: the set-ups that a pattern needs, -1 for none.
        setup_row: the memory row that each set-up draws on, -1 for none.
        setup_size: what it draws, in the unit of that row.
        setup_cost: its cost, paid once if any chosen pattern needs it; 0 where the model is resident already.
        tier: where the pattern computes: 0 end, 1 edge, 2 cloud; -1 where it is no choice (a learning task trains at its
            end and is aggregated above it). Only the fixed-tier matchers read it.
        nearest: whether the pattern uses the strongest cell and computes at that cell's own edge.
    """

    task_ptr: Int[np.ndarray, " task_edge"]
    value: Float[np.ndarray, " pattern"]
    demand_ptr: Int[np.ndarray, " pattern_edge"]
    demand_row: Int[np.ndarray, " entry"]
    demand_amount: Float[np.ndarray, " entry"]
    capacity: Float[np.ndarray, " row"]
    row_id: Int[np.ndarray, " row"]
    setup: Int[np.ndarray, "pattern 2"]
    setup_row: Int[np.ndarray, " setup"]
    setup_size: Float[np.ndarray, " setup"]
    setup_cost: Float[np.ndarray, " setup"]
    tier: Int[np.ndarray, " pattern"]
    nearest: Int[np.ndarray, " pattern"]

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_ptr) - 1

    @property
    def patterns(self) -> int:
        """Number of patterns, over all tasks."""
        return len(self.value)

    @property
    def rows(self) -> int:
        """Number of rows that at least one pattern or set-up draws on."""
        return len(self.capacity)

    @property
    def setups(self) -> int:
        """Number of set-ups."""
        return len(self.setup_row)
