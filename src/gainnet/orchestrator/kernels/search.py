"""Decoding at prices, and local search around the decoded plan."""

from __future__ import annotations

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats, Ints, Words, lacking, overwrite
from gainnet.orchestrator.kernels.placement import best_fit, occupy, place, place_in_order, remove

SPREAD = 0.2
EJECTED = 6
WHIM = 1.0
HEAT = 0.2
REGROUPS = 2
OUT = -2
"""The choice of a task that is in no plan for now: neither a pattern nor a refusal, -1."""


@njit
def uniform(state: Words) -> float:
    """The next number in [0, 1) of a xorshift generator (Marsaglia 2003) whose 64 bits are ``state[0]``, never 0."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


@njit
def ascending(key: Floats) -> Ints:
    """Indices in ascending order of ``key``: a shell sort, which compiles in a tenth of the time of np.argsort."""
    order = np.arange(len(key))
    stride = len(key) // 2
    while stride > 0:
        for index in range(stride, len(key)):
            moving, at = order[index], index
            while at >= stride and key[order[at - stride]] > key[moving]:
                order[at] = order[at - stride]
                at -= stride
            order[at] = moving
        stride = stride // 2
    return order


@njit
def rate(columns: Columns, price: Floats, score: Floats) -> Ints:
    """Score every pattern: value less priced demand. Returns the tasks, largest regret first (burdens included)."""
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    regret = np.zeros(len(task_ptr) - 1)
    for task in range(len(regret)):
        first = second = 0.0
        for p in range(task_ptr[task], task_ptr[task + 1]):
            worth = value[p]
            for k in range(ptr[p], stop[p]):
                worth -= share[k] * price[row[k]]
            score[p] = worth
            for k in range(stop[p], ptr[p + 1]):
                worth -= price[row[k]]
            if worth > first:
                first, second = worth, first
            elif worth > second:
                second = worth
        regret[task] = second - first
    return ascending(regret)


@njit
def decode(columns: Columns, price: Floats, rows: int, restarts: int, state: Words) -> tuple[float, Ints]:
    """The best of ``restarts`` regret decodings, the first at these prices, the others at prices perturbed by SPREAD.

    The first task that uses a set-up is charged a third of its cost: others will share it, the search mends the rest.
    """
    choice, best_choice, best = np.full(len(columns.task_ptr) - 1, -1), np.full(len(columns.task_ptr) - 1, -1), -np.inf
    score, trial, charge = np.empty(len(columns.value)), price.copy(), columns.setup_cost / 3.0
    for restart in range(restarts):
        if restart > 0:
            for r in range(rows):
                trial[r] = price[r] * (1.0 + SPREAD * (2.0 * uniform(state) - 1.0))
        order = rate(columns, trial, score)
        left, uses = np.ones(rows), np.zeros(len(columns.setup_row), np.int64)
        worth = place_in_order(columns, order, score, charge, left, uses, choice)
        if worth > best:
            best = worth
            overwrite(best_choice, choice)
    return best, best_choice


@njit
def wish(
    task: int,
    current: int,
    whim: float,
    score: Floats,
    task_ptr: Ints,
    setup: Ints,
    setup_cost: Floats,
    uses: Ints,
    state: Words,
) -> int:
    """Another pattern that the task might want: the best score after noise up to ``whim``; -1 where it has none."""
    best, arg = -np.inf, -1
    for p in range(task_ptr[task], task_ptr[task + 1]):
        if p == current:
            continue
        worth = score[p] + whim * uniform(state)
        for side in range(2):
            m = setup[p, side]
            if m >= 0 and uses[m] == 0:
                worth -= 0.5 * setup_cost[m]
        if worth > best:
            best, arg = worth, p
    return arg


@njit
def draws(p: int, r: int, ptr: Ints, stop: Ints, row: Ints, setup: Ints, setup_row: Ints) -> bool:
    """Whether pattern p, or a set-up that it needs, draws on row r."""
    for k in range(ptr[p], stop[p]):
        if row[k] == r:
            return True
    for side in range(2):
        m = setup[p, side]
        if m >= 0 and setup_row[m] == r:
            return True
    return False


@njit
def eject(
    columns: Columns, task: int, q: int, left: Floats, uses: Ints, choice: Ints, moved: Ints, before: Ints, state: Words
) -> tuple[int, float, int]:
    """Take ``task`` out, then others on a row that pattern q lacks, from a random one on, until q fits.

    Returns how many are out, logged in ``moved`` with their patterns in ``before``, the change of value, and the row
    that q lacks even so: -1 when it fits.
    """
    value, ptr, stop, row, share = columns.value, columns.ptr, columns.stop, columns.row, columns.share
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    tasks, count, gain, other = len(choice), 1, 0.0, int(uniform(state) * len(choice))
    moved[0], before[0] = task, choice[task]
    choice[task] = OUT
    if before[0] >= 0:
        p = before[0]
        gain += remove(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    short = lacking(ptr[q], stop[q], row, share, setup[q], setup_row, setup_share, left, uses)
    for _ in range(tasks):
        if short < 0 or count == EJECTED:
            break
        p = choice[other]
        if p >= 0 and draws(p, short, ptr, stop, row, setup, setup_row):
            moved[count], before[count] = other, p
            count += 1
            choice[other] = OUT
            gain += remove(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
            short = lacking(ptr[q], stop[q], row, share, setup[q], setup_row, setup_share, left, uses)
        other = other + 1 if other + 1 < tasks else 0
    if short < 0:
        choice[task] = q
        gain += place(q, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
        other = int(uniform(state) * tasks)
        p = choice[other]
        if p != OUT and other != task:
            moved[count], before[count] = other, p
            count += 1
            choice[other] = OUT
            if p >= 0:
                gain += remove(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    return count, gain, short


@njit
def gather(
    columns: Columns, m: int, score: Floats, left: Floats, uses: Ints, choice: Ints, moved: Ints, before: Ints
) -> tuple[int, float]:
    """Take out the users of set-up m or, where it is closed, the tasks that would rather use it. See ``eject``."""
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    count, gain, opened = 0, 0.0, uses[m] > 0
    for task in range(len(choice)):
        p = choice[task]
        concerned = opened and p >= 0 and (setup[p, 0] == m or setup[p, 1] == m)
        if not opened:
            for q in range(task_ptr[task], task_ptr[task + 1]):
                better = p < 0 or score[q] > score[p]
                concerned |= better and (setup[q, 0] == m or setup[q, 1] == m)
        if concerned:
            moved[count], before[count] = task, p
            count += 1
            choice[task] = -1
            if p >= 0:
                gain += remove(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    return count, gain


@njit
def settle(
    columns: Columns,
    score: Floats,
    charge: Floats,
    first: int,
    count: int,
    left: Floats,
    uses: Ints,
    choice: Ints,
    moved: Ints,
    state: Words,
) -> float:
    """Place the tasks ``moved[first:count]`` at their best, from a random one on; returns the change of value."""
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    gain, turn = 0.0, first + int(uniform(state) * (count - first))
    for _ in range(first, count):
        task = moved[turn]
        p = best_fit(
            task, score, charge, task_ptr, value, ptr, stop, row, share, setup, setup_row, setup_share, left, uses
        )
        choice[task] = p
        if p >= 0:
            gain += place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
        turn = turn + 1 if turn + 1 < count else first
    return gain


@njit
def put_back(columns: Columns, count: int, left: Floats, uses: Ints, choice: Ints, moved: Ints, before: Ints) -> None:
    """Undo a round: the logged tasks return to their patterns."""
    value, ptr, stop, row, share = columns.value, columns.ptr, columns.stop, columns.row, columns.share
    setup, setup_row, setup_share, setup_cost = (
        columns.setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    for task in moved[:count]:
        p = choice[task]
        if p >= 0:
            remove(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)
    for index in range(count):
        p = before[index]
        choice[moved[index]] = p
        if p >= 0:
            place(p, value, ptr, stop, row, share, setup, setup_row, setup_share, setup_cost, left, uses)


@njit
def tops(task_ptr: Ints, score: Floats, top: Floats) -> float:
    """Write the best score of each task, at least that of a refusal; returns the mean distance of patterns from it."""
    total = 0.0
    for task in range(len(top)):
        top[task] = 0.0
        for p in range(task_ptr[task], task_ptr[task + 1]):
            top[task] = max(top[task], score[p])
        for p in range(task_ptr[task], task_ptr[task + 1]):
            total += top[task] - score[p]
    return total / max(len(score), 1)


@njit
def unhappier(first: int, second: int, score: Floats, top: Floats, choice: Ints) -> int:
    """Which of two tasks scores further below its best."""
    loss = top[first] - (score[choice[first]] if choice[first] >= 0 else 0.0)
    other = top[second] - (score[choice[second]] if choice[second] >= 0 else 0.0)
    return first if loss >= other else second


@njit
def search(
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
    """Ejection search around ``best_choice`` (worth ``best``), which becomes the best plan met; returns its value.

    A round gives the unhappier of two random tasks another pattern that it might want, and resettles whom that
    displaces; REGROUPS times for each set-up, on average, a round opens or closes one for all whom it concerns. It is
    kept when the plan gets better, or, early on, a little worse (Metropolis, linear cooling); else all is put back.
    Ends after ``rounds`` or when the value is within ``gap`` of the bound.
    """
    task_ptr, setup, setup_cost = columns.task_ptr, columns.setup, columns.setup_cost
    tasks, setups, now = len(best_choice), len(setup_cost), best
    score, choice, charge = np.empty(len(columns.value)), best_choice.copy(), setup_cost.copy()
    left, uses = np.ones(rows), np.zeros(setups, np.int64)
    moved, before = np.empty(tasks + EJECTED + 1, np.int64), np.empty(tasks + EJECTED + 1, np.int64)
    rate(columns, price, score)
    occupy(columns, choice, left, uses)
    top = np.empty(tasks)
    scale, regroup = tops(task_ptr, score, top), max(rounds // max(REGROUPS * setups, 1), 2)
    for turn in range(rounds):
        if best >= bound * (1.0 - gap):
            break
        m, first, short = -1, 0, -1
        if setups > 0 and turn % regroup == 0:
            m = int(uniform(state) * setups)
            charge[m] = np.inf if uses[m] > 0 else 0.0
            count, gain = gather(columns, m, score, left, uses, choice, moved, before)
        else:
            task = unhappier(int(uniform(state) * tasks), int(uniform(state) * tasks), score, top, choice)
            q = wish(task, choice[task], WHIM * scale, score, task_ptr, setup, setup_cost, uses, state)
            if q < 0:
                continue
            first = 1
            count, gain, short = eject(columns, task, q, left, uses, choice, moved, before, state)
        gain += settle(columns, score, charge, first, count, left, uses, choice, moved, state) if short < 0 else -np.inf
        if m >= 0:
            charge[m] = setup_cost[m]
        heat = HEAT * scale * (1.0 - turn / rounds)
        if gain < heat * np.log(uniform(state) + 1e-300) - 1e-12 * scale:
            put_back(columns, count, left, uses, choice, moved, before)
            continue
        now += gain
        if now > best + 1e-9 * scale:
            best = now
            overwrite(best_choice, choice)
    return best
