"""Sampling log-prices of rows by denoising: the generative part of the `diffusion` matcher.

A sample is the log factor of each scarce row's price on an anchor (the prices that `neural` predicts). It starts as noise
and is denoised in a few deterministic steps (DDIM, arXiv 2010.02502, with variance-exploding noise levels): at every
level a perceptron, the same on every row, predicts the clean log factor from the noisy one, from what tasks would take of
the row at the noisy prices, and from what `neural` knew of the row. Through those responses rows see each other.
"""

from __future__ import annotations

import math

import numpy as np

from gainnet.compiled import njit
from gainnet.orchestrator.kernels.columns import Columns, Floats, Words
from gainnet.orchestrator.kernels.search import uniform
from gainnet.orchestrator.kernels.unrolled import (
    DYNAMICS,
    FRACTION_MIN,
    MEMORY,
    STATICS,
    charge_pairs,
    respond_softly,
    stakes,
)

INPUTS, HIDDEN = STATICS + MEMORY + 5, 32
SPREAD = 0.5
"""Standard deviation that clean log factors are taken to have: scales inputs."""
FACTOR_MAX = 3.0
TEMPERATURE = 0.05
"""Of the responses (see `respond_softly`)."""


@njit
def gaussian(state: Words) -> float:
    """A standard normal number (Box and Muller)."""
    radius = math.sqrt(-2.0 * math.log(uniform(state) + 1e-300))
    return radius * math.cos(2.0 * math.pi * uniform(state))


@njit
def look(
    columns: Columns, best: Floats, stake: Floats, anchor: Floats, known: Floats, factor: Floats, level: float,
    price: Floats, given: Floats,
) -> None:  # fmt: skip
    """Set ``price`` to what noisy log factors make of the anchor, and ``given`` to the denoiser's (row, input).

    ``best`` and ``stake`` are those of `stakes`; ``known`` is the (row, input) of `unroll`. Rows without an anchor or a
    stake have a factor of 0.
    """
    rows = len(anchor)
    load = np.zeros(rows)
    for r in range(rows):
        price[r] = anchor[r] * math.exp(min(max(factor[r], -FACTOR_MAX), FACTOR_MAX))
    charge_pairs(columns, rows, price)
    respond_softly(columns, best, price, TEMPERATURE, load)
    for r in range(rows):
        if anchor[r] <= 0.0 or stake[r] <= 0.0:
            continue
        for i in range(STATICS):
            given[r, i] = known[r, i]
        for i in range(MEMORY):
            given[r, STATICS + i] = known[r, STATICS + DYNAMICS + i]
        at = STATICS + MEMORY
        given[r, at] = math.log1p(load[r])
        given[r, at + 1] = min(max(load[r] - 1.0, -1.0), 1.0)
        given[r, at + 2] = math.log(max(price[r] / stake[r], FRACTION_MIN)) / 10.0
        given[r, at + 3] = factor[r] / math.sqrt(SPREAD * SPREAD + level * level)
        given[r, at + 4] = math.log(level)


@njit
def denoise(
    columns: Columns,
    anchor: Floats,
    known: Floats,
    inward: Floats,
    inward_bias: Floats,
    outward: Floats,
    levels: Floats,
    state: Words,
) -> Floats:
    """Sampled prices of whole rows, then the burdens of pairs.

    Args:
        columns: the problem.
        anchor: prices of whole rows that samples are factors on; rows without a price keep none.
        known: (row, input) of `unroll`.
        inward, inward_bias, outward: (HIDDEN, INPUTS), (HIDDEN,) and (HIDDEN + 1,) weights; the last of outward is a bias.
        levels: noise levels, falling.
        state: of the generator.
    """
    rows = len(anchor)
    best, stake, _ = stakes(columns, rows)
    price, factor, given = np.zeros(rows + len(columns.pair_setup)), np.zeros(rows), np.zeros((rows, INPUTS))
    for r in range(rows):
        if anchor[r] > 0.0 and stake[r] > 0.0:
            factor[r] = levels[0] * gaussian(state)
    for turn in range(len(levels)):
        following = levels[turn + 1] if turn + 1 < len(levels) else 0.0
        look(columns, best, stake, anchor, known, factor, levels[turn], price, given)
        for r in range(rows):
            if anchor[r] <= 0.0 or stake[r] <= 0.0:
                continue
            clean = outward[HIDDEN]
            for h in range(HIDDEN):
                total = inward_bias[h]
                for i in range(INPUTS):
                    total += inward[h, i] * given[r, i]
                clean += outward[h] * math.tanh(total)
            factor[r] = clean + following / levels[turn] * (factor[r] - clean)
    for r in range(rows):
        price[r] = anchor[r] * math.exp(min(max(factor[r], -FACTOR_MAX), FACTOR_MAX))
    charge_pairs(columns, rows, price)
    return price
