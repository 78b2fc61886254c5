"""The compiled share of one resource, for kernels that divide it many times a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit


@njit
def square_root_with_floors(
    weight_times_work: NDArray[np.float64], floor: NDArray[np.float64], capacity: float, out: NDArray[np.float64]
) -> None:
    """Write into ``out`` the f that minimise ``sum_i w_i c_i / f_i`` with ``sum_i f_i <= capacity``, ``f_i >= floor_i``.

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
    held = np.zeros(count, np.bool_)
    left = capacity
    while True:
        roots = 0.0
        for index in range(count):
            if not held[index]:
                roots += np.sqrt(weight_times_work[index])
        if roots <= 0.0:
            return
        scale = left / roots
        settled = True
        for index in range(count):
            if not held[index] and scale * np.sqrt(weight_times_work[index]) < floor[index]:
                held[index] = True
                left -= floor[index]
                settled = False
        if settled:
            for index in range(count):
                if not held[index]:
                    out[index] = scale * np.sqrt(weight_times_work[index])
            return
