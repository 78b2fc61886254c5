"""Which cells each user tracks, and how it hears the others: what keeps the cost of a user flat as networks grow.

Up to ``NEAR_ALL`` cells every user tracks every link. In larger networks the area is cut into square tiles. Of each
tile the ``NEAR`` cells with the greatest mean gain at its centre are tracked: their state, shadowing, fading and
soundings are simulated link by link, and they alone serve. A cell that leaves this set is forgotten; one that comes
starts from the stationary distribution of the field, so nothing jumps where links are tracked. All others are a mean
field: a user receives ``sum_cell gain sent`` over them with the mean gain between the tile's centre and the cell, over
states of the link and shadowing, and cells receive users' powers likewise. The mean of the interference is then right,
its variance lacks the far cells'. The ``FAR`` strongest of these count one by one, the rest with what cells send in the
mean, and so the cost of a tile, too, is flat. Users off the area count as in the tile nearest to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gainnet.network.columns import EAST, NORTH
from gainnet.network.near_kernel import mean_gains

NEAR = 24
NEAR_ALL = 28
FAR = 64
TILES_PER_SPACING = 4.0
TILES_PER_CELL_MAX = 64.0
TILES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of the area, row by row from its lower left; just one, and no far cells, where all cells are near.

    Attributes:
        corner_m: lower left of the first tile.
        side_m: side of a tile.
        columns, lines: how many there are.
        near: cells tracked in each tile.
        far_cell: strongest cells beyond those.
        far_gain: their mean gains.
        rest_gain: sum of the mean gains of all the others.
    """

    corner_m: tuple[float, float]
    side_m: float
    columns: int
    lines: int
    near: Int[np.ndarray, "tile slot"]
    far_cell: Int[np.ndarray, "tile far"]
    far_gain: Float[np.ndarray, "tile far"]
    rest_gain: Float[np.ndarray, " tile"]

    def at(self, position_m: Float[np.ndarray, "user 2"]) -> Int[np.ndarray, " user"]:
        """The tile that each user is in, the nearest one where it is in none."""
        # Clipped before the cast: a trace may lead anywhere.
        column = np.clip((position_m[:, 0] - self.corner_m[0]) / self.side_m, 0.0, self.columns - 1.0).astype(np.int64)
        line = np.clip((position_m[:, 1] - self.corner_m[1]) / self.side_m, 0.0, self.lines - 1.0).astype(np.int64)
        return np.asarray(line * self.columns + column)


def side_m(cell_xy_m: Float[np.ndarray, "cell 2"], area_m: tuple[float, float, float, float]) -> float:
    """Side of a tile: a quarter of the median distance from a site to the next, but at most 64 tiles a cell."""
    sites = np.unique(cell_xy_m, axis=0)
    gaps = [np.sort(np.hypot(*(sites - site).T))[1] for site in sites] if len(sites) > 1 else [np.inf]
    left, low, right, high = area_m
    least = np.sqrt((right - left) * (high - low) / (TILES_PER_CELL_MAX * len(cell_xy_m)))
    return float(max(np.median(gaps) / TILES_PER_SPACING, least))


def build(
    cells: Float[np.ndarray, "cell column"],
    area_m: tuple[float, float, float, float],
    table: Float[np.ndarray, "distance 7"],
    rules: NDArray[Any],
    near: int | None = None,
) -> Tiles:
    """Cut the area into tiles; ``near`` overrides how many cells are tracked (all, where there are no more)."""
    count = len(cells)
    tracked = min(count, (count if count <= NEAR_ALL else NEAR) if near is None else near)
    left, low, right, high = area_m
    if tracked == count:
        nothing = np.zeros((1, 0))
        return Tiles(
            (left, low), 1.0, 1, 1, np.arange(count)[None], nothing.astype(np.int32), nothing.astype(np.float32),
            np.zeros(1),
        )  # fmt: skip
    side = side_m(cells[:, [EAST, NORTH]], area_m)
    columns, lines = (max(1, int(np.ceil(length / side))) for length in (right - left, high - low))
    line, column = np.divmod(np.arange(columns * lines), columns)
    centre = np.stack([left + (column + 0.5) * side, low + (line + 0.5) * side], axis=-1)
    last = min(tracked + FAR, count)
    near_cell = np.empty((len(centre), tracked), dtype=np.int64)
    far_cell = np.empty((len(centre), last - tracked), dtype=np.int32)
    far_gain = np.empty(far_cell.shape, dtype=np.float32)
    rest_gain = np.empty(len(centre))
    for first in range(0, len(centre), TILES_AT_ONCE):
        some = slice(first, first + TILES_AT_ONCE)
        gain = np.empty((len(centre[some]), count))
        mean_gains(centre[some], cells, table, rules, gain)
        order = np.argsort(-gain, axis=1, kind="stable")
        near_cell[some] = order[:, :tracked]
        far_cell[some] = order[:, tracked:last]
        far_gain[some] = np.take_along_axis(gain, order[:, tracked:last], axis=1)
        rest_gain[some] = np.take_along_axis(gain, order[:, last:], axis=1).sum(axis=1)
    return Tiles((left, low), side, columns, lines, near_cell, far_cell, far_gain, rest_gain)
