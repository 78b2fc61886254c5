"""Small triangular matrices, many at a time, compiled: calls of a library would take longer than the arithmetic."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.compiled import njit

LEAST = 1e-12
"""Of a column's own length: what is left of one that depends on those before it."""


@njit
def whiten(gram: Float[np.ndarray, "layer width width"], over: Float[np.ndarray, "layer width width"]) -> None:
    """Upper triangular ``over`` with ``over^T gram over = 1``: the inverse of the Cholesky factor of each, transposed.

    A column that depends on those before it, or is zero, is made zero.
    """
    width = gram.shape[1]
    lower = np.empty((width, width))
    for layer in range(len(gram)):
        found = over[layer]
        found[:] = 0.0
        for column in range(width):
            size = gram[layer, column, column]
            for row in range(column):
                value = gram[layer, column, row]
                for at in range(row):
                    value -= lower[column, at] * lower[row, at]
                value = value / lower[row, row] if lower[row, row] > 0.0 else 0.0
                lower[column, row] = value
                size -= value * value
            good = size > LEAST * gram[layer, column, column] and size > 0.0
            lower[column, column] = np.sqrt(size) if good else 0.0
            if not good:
                continue
            # Forward substitution: row `column` of the inverse of the lower factor, kept as a column.
            for at in range(column):
                part = lower[column, at]
                for row in range(at + 1):
                    found[row, column] -= part * found[row, at]
            for row in range(column):
                found[row, column] /= lower[column, column]
            found[column, column] = 1.0 / lower[column, column]
