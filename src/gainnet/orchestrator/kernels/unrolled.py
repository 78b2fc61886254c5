"""Unrolled dual ascent: a small network that moves row prices by what tasks would take of each row at the present ones.

The bipartite graph of patterns and rows is its input and it is the same network on every row and in every step, so it
has no idea of how many tasks, patterns or rows there are. A step lets every task respond to the prices by a softmax over
its patterns and a refusal, adds up what that takes of each row, and moves each row's price by a perceptron of that load,
of the price and of what the row is (the statics below). A price is kept as a fraction of the row's *stake*: the sum of
the best values of the tasks that can use the row at all, beyond which no price makes sense. A row that could hold the
largest demands of all of them, together with every set-up on it, has a stake of 0: nothing makes it scarce. Nothing has
a unit.
"""

from __future__ import annotations

import math

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats

STATICS, DYNAMICS, MEMORY, HIDDEN = 4, 4, 8, 32
INPUTS, OUTPUTS = STATICS + DYNAMICS + MEMORY, 2 + MEMORY
SEED_PRICE = 0.05
"""Greatest fraction of its stake by which a price may grow in a step, over what it was."""
GROWTH = 2.0
"""Greatest log factor on a price in a step."""
FRACTION_MIN, FRACTION_MAX = 1e-9, 2.0


@njit
def stakes(columns: Columns, rows: int) -> tuple[Floats, Floats, Floats]:
    """Best value of each task, and of each row its stake and statics.

    The statics: log of 1 + load at zero prices (of the tasks' best patterns); log of 1 + the tasks that can use the row;
    the largest share that a pattern or a set-up takes; log of 1 + the sum of the largest shares of those tasks and of the
    set-ups.
    """
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    tasks = len(task_ptr) - 1
    best, stake, static = np.zeros(tasks), np.zeros(rows), np.zeros((rows, STATICS))
    seen, largest = np.full(rows, -1), np.zeros(rows)
    for task in range(tasks):
        arg = -1
        for p in range(task_ptr[task], task_ptr[task + 1]):
            if value[p] > best[task]:
                best[task], arg = value[p], p
        if arg >= 0:
            for k in range(ptr[arg], stop[arg]):
                static[row[k], 0] += share[k]
        for p in range(task_ptr[task], task_ptr[task + 1]):
            for k in range(ptr[p], stop[p]):
                r = row[k]
                if seen[r] != task:
                    seen[r], largest[r] = task, 0.0
                    stake[r] += best[task]
                    static[r, 1] += 1.0
                if share[k] > largest[r]:
                    static[r, 3] += share[k] - largest[r]
                    largest[r] = share[k]
                static[r, 2] = max(static[r, 2], share[k])
    for m in range(len(columns.setup_row)):
        r = columns.setup_row[m]
        if r >= 0 and columns.pair_count[m] > 0:
            static[r, 2] = max(static[r, 2], columns.setup_share[m])
            static[r, 3] += columns.setup_share[m]
    for r in range(rows):
        if static[r, 3] <= 1.0:
            stake[r] = 0.0
        static[r, 0], static[r, 1], static[r, 3] = (
            math.log1p(static[r, 0]), math.log1p(static[r, 1]), math.log1p(static[r, 3]),
        )  # fmt: skip
    return best, stake, static


