"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and ``~user`` as home folders; as it stands where there is no such user."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
