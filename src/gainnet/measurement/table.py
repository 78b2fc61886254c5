"""Columns that grow: NumPy arrays filled in place, doubled when full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Columns = Mapping[str, np.ndarray]


class Table:
    """Named columns of equal length; appending copies into memory that is already there."""

    def __init__(self, types: Mapping[str, Any], capacity: int) -> None:
        """Columns ``name -> dtype`` (or ``(dtype, width)`` for a matrix), with room for ``capacity`` rows at first."""
        self._columns: dict[str, np.ndarray] = {}
        for name, kind in types.items():
            dtype, width = kind if isinstance(kind, tuple) else (kind, None)
            self._columns[name] = np.zeros(capacity if width is None else (capacity, width), dtype)
        self._capacity = capacity
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: Sequence[np.ndarray]) -> None:
        """Append rows: one array for each column, in the order of the columns, all of the same length."""
        begin, end = self._length, self._length + len(values[0])
        if end > self._capacity:
            self._grow(end)
        for column, value in zip(self._columns.values(), values, strict=True):
            column[begin:end] = value
        self._length = end

    def append(self, values: Sequence[Any]) -> None:
        """Append one row: one entry for each column, in the order of the columns."""
        if self._length == self._capacity:
            self._grow(self._length + 1)
        for column, value in zip(self._columns.values(), values, strict=True):
            column[self._length] = value
        self._length += 1

    def columns(self) -> dict[str, np.ndarray]:
        """The filled part of every column (views)."""
        return {name: column[: self._length] for name, column in self._columns.items()}

    def _grow(self, least: int) -> None:
        self._capacity = max(2 * self._capacity, least)
        for name, column in self._columns.items():
            wider = np.zeros((self._capacity, *column.shape[1:]), column.dtype)
            wider[: self._length] = column[: self._length]
            self._columns[name] = wider