@njit
def respond_softly(columns: Columns, best: Floats, price: Floats, temperature: float, load: Floats) -> None:
    """Set ``load`` to the shares that the tasks' soft responses draw, set-ups spread equally over those who may need them.

    A pattern's weight is exp(reduced value / (temperature x the task's best value)), a refusal's is 1.
    """
    task_ptr, value, ptr, stop, row, share = (
        columns.task_ptr, columns.value, columns.ptr, columns.stop, columns.row, columns.share,
    )  # fmt: skip
    rows = len(load)
    pair_load, weight = np.zeros(len(columns.pair_setup)), np.empty(len(value))
    load[:] = 0.0
    for task in range(len(best)):
        if best[task] <= 0.0:
            continue
        scale, top, total = 1.0 / (temperature * best[task]), 0.0, 0.0
        for p in range(task_ptr[task], task_ptr[task + 1]):
            worth = value[p]
            for k in range(ptr[p], ptr[p + 1]):
                worth -= share[k] * price[row[k]]
            weight[p] = worth * scale
            top = max(top, weight[p])
        total = math.exp(-top)
        for p in range(task_ptr[task], task_ptr[task + 1]):
            weight[p] = math.exp(weight[p] - top) if weight[p] > top - 30.0 else 0.0
            total += weight[p]
        for p in range(task_ptr[task], task_ptr[task + 1]):
            part = weight[p] / total
            if part > 1e-9:
                for k in range(ptr[p], stop[p]):
                    load[row[k]] += share[k] * part
                for k in range(stop[p], ptr[p + 1]):
                    pair_load[row[k] - rows] += part
    for pair in range(len(pair_load)):
        m = columns.pair_setup[pair]
        if columns.setup_row[m] >= 0:
            load[columns.setup_row[m]] += columns.setup_share[m] * pair_load[pair] / columns.pair_count[m]


@njit
def charge_pairs(columns: Columns, rows: int, price: Floats) -> None:
    """Charge each pair an equal part of its set-up, at these row prices."""
    for pair in range(len(columns.pair_setup)):
        m = columns.pair_setup[pair]
        full = columns.setup_cost[m]
        if columns.setup_row[m] >= 0:
            full += columns.setup_share[m] * price[columns.setup_row[m]]
        price[rows + pair] = full / columns.pair_count[m]


@njit
def unroll(
    columns: Columns, rows: int, inward: Floats, inward_bias: Floats, outward: Floats, outward_bias: Floats,
    temperature: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Prices of whole rows after as many steps as there are temperatures, and the inputs of the last step for each row.

    Args:
        columns: the problem.
        rows: how many rows it has.
        inward, inward_bias: (HIDDEN, INPUTS) and (HIDDEN,) weights of the hidden layer.
        outward, outward_bias: (OUTPUTS, HIDDEN) and (OUTPUTS,) weights of the moves and of the row's memory.
        temperature: of the responses in each step.
    """
    best, stake, static = stakes(columns, rows)
    price, load = np.zeros(rows + len(columns.pair_setup)), np.zeros(rows)
    fraction, given = np.zeros(rows), np.zeros((rows, INPUTS))
    given[:, :STATICS] = static
    hidden, out = np.empty(HIDDEN), np.empty(OUTPUTS)
    for turn in range(len(temperature)):
        charge_pairs(columns, rows, price)
        respond_softly(columns, best, price, temperature[turn], load)
        for r in range(rows):
            if stake[r] <= 0.0:
                continue
            given[r, STATICS] = math.log1p(load[r])
            given[r, STATICS + 1] = min(max(load[r] - 1.0, -1.0), 1.0)
            given[r, STATICS + 2] = math.log(max(fraction[r], FRACTION_MIN)) / 10.0
            given[r, STATICS + 3] = turn / len(temperature)
            for h in range(HIDDEN):
                total = inward_bias[h]
                for i in range(INPUTS):
                    total += inward[h, i] * given[r, i]
                hidden[h] = math.tanh(total)
            for o in range(OUTPUTS):
                total = outward_bias[o]
                for h in range(HIDDEN):
                    total += outward[o, h] * hidden[h]
                out[o] = total
            seed = SEED_PRICE / (1.0 + math.exp(-out[1]))
            fraction[r] = min((fraction[r] + seed) * math.exp(GROWTH * math.tanh(out[0])), FRACTION_MAX)
            price[r] = fraction[r] * stake[r]
            for o in range(MEMORY):
                given[r, STATICS + DYNAMICS + o] = math.tanh(out[2 + o])
    return price[:rows], given
