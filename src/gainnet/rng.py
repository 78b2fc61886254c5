"""One seed, many independent streams: a stream is named by what it drives, so adding one never shifts another."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator that drives ``name`` (for example ``"mobility"``) in a run with this seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))))
