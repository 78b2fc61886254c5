"""Outcomes put together: of tasks that are not in the table any more or never were, and of several lots in one."""

from __future__ import annotations

import dataclasses

import numpy as np

from gainnet.demand.task import Tasks
from gainnet.execution.outcome import Outcomes, Result
from gainnet.execution.table import Ledger


def never_ran(tasks: Tasks, result: Result, time_s: float, ledger: Ledger) -> Outcomes:
    """Outcomes of tasks that are not in the table, with what earlier attempts used."""
    n = len(tasks)
    earlier = ledger.of(tasks.task_id)
    none = np.full(n, -1)
    return Outcomes(
        task_id=tasks.task_id,
        service=tasks.service,
        user=tasks.user,
        result=np.full(n, int(result)),
        arrival_s=tasks.arrival_s,
        deadline_s=tasks.deadline_s,
        end_s=np.full(n, time_s),
        start_s=earlier.start_s,
        quality=np.zeros(n),
        quality_min=tasks.quality_min,
        value=tasks.value,
        energy_j=earlier.energy_j,
        cost=earlier.cost,
        node=none,
        tier=none,
        cell=none,
        model=none,
        sensing=np.zeros(n, np.int64),
        handover=earlier.handover,
        retry=earlier.retry,
    )


def join(first: Outcomes | None, second: Outcomes | None) -> Outcomes:
    """Both, in this order; an empty one where there is none."""
    parts = [part for part in (first, second) if part is not None]
    if len(parts) == 1:
        return parts[0]
    return Outcomes(*(np.concatenate([getattr(part, name) for part in parts or [NOTHING]]) for name in OUTCOME_FIELDS))


OUTCOME_FIELDS = {
    field.name: np.float64 if "Float" in str(field.type) else np.int64 for field in dataclasses.fields(Outcomes)
}
NOTHING = Outcomes(*(np.empty(0, dtype) for dtype in OUTCOME_FIELDS.values()))
