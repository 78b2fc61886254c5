"""Dual ascent on row prices and on the split of each set-up's cost over the tasks that may need it.

A price here is per whole row (price per unit times capacity), so that a step means the same on every row; behind the
``rows`` prices of the rows stand the burdens of the pairs, which Columns lists as further "rows".
"""

from __future__ import annotations

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats, Ints, overwrite

COLD_STEP, WARM_STEP = 0.5, 0.125
"""First steps, in parts of the Polyak step: near good prices a long one only loses them."""
LAST_STEP = 1.0 / 64.0
PATIENCE, PROGRESS = 5, 0.01
"""Steps halve after so many that each closed less than this part of the gap."""
SPLIT_GROWTH = 6.0
SPLIT_FLOOR = 1e-6


@njit
def reduced(value: float, start: int, stop: int, row: Ints, share: Floats, price: Floats, floor: float) -> float:
    """Value less the priced entries ``start:stop``; some number <= ``floor`` as soon as it can be no more than that."""
    for k in range(start, stop):
        if value <= floor:
            break
        value -= share[k] * price[row[k]]
    return value


@njit
def respond(task_ptr: Ints, value: Floats, ptr: Ints, row: Ints, share: Floats, price: Floats, choice: Ints) -> float:
    """Sum of the tasks' best reduced values; ``choice``, which seeds the scan, becomes their best responses."""
    total = 0.0
    for task in range(len(choice)):
        arg, best = choice[task], 0.0
        if arg >= 0:
            best = reduced(value[arg], ptr[arg], ptr[arg + 1], row, share, price, 0.0)
            if best <= 0.0:
                best, arg = 0.0, -1
        for p in range(task_ptr[task], task_ptr[task + 1]):
            if value[p] > best:
                worth = reduced(value[p], ptr[p], ptr[p + 1], row, share, price, best)
                if worth > best:
                    best, arg = worth, p
        choice[task] = arg
        total += best
    return total


@njit
def burden(
    price: Floats, split: Floats, pair_setup: Ints, setup_row: Ints, setup_share: Floats, setup_cost: Floats
) -> None:
    """Charge each pair its part of its set-up, at these row prices."""
    rows = len(price) - len(split)
    for pair in range(len(split)):
        m = pair_setup[pair]
        full = setup_cost[m]
        if setup_row[m] >= 0:
            full += setup_share[m] * price[setup_row[m]]
        price[rows + pair] = full * split[pair]


@njit
def load_of(
    choice: Ints,
    ptr: Ints,
    row: Ints,
    share: Floats,
    split: Floats,
    pair_setup: Ints,
    setup_row: Ints,
    setup_share: Floats,
    load: Floats,
) -> None:
    """Shares of rows that the responses draw, set-ups by the split; behind them, whether each pair is used."""
    rows = len(load) - len(split)
    load[:] = 0.0
    for p in choice:
        if p >= 0:
            for k in range(ptr[p], ptr[p + 1]):
                load[row[k]] += share[k]
    for pair in range(len(split)):
        m = pair_setup[pair]
        if load[rows + pair] > 0.0 and setup_row[m] >= 0:
            load[setup_row[m]] += setup_share[m] * split[pair]


@njit
def resplit(load: Floats, growth: float, split: Floats, pair_setup: Ints, setup_row: Ints) -> None:
    """Let the pairs that are used pay ``growth`` times more, relative to those that are not: mirror descent.

    An infinite growth starts anew: equally over the users, or over all where there is none.
    """
    rows = len(load) - len(split)
    total = np.zeros(len(setup_row))
    for pair in range(len(split)):
        if growth == np.inf:
            split[pair] = load[rows + pair] + 1e-12
        else:
            split[pair] = (split[pair] + SPLIT_FLOOR) * (1.0 + growth * load[rows + pair])
        total[pair_setup[pair]] += split[pair]
    for pair in range(len(split)):
        split[pair] /= total[pair_setup[pair]]


@njit
def step(price: Floats, load: Floats, rows: int, length: float) -> None:
    """Move row prices along the projected subgradient, by ``length`` over its squared norm."""
    norm = 0.0
    for r in range(rows):
        excess = load[r] - 1.0
        if price[r] > 0.0 or excess > 0.0:
            norm += excess * excess
    if norm > 0.0:
        for r in range(rows):
            price[r] = max(0.0, price[r] + length / norm * (load[r] - 1.0))


@njit
def climb(columns: Columns, warm: Floats, incumbent: float, iterations: int) -> tuple[float, Floats]:
    """The least dual value met, and its prices, from ``warm`` by Polyak steps towards the value ``incumbent``.

    Steps halve, from the best point again, when PATIENCE of them brought little; the climb ends after ``iterations``,
    when steps vanish, or when the bound meets the incumbent.
    """
    task_ptr, value, ptr, row, share = columns.task_ptr, columns.value, columns.ptr, columns.row, columns.share
    pair_setup, setup_row, setup_share, setup_cost = (
        columns.pair_setup, columns.setup_row, columns.setup_share, columns.setup_cost,
    )  # fmt: skip
    rows, pairs = len(warm), len(pair_setup)
    price, split = np.zeros(rows + pairs), np.empty(pairs)
    overwrite(price, warm)
    for pair in range(pairs):
        split[pair] = 1.0 / columns.pair_count[pair_setup[pair]]
    load, choice = np.zeros(rows + pairs), np.full(len(task_ptr) - 1, -1)
    best, best_price, best_split = np.inf, price.copy(), split.copy()
    theta, idle = (WARM_STEP if warm.sum() > 0.0 else COLD_STEP), 0
    for iteration in range(iterations):
        burden(price, split, pair_setup, setup_row, setup_share, setup_cost)
        dual = price[:rows].sum() + respond(task_ptr, value, ptr, row, share, price, choice)
        idle = 0 if iteration == 0 or dual < best - PROGRESS * (best - incumbent) else idle + 1
        if dual < best:
            best = dual
            overwrite(best_price, price)
            overwrite(best_split, split)
        if best <= incumbent * (1.0 + 1e-10):
            break
        load_of(choice, ptr, row, share, split, pair_setup, setup_row, setup_share, load)
        if idle >= PATIENCE:
            theta, idle = 0.5 * theta, 0
            overwrite(price, best_price)
            overwrite(split, best_split)
            if theta < LAST_STEP:
                break
        step(price, load, rows, theta * (dual - incumbent))
        resplit(load, SPLIT_GROWTH * theta if iteration > 0 else np.inf, split, pair_setup, setup_row)
    return best, best_price
