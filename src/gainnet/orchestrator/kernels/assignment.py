"""Ejection chains for assignment problems, where every pattern draws on exactly one row and needs no set-up.

Each task sits on one row, so a full row is relieved by moving one task on, which may fill another row, and so forth:
chains of such moves (Yagiura, Ibaraki and Glover 2004) are what fills rows to the brim. A row may be overdrawn on the
way, at a fine that rises until plans are feasible and falls while they are. The search keeps what is better, or worse
by no more than a random allowance (Metropolis).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gainnet.compiled import inner, njit
from gainnet.orchestrator.kernels.columns import SLACK, Columns, Floats, Ints, Words, overwrite
from gainnet.orchestrator.kernels.search import uniform

LENGTH = 6
"""Tasks that a chain moves at most, the last one not counted."""
CHOICES = 10
"""Patterns, those of least regret, that a task may move to."""
WHIM = 3.0
HURDLE = 5.0
"""Loss, in parts of the heat and beyond the allowance, at which a chain is given up."""
WINDOW = 16
FIRST_RATE, LAST_RATE = 0.3, 0.003
"""Parts of the chains that are to be kept, at the start and at the end: the heat follows."""
HEAT, MOST_HEAT = 0.25, 1.0
COOLER, HOTTER = 0.9, 1.1
FIRST_FINE, LEAST_FINE = 1.5, 0.2
"""Fines in parts of a row's price. They have no upper limit: at last a refusal pays, which makes any plan feasible."""
MILDER, HARDER = 0.93, 1.1
FREE = 0.25
"""What counts as the price of a row that is cheaper or free, in parts of the mean price."""


class Board(NamedTuple):
    """The problem by regret, and where every task sits.

    Attributes:
        task_ptr: patterns of task i are ``order[task_ptr[i]:task_ptr[i + 1]]``.
        order: patterns of each task, least regret first.
        regret: what each pattern is worth, net of its priced demand, below its task's best (or its refusal).
        value: value of each pattern.
        row: the row of each pattern.
        share: the share of that row that it draws.
        price: price of each whole row.
        fine: fine for overdrawing each row once over.
        choice: pattern of each task, -1 for none.
        left: share left of each row, < 0 where it is overdrawn.
        first: a task on each row, -1 where it is empty.
        after: the task that follows on the same row, -1 at the end.
        ahead: the task that comes before, -1 at the start.
        mark: last turn whose chain moved each task.
    """

    task_ptr: Ints
    order: Ints
    regret: Floats
    value: Floats
    row: Ints
    share: Floats
    price: Floats
    fine: Floats
    choice: Ints
    left: Floats
    first: Ints
    after: Ints
    ahead: Ints
    mark: Ints


@njit
def stake(columns: Columns) -> float:
    """What the choice of patterns can make a difference of, where every task is served: the ranges of their values."""
    total = 0.0
    for task in range(len(columns.task_ptr) - 1):
        most, least = -np.inf, np.inf
        for p in range(columns.task_ptr[task], columns.task_ptr[task + 1]):
            most, least = max(most, columns.value[p]), min(least, columns.value[p])
        total += max(most - least, 0.0)
    return total


@njit
def by_regret(
    task_ptr: Ints, value: Floats, row: Ints, share: Floats, price: Floats, order: Ints, regret: Floats
) -> float:
    """Fill ``order`` and ``regret`` of a Board; returns the mean regret of a pattern, averaged over the tasks."""
    spread = 0.0
    for task in range(len(task_ptr) - 1):
        start, stop, best = task_ptr[task], task_ptr[task + 1], 0.0
        for p in range(start, stop):
            regret[p] = price[row[p]] * share[p] - value[p]
            best = min(best, regret[p])
        total = 0.0
        for p in range(start, stop):
            regret[p] -= best
            total += regret[p]
            at = p
            while at > start and regret[order[at - 1]] > regret[p]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = p
        spread += total / max(stop - start, 1)
    return spread / max(len(task_ptr) - 1, 1)


@inner
def leave(task: int, board: Board) -> None:
    """Take a task off the list of its row."""
    before, behind = board.ahead[task], board.after[task]
    if before >= 0:
        board.after[before] = behind
    else:
        board.first[board.row[board.choice[task]]] = behind
    if behind >= 0:
        board.ahead[behind] = before


@inner
def join(task: int, board: Board) -> None:
    """Put a task on the list of its row."""
    r = board.row[board.choice[task]]
    behind = board.first[r]
    board.ahead[task], board.after[task], board.first[r] = -1, behind, task
    if behind >= 0:
        board.ahead[behind] = task


