"""A Problem as the kernels read it: hopeless patterns dropped, demands as shares of their row."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]

SLACK = 1e-9
"""Share of a row by which rounding may exceed it."""


class Columns(NamedTuple):
    """Flat arrays over the patterns that some plan worth having may use.

    A *pair* is a task and a set-up that at least one of its patterns needs. The entries of a pattern are its demands,
    then one entry of share 1 on "row" ``rows + pair`` for each set-up that it needs: the dual kernels price both alike.

    Attributes:
        task_ptr: patterns of task i are ``task_ptr[i]:task_ptr[i + 1]``.
        origin: index of each pattern in the Problem.
        value: value of each pattern.
        ptr: entries of pattern p are ``ptr[p]:ptr[p + 1]``.
        stop: its demands are ``ptr[p]:stop[p]``.
        row: row of each entry.
        share: amount of each entry over the capacity of its row.
        setup: the set-ups of each pattern, (pattern, 2), -1 for none, never the same twice.
        pair_setup: the set-up of each pair.
        pair_count: number of pairs of each set-up.
        setup_row: memory row of each set-up, -1 for none.
        setup_share: its size over the capacity of that row.
        setup_cost: its cost.
    """

    task_ptr: Ints
    origin: Ints
    value: Floats
    ptr: Ints
    stop: Ints
    row: Ints
    share: Floats
    setup: Ints
    pair_setup: Ints
    pair_count: Ints
    setup_row: Ints
    setup_share: Floats
    setup_cost: Floats


@njit
def overwrite(target: Floats | Ints, source: Floats | Ints) -> None:
    """``target[:len(source)] = source`` without the formatted error message that numba compiles for it."""
    for index in range(len(source)):
        target[index] = source[index]


@njit
def lacking(
    start: int,
    stop: int,
    row: Ints,
    share: Floats,
    needs: Ints,
    setup_row: Ints,
    setup_share: Floats,
    left: Floats,
    uses: Ints,
) -> int:
    """A row with too little ``left`` for the demands ``start:stop`` and those set-ups of ``needs`` that are closed.

    -1 where all fit.
    """
    for k in range(start, stop):
        if share[k] > left[row[k]] + SLACK:
            return int(row[k])
    for side in range(2):
        m = needs[side]
        if m < 0 or uses[m] > 0 or setup_row[m] < 0:
            continue
        need = setup_share[m]
        other = needs[1 - side]
        if other >= 0 and uses[other] == 0 and setup_row[other] == setup_row[m]:
            need += setup_share[other]
        for k in range(start, stop):
            if row[k] == setup_row[m]:
                need += share[k]
        if need > left[setup_row[m]] + SLACK:
            return int(setup_row[m])
    return -1


@njit
def _shares(capacity: Floats, row: Ints, amount: Floats) -> Floats:
    """Amounts over the capacity of their row: inf where the capacity is 0, 0 where there is no row or amount."""
    out = np.zeros(len(row))
    for k in range(len(row)):
        if row[k] >= 0 and not amount[k] <= 0.0:
            part = amount[k] / capacity[row[k]] if capacity[row[k]] > 0.0 else np.inf
            out[k] = part if part >= 0.0 else np.inf  # what is not a number fits nowhere
    return out


@njit
def _entries(start: int, stop: int, row: Ints, share: Floats, out_row: Ints, out_share: Floats, at: int) -> int:
    """Append the demands ``start:stop`` to the entries at ``at``; returns where they end."""
    for k in range(start, stop):
        out_row[at], out_share[at] = row[k], share[k]
        at += 1
    return at


@njit
def columnise(
    problem_ptr: Ints,
    worth: Floats,
    demand_ptr: Ints,
    demand_row: Ints,
    amount: Floats,
    capacity: Floats,
    needs: Ints,
    setup_row: Ints,
    setup_size: Floats,
    setup_cost: Floats,
) -> Columns:
    """The Columns of a Problem's arrays."""
    patterns, setups, rows, tasks = len(worth), len(setup_row), len(capacity), len(problem_ptr) - 1
    demand_share, setup_share = _shares(capacity, demand_row, amount), _shares(capacity, setup_row, setup_size)
    task_ptr, origin, value = np.zeros(tasks + 1, np.int64), np.empty(patterns, np.int64), np.empty(patterns)
    ptr, stop = np.zeros(patterns + 1, np.int64), np.empty(patterns, np.int64)
    row, share = np.empty(len(demand_row) + 2 * patterns, np.int64), np.empty(len(demand_row) + 2 * patterns)
    setup, pair_setup = np.empty((patterns, 2), np.int64), np.empty(2 * patterns, np.int64)
    pair_count, last = np.zeros(setups, np.int64), np.full(setups, -1, np.int64)
    left, uses = np.ones(rows), np.zeros(setups, np.int64)
    kept = pairs = 0
    for task in range(tasks):
        first_pair = pairs
        for p in range(problem_ptr[task], problem_ptr[task + 1]):
            start, end = demand_ptr[p], demand_ptr[p + 1]
            setup[kept, 0] = needs[p, 0]
            setup[kept, 1] = needs[p, 1] if needs[p, 1] != needs[p, 0] else -1
            short = lacking(start, end, demand_row, demand_share, setup[kept], setup_row, setup_share, left, uses)
            if not 0.0 < worth[p] < np.inf or short >= 0:  # not a number is not worth having either
                continue
            at = _entries(start, end, demand_row, demand_share, row, share, ptr[kept])
            origin[kept], value[kept], stop[kept] = p, worth[p], at
            for side in range(2):
                m = setup[kept, side]
                if m < 0:
                    continue
                if last[m] < first_pair:
                    last[m], pair_setup[pairs] = pairs, m
                    pair_count[m] += 1
                    pairs += 1
                row[at], share[at] = rows + last[m], 1.0
                at += 1
            kept += 1
            ptr[kept] = at
        task_ptr[task + 1] = kept
    return Columns(
        task_ptr, origin[:kept], value[:kept], ptr[: kept + 1], stop[:kept], row[: ptr[kept]], share[: ptr[kept]],
        setup[:kept], pair_setup[:pairs], pair_count, setup_row, setup_share, setup_cost,
    )  # fmt: skip
