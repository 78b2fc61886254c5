"""Numbers rounded to half precision, compiled: NumPy converts them one by one where it was built for old processors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt32

from gainnet.compiled import njit

SIGN, INFINITE = np.uint32(0x80000000), np.uint32(0x7F800000)
LEAST, MOST = np.uint32(0x38800000), np.uint32(0x477FE000)
"""The smallest normal number of half precision, and the largest, as words of float32."""
LOST, ONE, BELOW_HALF = np.uint32(13), np.uint32(1), np.uint32(0xFFF)
"""Bits of a float32's fraction that half precision has not, a word's last bit, and just under half of what they count."""
UNIT = np.float32(0.5)
"""From here to its double, float32 is as fine as half precision is below its smallest normal number."""


@njit
def halve(numbers: Float[np.ndarray, " number"], words: UInt32[np.ndarray, " number"]) -> None:
    """Each number is made the nearest one of IEEE half precision, in place, as ``numbers.astype(np.float16)`` does.

    ``words``: the same memory.
    """
    for at in range(len(numbers)):
        word = words[at]
        size = word & ~SIGN
        fine = np.float32(abs(numbers[at]) + UNIT) - UNIT
        coarse = ((size + BELOW_HALF + ((size >> LOST) & ONE)) >> LOST) << LOST
        coarse = INFINITE if coarse > MOST else coarse
        words[at] = word if size > INFINITE else (word & SIGN) | coarse
        if size < LEAST:
            numbers[at] = np.copysign(fine, numbers[at])
