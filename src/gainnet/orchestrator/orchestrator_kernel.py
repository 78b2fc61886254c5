"""Which ends to sound in a frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit


@njit
def choose_sounded(
    order: NDArray[np.int64], serving: NDArray[np.int64], most: int, cells: int, blocks: float, out: NDArray[np.float64]
) -> None:
    """Give ``blocks`` resource blocks of pilots to the first ``most`` users of each cell in the given order."""
    count = np.zeros(cells, np.int64)
    out[:] = 0.0
    for user in order:
        cell = serving[user]
        if cell >= 0 and count[cell] < most:
            count[cell] += 1
            out[user] = blocks
