"""Products in bfloat16 on a processor, which torch leaves to oneDNN: how many of its compiled kernels are kept."""

from __future__ import annotations

import os

KERNELS = "64"
"""Kept of each kind: more than a model's matrices have shapes, each with its two gradients."""
CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""The environment's names for torch's own cache of kernels, and for oneDNN's; by default 1,024 are kept in each."""


def keep_few() -> None:
    """Keep few kernels from now on; where the environment names a number, that one counts.

    A kernel serves one number of rows. Texts without padding have another number in each batch, so that caches of the
    usual size fill with what is never used again: gigabytes. Both are read at a process's first such product, and what
    is said later is not heard.
    """
    for name in CACHES:
        os.environ.setdefault(name, KERNELS)
