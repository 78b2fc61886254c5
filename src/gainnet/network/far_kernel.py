"""Interference from cells that a user does not track: mean gains between tiles and cells times what each sends.

``far_cell`` and ``far_gain`` [tile far] are the strongest cells beyond the near ones and their mean gains,
``rest_gain`` [tile] is the sum over all cells beyond those; see ``near``. Powers are means of a resource block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.network.columns import HEARD, SENT

Reals = NDArray[np.float64]


@inner
def hear_far(
    far_cell: NDArray[np.int32], far_gain: NDArray[np.float32], rest_gain: Reals, cells: Reals, far_w: Reals
) -> None:
    """Write to ``far_w`` [tile] the power that a user in each tile receives from the cells far from it.

    ``sum_far gain sent``, and for the rest their gains times the mean over all cells of what they send.
    """
    mean = 0.0
    for cell in range(cells.shape[0]):
        mean += cells[cell, SENT] / cells.shape[0]
    for tile in range(far_cell.shape[0]):
        total = rest_gain[tile] * mean
        for place in range(far_cell.shape[1]):
            total += far_gain[tile, place] * cells[far_cell[tile, place], SENT]
        far_w[tile] = total


@inner
def send_far(
    far_cell: NDArray[np.int32], far_gain: NDArray[np.float32], rest_gain: Reals, sent_w: Reals, cells: Reals
) -> None:
    """Add to ``cells`` what each cell receives from users far from it, who send ``sent_w`` [tile] in all.

    The part of the rest is spread evenly over all cells.
    """
    rest = 0.0
    for tile in range(far_cell.shape[0]):
        if sent_w[tile] > 0.0:
            rest += rest_gain[tile] * sent_w[tile] / cells.shape[0]
            for place in range(far_cell.shape[1]):
                cells[far_cell[tile, place], HEARD] += far_gain[tile, place] * sent_w[tile]
    for cell in range(cells.shape[0]):
        cells[cell, HEARD] += rest