@inner
def weigh(board: Board) -> float:
    """Value of the choice; ``left`` is counted anew, free of what rounding has gathered."""
    value = 0.0
    for r in range(len(board.left)):
        board.left[r] = 1.0
    for p in board.choice:
        if p >= 0:
            value += board.value[p]
            board.left[board.row[p]] -= board.share[p]
    return value


@inner
def feasible(left: Floats) -> bool:
    """Whether no row is overdrawn."""
    for amount in left:  # noqa: SIM110  the compiler knows no all()
        if amount < -SLACK:
            return False
    return True


@inner
def fined(r: int, drawn: float, board: Board) -> float:
    """By how much the fines rise when ``drawn`` more of row r is drawn."""
    left = board.left[r]
    return board.fine[r] * (max(0.0, drawn - left) - max(0.0, -left))


@inner
def wanted(task: int, whim: float, board: Board, state: Words) -> int:
    """Another pattern that the task might want: the least regret after noise up to ``whim``; -1 where it has none."""
    start, arg, least = board.task_ptr[task], -1, np.inf
    for k in range(start, min(start + CHOICES, board.task_ptr[task + 1])):
        p = board.order[k]
        if board.regret[p] >= least:
            break
        if p != board.choice[task]:
            regret = board.regret[p] + whim * uniform(state)
            if regret < least:
                arg, least = p, regret
    return arg


@inner
def relieve(
    r: int, turn: int, gain: float, best: float, whim: float, board: Board, state: Words
) -> tuple[float, int, int, float, int, int]:
    """The moves of one task off the overdrawn row r, or to a lighter pattern on it.

    One ends the chain best, one goes on. Returns the gain of the first with its task and pattern (``best`` and -2, -1
    where none is above ``best``; pattern -1 is a refusal), then the expected loss of the second, with its task (-1:
    none) and pattern. A move that goes on is judged by its regret and by what it leaves unused or overdrawn on r alone:
    the next one sees to the row it fills.
    """
    end, last, least, on, to = -2, -1, np.inf, -1, -1
    price, fine, left = board.price[r], board.fine[r], board.left[r]
    task = board.first[r]
    while task >= 0:
        if board.mark[task] != turn:
            p = board.choice[task]
            room = left + board.share[p]
            out = gain - board.value[p] - fined(r, -board.share[p], board)
            if out > best:
                best, end, last = out, task, -1
            start = board.task_ptr[task]
            for k in range(start, min(start + CHOICES, board.task_ptr[task + 1])):
                q, spare = board.order[k], room
                if board.row[q] == r:
                    if board.share[q] >= board.share[p]:
                        continue
                    spare -= board.share[q]
                    settled = out + board.value[q] - fine * (max(0.0, -spare) - max(0.0, -room))
                else:
                    settled = out + board.value[q] - fined(board.row[q], board.share[q], board)
                if settled > best:
                    best, end, last = settled, task, q
                loss = price * max(0.0, spare) + fine * max(0.0, -spare) + board.regret[q] - board.regret[p]
                if loss < least:
                    loss += whim * uniform(state)
                    if loss < least:
                        least, on, to = loss, task, q
        task = board.after[task]
    return best, end, last, least, on, to


@inner
def shift(p: int, q: int, board: Board) -> float:
    """Draw pattern q instead of p (-1: none), on rows only; returns the change of value less fines."""
    gain = 0.0
    if p >= 0:
        gain -= board.value[p] + fined(board.row[p], -board.share[p], board)
        board.left[board.row[p]] += board.share[p]
    if q >= 0:
        gain += board.value[q] - fined(board.row[q], board.share[q], board)
        board.left[board.row[q]] -= board.share[q]
    return gain


@inner
def chain(
    task: int, q: int, turn: int, allowance: float, heat: float, board: Board, moved: Ints, to: Ints, state: Words
) -> int:
    """Move ``task`` to pattern q, then others on, and stop where it is best; rows are drawn on, lists stay.

    Returns the number of moves, which ``moved`` and ``to`` list; 0, and all is as it was, where the value less fines
    would fall by more than ``allowance``.
    """
    p = board.choice[task]
    gain, loss = shift(p, q, board), board.regret[q] - (board.regret[p] if p >= 0 else 0.0)
    moved[0], to[0], board.mark[task] = task, q, turn
    count, keep, best, end, last = 1, 1, gain, -1, -1
    while board.left[board.row[q]] < -SLACK and loss <= HURDLE * heat + allowance:
        best, ends, lasts, more, task, q = relieve(board.row[q], turn, gain, best, WHIM * heat, board, state)
        if ends >= 0:
            keep, end, last = count, ends, lasts
        if task < 0 or count == LENGTH or best > 0.0:
            break
        gain += shift(board.choice[task], q, board)
        loss += more
        moved[count], to[count], board.mark[task] = task, q, turn
        count += 1
        if gain > best:
            best, keep, end = gain, count, -1
    if best < -allowance:
        keep, end = 0, -1
    for k in range(count - 1, keep - 1, -1):
        shift(to[k], board.choice[moved[k]], board)
    if end >= 0:
        shift(board.choice[end], last, board)
        moved[keep], to[keep] = end, last
        keep += 1
    return keep


