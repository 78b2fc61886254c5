"""The compiled share of one resource, for kernels that divide it many times a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit

UNDECIDED = -1.0


@njit
def square_root_with_floors(
    weight_times_work: NDArray[np.float64], floor: NDArray[np.float64], capacity: float, out: NDArray[np.float64]
) -> None:
    """Write into ``out`` the f that minimise ``sum w_i c_i / f_i`` with ``sum f_i <= capacity``, ``f_i >= floor_i``.

    ``f_i = max(floor_i, s sqrt(w_i c_i))``: who falls under its floor gets it, the others share what is left by the
    square-root law, until no further one falls under; s only decreases, so that takes as many rounds as items at most.
    Floors that exceed the capacity are scaled down to it. Items without work get their floor.

    Args:
        weight_times_work: w_i c_i >= 0 of each item.
        floor: least share of each item, >= 0, in the unit of the capacity.
        capacity: what there is to share, >= 0.
        out: the shares, in the unit of the capacity.
    """
    count = len(out)
    floors = 0.0
    for index in range(count):
        floors += floor[index]
        out[index] = floor[index]
    if floors >= capacity:
        for index in range(count):
            out[index] = floor[index] * (capacity / floors) if floors > 0.0 else 0.0
        return
    for index in range(count):
        out[index] = UNDECIDED
    left = capacity
    settled = False
    while not settled:
        roots = 0.0
        for index in range(count):
            if out[index] == UNDECIDED:
                roots += np.sqrt(weight_times_work[index])
        scale = left / roots if roots > 0.0 else 0.0
        settled = True
        for index in range(count):
            if out[index] == UNDECIDED and scale * np.sqrt(weight_times_work[index]) < floor[index]:
                out[index] = floor[index]
                left -= floor[index]
                settled = False
    for index in range(count):
        if out[index] == UNDECIDED:
            out[index] = scale * np.sqrt(weight_times_work[index])
