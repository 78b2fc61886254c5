"""The linear relaxation of a whole run and its dual, of which any prices give a bound.

Every task takes fractions of its options, in sum at most 1. A task draws on a resource in its window only, so over any
interval the tasks whose windows lie in it draw at most what the resource gives in it: one row for each resource and
interval. The resources are the machines of each tier, the cells' bands (all together), and each end's own machine. With
prices mu >= 0 of the rows

    D(mu) = mu . C + sum_i max(0, max_o worth_o - work_o . price_i),   price_i = sum of mu over the intervals around i,

is at least the worth of any such fractions, and so of any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, sparse

from gainnet.hindsight.options_kernel import BLOCK_S, END_S, FIXED_S

STRIDES = 3
"""Intervals of a length begin this often in it."""
TEMPERATURES = (0.1, 0.02, 0.004)
"""Relative to a task's worth: at each the smoothed dual is minimised, warm from the last."""
SCALE_FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What could be done in a run, in hindsight.

    Attributes:
        ptr: the options of task i are ``ptr[i]:ptr[i + 1]``.
        tier: of each option, 0 where the end computes, else the fixed machines that do.
        options: the columns of `gainnet.hindsight.options_kernel`.
        user: who asks.
        first, last: the frames in which each task may be worked on.
        given: what the network gives in each frame: resource-block-seconds of all cells in column 0 (there is no fixed
            machine of tier 0), node-seconds of the fixed machines of each tier in the others.
        end_given: node-seconds that an end gives in a frame.
    """

    ptr: Int[np.ndarray, " task_edge"]
    tier: Int[np.ndarray, " option"]
    options: Float[np.ndarray, "option column"]
    user: Int[np.ndarray, " task"]
    first: Int[np.ndarray, " task"]
    last: Int[np.ndarray, " task"]
    given: Float[np.ndarray, "frame resource"]
    end_given: float

    @property
    def frames(self) -> int:
        """Frames of the run."""
        return len(self.given)


def intervals(frames: int, lengths: Sequence[int]) -> Int[np.ndarray, "interval 2"]:
    """First frames and ends of the intervals: the whole run, then those of each length, a third of it apart."""
    found = [(0, frames)]
    for length in lengths:
        if length < frames:
            begins = range(0, frames - length, max(1, length // STRIDES))
            found += [(begin, begin + length) for begin in begins] + [(frames - length, frames)]
    return np.array(found)


def around(
    windows: Int[np.ndarray, "interval 2"], first: Int[np.ndarray, " task"], last: Int[np.ndarray, " task"]
) -> sparse.csr_array:
    """1 where an interval holds the window of a task [task interval]."""
    inside = (windows[None, :, 0] <= first[:, None]) & (last[:, None] < windows[None, :, 1])
    return sparse.csr_array(inside.astype(np.float64))


class Dual:
    """The dual function of a relaxation over intervals of the given lengths, in frames.

    Prices are scaled: one unit of a variable is worth one unit of the objective where the row is full.
    """

    def __init__(self, relaxation: Relaxation, lengths: Sequence[int], end_lengths: Sequence[int]) -> None:
        self._relaxation = given = relaxation
        windows, end_windows = (intervals(given.frames, which) for which in (lengths, end_lengths))
        self._around = around(windows, given.first, given.last)
        total = np.concatenate([np.zeros((1, given.given.shape[1])), given.given.cumsum(axis=0)])
        self._given = total[windows[:, 1]] - total[windows[:, 0]]
        least = SCALE_FLOOR * self._given.max(axis=0)
        self._scale = 1.0 / np.maximum(self._given, np.where(least > 0.0, least, 1.0))
        self._tasks = len(given.user)
        self._task = np.repeat(np.arange(self._tasks), np.diff(given.ptr))
        self._some = np.flatnonzero(np.diff(given.ptr))
        around_end = around(end_windows, given.first, given.last)
        self._end_task = np.repeat(np.arange(self._tasks), np.diff(around_end.indptr))
        self._end_row = given.user[self._end_task] * len(end_windows) + around_end.indices
        end_given = (end_windows[:, 1] - end_windows[:, 0]) * given.end_given
        self._end_given = np.tile(end_given, int(given.user.max(initial=-1)) + 1)

    @property
    def size(self) -> int:
        """Number of prices."""
        return int(self._given.size) + len(self._end_given)

    def evaluate(
        self, scaled: Float[np.ndarray, " price"], worth: Float[np.ndarray, " option"],
        temperature: Float[np.ndarray, " task"] | None,
    ) -> tuple[float, Float[np.ndarray, " price"]]:  # fmt: skip
        """D at these scaled prices and its (sub)gradient; smoothed from above at a temperature of each task."""
        given, of = self._relaxation, self._task
        shared, ends = scaled[: self._given.size].reshape(self._given.shape), scaled[self._given.size :]
        price = self._around @ (shared * self._scale)
        end_price = np.bincount(self._end_task, (ends / self._end_given)[self._end_row], self._tasks)
        net = worth - (
            given.options[:, BLOCK_S] * price[of, 0]
            + given.options[:, FIXED_S] * price[of, given.tier]
            + given.options[:, END_S] * end_price[of]
        )
        best, part = self._respond(net, temperature)
        value = (shared * self._given * self._scale).sum() + ends.sum() + best.sum()
        drawn = np.empty_like(price)
        for resource in range(price.shape[1]):
            amount = given.options[:, FIXED_S] * (given.tier == resource) if resource else given.options[:, BLOCK_S]
            drawn[:, resource] = np.bincount(of, part * amount, self._tasks)
        slope = (self._given - self._around.T @ drawn) * self._scale
        end_use = np.bincount(of, part * given.options[:, END_S], self._tasks)
        end_drawn = np.bincount(self._end_row, end_use[self._end_task], len(ends))
        return float(value), np.concatenate([slope.ravel(), 1.0 - end_drawn / self._end_given])

    def _respond(
        self, net: Float[np.ndarray, " option"], temperature: Float[np.ndarray, " task"] | None
    ) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " option"]]:
        """What each task with options is worth, and the part of it that each option has."""
        if not len(self._some):
            return np.zeros(0), np.zeros(len(net))
        best = np.maximum(np.maximum.reduceat(net, self._relaxation.ptr[self._some]), 0.0)
        top = np.zeros(len(self._relaxation.user))
        top[self._some] = best
        if temperature is None:
            return best, np.asarray((net > 0.0) & (net == top[self._task]), np.float64)
        heat = temperature[self._task]
        weight = np.exp((net - top[self._task]) / heat)
        refuse = np.exp(-best / temperature[self._some])
        total = refuse + np.add.reduceat(weight, self._relaxation.ptr[self._some])
        whole = np.ones_like(top)
        whole[self._some] = total
        return best + temperature[self._some] * np.log(total), weight / whole[self._task]


def bound(dual: Dual, worth: Float[np.ndarray, " option"], stake: Float[np.ndarray, " task"], *, turns: int) -> float:
    """The least D found: a bound on the worth of every run.

    Args:
        dual: the function.
        worth: of each option, net of its cost.
        stake: the scale of each task's worth, > 0; smoothing is relative to it.
        turns: most iterations of the minimisation at each temperature.
    """
    prices = np.zeros(dual.size)
    unit = float(stake.sum())
    best = dual.evaluate(prices, worth, None)[0]

    def smoothed(at: Float[np.ndarray, " price"], heat: float) -> tuple[float, Float[np.ndarray, " price"]]:
        value, slope = dual.evaluate(unit * at, worth, heat * stake)
        return value / unit, slope

    for heat in TEMPERATURES:
        found = optimize.minimize(
            smoothed, prices, (heat,), "L-BFGS-B", jac=True, bounds=optimize.Bounds(0.0, np.inf),
            options={"maxiter": turns, "maxfun": 2 * turns},
        )  # fmt: skip
        prices = np.maximum(found.x, 0.0)
        best = min(best, dual.evaluate(unit * prices, worth, None)[0])
    return best
