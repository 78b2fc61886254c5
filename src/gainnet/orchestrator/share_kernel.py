"""The square-root law with floors, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit


@njit
def square_root_with_floors(
    weight_times_work: NDArray[np.float64], floor: NDArray[np.float64], capacity: float, out: NDArray[np.float64]
) -> None:
    """min sum w c / f subject to sum f <= capacity, f >= floor: ``f = max(floor, sqrt(w c / lambda))``.

    Floors must sum to at most the capacity. Items are pinned to their floors until the law holds for the others, which
    ends after at most n rounds.
    """
    n = len(out)
    for i in range(n):
        out[i] = -1.0
    left = capacity
    while True:
        roots = 0.0
        for i in range(n):
            if out[i] < 0.0:
                roots += math.sqrt(weight_times_work[i])
        if roots <= 0.0:
            break
        scale = left / roots
        pinned = False
        for i in range(n):
            if out[i] < 0.0 and math.sqrt(weight_times_work[i]) * scale < floor[i]:
                out[i] = floor[i]
                left -= floor[i]
                pinned = True
        if not pinned:
            for i in range(n):
                if out[i] < 0.0:
                    out[i] = math.sqrt(weight_times_work[i]) * scale
            return
    for i in range(n):
        out[i] = max(out[i], floor[i])
