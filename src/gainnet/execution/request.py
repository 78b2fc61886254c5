"""Real requests: what is remembered of each from its decision to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Int

from gainnet.demand.task import Tasks
from gainnet.execution.lots import NOTHING, OUTCOME_FIELDS
from gainnet.execution.outcome import Outcomes, Result
from gainnet.execution.table import FIELDS, NO_TASKS
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.pattern_kernel import ACCURACY, QUALITY
from gainnet.orchestrator.posed import Posed

_OF_TASK = tuple({field.name for field in fields(Tasks)} & set(OUTCOME_FIELDS))


@dataclass(slots=True, eq=False)
class Request:
    """A request that was accepted.

    Attributes:
        task: its task_id.
        posed: the problem in which it was decided.
        place: its place in that problem.
        patterns: the chosen pattern, then where to go if that fails; indices into the problem.
        asked_s: when it was decided.
        deadline_s: when it is due.
        rank: which of the patterns carries it out.
        start_s: when it was first sent, nan before.
        retry: how often it was sent again.
        result: how it ended, None before.
        end_s: when.
        failed_s: when the last try failed without an answer having begun; nan while one is under way.
        output_token: what was generated.
        row: its row in the table of the fluid model, -1 where it has none.
        model_s: when the model was through with it, nan before.
        decode_part: part of its least latency that is decoding.
        energy_j, cost, handover, cell: what it used in rows that it left.
    """

    task: int
    posed: Posed
    place: int
    patterns: tuple[int, ...]
    asked_s: float
    deadline_s: float
    rank: int = 0
    start_s: float = math.nan
    retry: int = 0
    result: Result | None = None
    end_s: float = math.nan
    failed_s: float = math.nan
    output_token: float = math.nan
    row: int = -1
    model_s: float = math.nan
    decode_part: float = 0.0
    energy_j: float = 0.0
    cost: float = 0.0
    handover: int = 0
    cell: int = -1

    def at(self, column: int) -> int:
        """A column of the description of the pattern that carries it out (see `gainnet.orchestrator.stage_kernel`)."""
        return int(self.posed.ints[self.patterns[self.rank], column])

    def of(self, name: str) -> Any:
        """A field of its task."""
        return getattr(self.posed.tasks, name)[self.place]


def outcomes(requests: Sequence[Request], tier: Int[np.ndarray, " node"], time_s: float) -> Outcomes:
    """How requests ended; those that have not are open at ``time_s``. ``tier`` is that of each node."""
    if not requests:
        return NOTHING
    columns = zip(*(_outcome(request, tier, time_s) for request in requests), strict=True)
    return Outcomes(*(np.array(c, t) for c, t in zip(columns, OUTCOME_FIELDS.values(), strict=True)))


def _outcome(request: Request, tier: Int[np.ndarray, " node"], time_s: float) -> tuple[Any, ...]:
    number = request.posed.floats[request.patterns[request.rank]]
    result = Result.OPEN if request.result is None else request.result
    node = request.at(sk.NODE)
    found = {
        **{name: request.of(name) for name in _OF_TASK},
        "result": int(result),
        "end_s": time_s if math.isnan(request.end_s) else request.end_s,
        "start_s": request.start_s,
        "quality": number[QUALITY] / number[ACCURACY] if result in (Result.SERVED, Result.LATE) else 0.0,
        "energy_j": request.energy_j,
        "cost": request.cost,
        "node": node,
        "tier": tier[node],
        "cell": request.at(sk.CELL) if request.cell < 0 else request.cell,
        "model": request.at(sk.MODEL),
        "sensing": 0,
        "handover": request.handover,
        "retry": request.retry,
    }
    return tuple(found[name] for name in OUTCOME_FIELDS)


def tasks_of(requests: Sequence[Request]) -> Tasks:
    """Their tasks, in this order."""
    return Tasks(*(np.array([request.of(name) for request in requests]) for name in FIELDS))


def joined(parts: list[Tasks]) -> Tasks:
    """All of them, in order."""
    if len(parts) <= 1:
        return parts[0] if parts else NO_TASKS
    return Tasks(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))