@inner
def settle(count: int, board: Board, moved: Ints, to: Ints) -> float:
    """Enter the moves of a chain into choice and lists; returns the change of value."""
    gain = 0.0
    for k in range(count):
        task = moved[k]
        p = board.choice[task]
        if p >= 0:
            gain -= board.value[p]
            leave(task, board)
        board.choice[task] = to[k]
        if to[k] >= 0:
            gain += board.value[to[k]]
            join(task, board)
    return gain


@njit
def seat(columns: Columns, price: Floats, rows: int, choice: Ints) -> tuple[Board, float]:
    """The Board of a choice, without fines, and the mean regret of a pattern."""
    tasks, patterns = len(choice), len(columns.value)
    board = Board(
        columns.task_ptr, np.empty(patterns, np.int64), np.empty(patterns), columns.value, columns.row, columns.share,
        price, np.zeros(rows), choice.copy(), np.ones(rows), np.full(rows, -1), np.full(tasks, -1),
        np.full(tasks, -1), np.full(tasks, -1),
    )  # fmt: skip
    spread = by_regret(board.task_ptr, board.value, board.row, board.share, price, board.order, board.regret)
    for task in range(tasks):
        if choice[task] >= 0:
            join(task, board)
    weigh(board)
    return board, spread


@inner
def heated(heat: float, spread: float, kept: float, progress: float, best_choice: Ints) -> float:
    """The next window's heat, after a window that kept this part of its chains; ``progress`` is in [0, 1).

    While the best plan refuses a task more heat is allowed: it may yet find a place.
    """
    goal, ceiling = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** progress, HEAT
    for p in best_choice:
        if p < 0:
            ceiling = MOST_HEAT
            break
    return min(heat * (COOLER if kept > goal else HOTTER), ceiling * spread)


@njit
def exchange(
    columns: Columns,
    price: Floats,
    rows: int,
    best: float,
    best_choice: Ints,
    bound: float,
    rounds: int,
    gap: float,
    state: Words,
) -> float:
    """Ejection chains around ``best_choice`` (worth ``best``), which becomes the best plan met; returns its value.

    A round makes one chain from a random task. After each window of rounds the heat is set so that the part of the
    chains that are kept falls from FIRST_RATE to LAST_RATE, and the fines by whether a feasible plan was met. Ends after
    ``rounds`` or when the value is within ``gap`` of the bound.
    """
    tasks = len(best_choice)
    board, spread = seat(columns, price, rows, best_choice)
    moved, to = np.empty(LENGTH + 1, np.int64), np.empty(LENGTH + 1, np.int64)
    window, cheapest = max(WINDOW, min(tasks, rounds // 100)), FREE * (price[:rows].sum() + spread * tasks) / rows
    value, heat, level, kept, met = best, HEAT * spread, FIRST_FINE / HARDER, 0, False
    for turn in range(rounds):
        if best >= bound * (1.0 - gap):
            break
        if turn % window == 0:
            if turn > 0:
                heat = heated(heat, spread, kept / window, turn / rounds, best_choice)
            level = max(level * (MILDER if met else HARDER), LEAST_FINE)
            for r in range(rows):
                board.fine[r] = level * max(price[r], cheapest)
            value, kept, met = weigh(board), 0, feasible(board.left)
        task = int(uniform(state) * tasks)
        q = wanted(task, WHIM * heat, board, state)
        if q < 0:
            continue
        count = chain(task, q, turn, -heat * np.log(uniform(state) + 1e-300), heat, board, moved, to, state)
        if count == 0:
            continue
        kept += 1
        value += settle(count, board, moved, to)
        better = value > best + 1e-9 * spread
        if (better or not met) and feasible(board.left):
            met = True
            if better:
                value = weigh(board)
                best = value
                overwrite(best_choice, board.choice)
    return best
