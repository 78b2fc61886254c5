"""Patterns of two models as the fluid model runs them: drafts as stages of their own, deferred answers as a second try.

A speculation is the larger model's whole request whose decoding verifies drafts; the drafting machine's time, and the
crossings of all rounds, are one more stage behind it. Both take turns in reality, so their sum is the same. A cascade
is the smaller model's whole request; when that has ended, some are deferred, and enter as the larger model's with the
next frame. What is to be deferred is not committed above before. Images that are begun elsewhere wait for it, and have
fewer steps; the other machine's first steps are nobody's, since they are for several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gainnet.demand.task import Tasks
from gainnet.execution import running_kernel as rk
from gainnet.execution.outcome import Result
from gainnet.execution.table import Ledger, Table, concatenate
from gainnet.network.state import NetworkState
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.pool import Pool
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import TEXT
from gainnet.orchestrator.ways import Way, Ways


def candidate(pattern: Int[np.ndarray, " description"], user: int, state: NetworkState) -> int:
    """Where a pattern's cell stands among the user's candidates now; the first where it is none of them any more."""
    if pattern[sk.CELL] < 0:
        return int(pattern[sk.CANDIDATE])
    found = np.flatnonzero(state.candidate[user] == pattern[sk.CELL])
    return int(found[0]) if len(found) else 0


def draft(tables: Tables, pool: Pool, running: rk.Running, row: int, posed: Posed, pattern: int) -> None:
    """Make a row that was just admitted a speculation, or one that is begun elsewhere, where its pattern is such."""
    ways = posed.ways
    if ways is not None and ways.way[pattern] == Way.SHARING:
        _begin_elsewhere(running, row, ways, pattern)
    if ways is None or ways.way[pattern] != Way.SPECULATION:
        return
    ints, kinds, numbers = running.ints[row], running.stage_ints[row], running.stage_floats[row]
    last = int(ints[rk.R_STAGES])
    s = int(np.flatnonzero(kinds[:last, sk.KIND] == sk.DECODE)[0])
    tokens, node = float(ways.tokens[pattern]), int(ways.node[pattern])
    numbers[s, sk.FLOP] *= (ways.length[pattern] + 1.0) / tokens
    numbers[s, [sk.TOKEN_WEIGHT, sk.TOKEN_CACHE]] /= tokens
    numbers[s + 2 : last + 1], kinds[s + 2 : last + 1] = numbers[s + 1 : last].copy(), kinds[s + 1 : last].copy()
    running.stage_end_s[row, s + 2 : last + 1] = running.stage_end_s[row, s + 1 : last].copy()
    running.stage_end_s[row, s + 1] = running.stage_end_s[row, s]
    home = node >= pool.fixed
    machine, draft_s = tables.node[node], float(ways.draft_s[pattern])
    # The kernels charge a stage of training to the user's end, and a transfer to nobody: an edge's drafts are charged here.
    fixed = pool.compute_start + node * pool.compute_parts + (TEXT if pool.compute_parts > 1 else 0)
    kinds[s + 1, sk.KIND] = sk.TRAIN if home else sk.TRANSFER
    kinds[s + 1, sk.RESOURCE] = pool.end_start + node - pool.fixed if home else fixed
    numbers[s + 1] = 0.0
    numbers[s + 1, [sk.AMOUNT, sk.UNIT, sk.WAIT]] = draft_s, 1.0, ways.wait_s[pattern]
    numbers[s + 1, sk.RATE] = min(1.0, draft_s / max(float(ways.drafted_s[pattern]), 1e-12))
    if not home:
        joules = draft_s * float(machine["busy_w"])
        running.floats[row, rk.R_ENERGY] += joules
        price = float(tables.run[0]["energy_price_per_j"])
        running.floats[row, rk.R_COST] += draft_s * float(machine["price_per_s"]) + joules * price
    ints[rk.R_STAGES] = last + 1


def _begin_elsewhere(running: rk.Running, row: int, ways: Ways, pattern: int) -> None:
    """Drawing waits for the first steps, and has the others only."""
    kinds, numbers = running.stage_ints[row], running.stage_floats[row]
    s = int(np.flatnonzero(kinds[: int(running.ints[row, rk.R_STAGES]), sk.KIND] == sk.DENOISE)[0])
    numbers[s, sk.WAIT] += ways.drafted_s[pattern] + ways.wait_s[pattern]
    numbers[s, sk.AMOUNT] *= 1.0 - float(ways.deferred[pattern])


@dataclass(frozen=True, slots=True)
class Deferred:
    """Tasks whose smaller model was not sure, and the larger model's patterns for them.

    Attributes:
        tasks: the tasks.
        ints: descriptions of the patterns.
        floats: their numbers.
    """

    tasks: Tasks
    ints: Int[np.ndarray, "task description"]
    floats: np.ndarray


class Cascades:
    """The cascades that run, and what they deferred.

    Attributes:
        waiting: deferred tasks that enter with the next frame; None without any.
    """

    def __init__(self) -> None:
        self._running: dict[int, tuple[Posed, int]] = {}
        self.waiting: Deferred | None = None

    def begun(self, task: int, posed: Posed, pattern: int) -> None:
        """A task takes a pattern, whatever its way."""
        if posed.ways is not None and posed.ways.way[pattern] == Way.CASCADE:
            self._running[task] = posed, pattern
        else:
            self._running.pop(task, None)

    def ended(
        self, table: Table, ledger: Ledger, left: Int[np.ndarray, " left"], rng: np.random.Generator
    ) -> Int[np.ndarray, " row"]:
        """Of the rows that have ended those that are deferred, whose use so far is booked."""
        if not self._running:
            return np.empty(0, np.int64)
        ints, again = table.running.ints, []
        for row in left.tolist():
            found = self._running.pop(int(ints[row, rk.R_TASK]), None)
            if found is None or ints[row, rk.R_RESULT] not in (Result.SERVED, Result.LATE):
                continue
            posed, pattern = found
            assert posed.ways is not None, "a cascade is one of the ways"
            if rng.random() < posed.ways.deferred[pattern]:
                ledger.add(table, row, retry=0)
                self._wait(table.task(row), posed, int(posed.ways.upper[pattern]))
                again.append(row)
        return np.array(again, np.int64)

    def take(self) -> Deferred | None:
        """What is to enter now."""
        taken, self.waiting = self.waiting, None
        return taken

    def _wait(self, task: Tasks, posed: Posed, upper: int) -> None:
        ints, floats, before = posed.ints[[upper]], posed.floats[[upper]], self.waiting
        if before is None:
            self.waiting = Deferred(task, ints, floats)
        else:
            self.waiting = Deferred(
                concatenate(before.tasks, task),
                np.concatenate([before.ints, ints]),
                np.concatenate([before.floats, floats]),
            )
