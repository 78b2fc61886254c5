"""Changes to levels and back, compiled: one pass over each block of numbers that share a scale."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16

from gainnet.compiled import njit

BLOCK = 128
"""Numbers that share a scale."""
TINY, LIFT = np.float32(2.0**-100), np.float32(2.0**64)
"""Scale of a block below which its numbers are lifted while they are quantised, since their factor would overflow."""
INFINITE = np.uint32(0x7F800000)
"""As a word; NaN is beyond."""


@njit
def moved(
    numbers: Float[np.ndarray, " number"], origin: Float[np.ndarray, " origin"], ends: Int[np.ndarray, " factor"]
) -> UInt8[np.ndarray, " factor"]:
    """1 for each factor any of whose numbers is not what it was (all zeros, where ``origin`` is empty)."""
    found = np.zeros(len(ends), np.uint8)
    at, apart = 0, len(origin) > 0
    for factor in range(len(ends)):
        while at < ends[factor] and numbers[at] == (origin[at] if apart else np.float32(0.0)):
            at += 1
        found[factor] = at < ends[factor]
        at = ends[factor]
    return found


@njit
def quantise(
    numbers: Float[np.ndarray, " number"],
    origin: Float[np.ndarray, " origin"],
    dice: UInt16[np.ndarray, " die"],
    bits: int,
    scales: UInt16[np.ndarray, " block"],
    packed: UInt8[np.ndarray, " byte"],
) -> float:
    """Changes over their block's scale, rounded at random to one of two neighbouring levels, side by side in bytes.

    A scale is a block's largest magnitude, as a bfloat16 rounded up.

    Args:
        numbers: what there is.
        origin: what there was; empty for zeros.
        dice: 16 random bits for each number, which decide which neighbour it goes to; of whole blocks.
        bits: of a level, 2, 4 or 8.
        scales: where the scales of blocks go.
        packed: where levels go, the first in a byte's highest bits; of whole blocks.

    Returns:
        The largest magnitude of all; NaN or infinity where there is any, and nothing else is done then.
    """
    each = 8 // bits
    steps = np.float32(2**bits - 1)
    half, unit = np.float32(0.5) * steps, np.float32(2.0**-16)
    middle = half + np.float32(2.0**-17)
    change, level = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint8)
    word, apart = change.view(np.uint32), len(origin) > 0
    pair = np.zeros(2, np.uint32)  # the largest magnitude and a scale, as words and as numbers
    real = pair.view(np.float32)
    for at in range(len(scales)):
        first = at * BLOCK
        count = min(BLOCK, len(numbers) - first)
        if count < BLOCK:
            change[count:] = np.float32(0.0)
        if apart:
            for index in range(count):
                change[index] = numbers[first + index] - origin[first + index]
        else:
            change[:count] = numbers[first : first + count]
        top = np.uint32(0)
        for index in range(BLOCK):  # as words, magnitudes are in the same order, with NaN the largest
            top = max(top, word[index] & np.uint32(0x7FFFFFFF))
        pair[0] = max(pair[0], top)
        if top >= INFINITE:
            break
        short = (top + np.uint32(0xFFFF)) >> np.uint32(16)
        scales[at] = short
        pair[1] = short << np.uint32(16)
        scale, times = real[1], np.float32(0.0)
        if scale >= TINY:
            times = half / scale
        elif scale > np.float32(0.0):
            times = half / (scale * LIFT)
            for index in range(BLOCK):
                change[index] *= LIFT
        roll = dice[first : first + BLOCK]
        for index in range(BLOCK):
            value = change[index] * times + np.float32(roll[index]) * unit + middle
            level[index] = np.uint8(np.int32(min(value, steps)))
        if count < BLOCK:
            level[count:] = 0
        into = packed[first // each : (first + BLOCK) // each]
        if each == 2:
            for place in range(BLOCK // 2):
                into[place] = (level[2 * place] << 4) | level[2 * place + 1]
        elif each == 4:
            for place in range(BLOCK // 4):
                into[place] = (
                    (level[4 * place] << 6) | (level[4 * place + 1] << 4) | (level[4 * place + 2] << 2)
                ) | level[4 * place + 3]
        else:
            into[:] = level
    return float(real[0])


@njit
def restore(
    packed: UInt8[np.ndarray, " byte"],
    scales: Float[np.ndarray, " block"],
    bits: int,
    origin: Float[np.ndarray, " origin"],
    numbers: Float[np.ndarray, " number"],
) -> None:
    """What `quantise` made levels of, added to what there was (nothing, where that is empty), into ``numbers``.

    ``packed`` is of whole blocks.
    """
    each = 8 // bits
    half, mask = np.float32(2.0) / np.float32(2**bits - 1), np.uint8(2**bits - 1)
    level, apart = np.empty(BLOCK, np.uint8), len(origin) > 0
    for at in range(len(scales)):
        first = at * BLOCK
        size, count = scales[at], min(BLOCK, len(numbers) - first)
        held = packed[first // each : (first + BLOCK) // each]
        if each == 2:
            for place in range(BLOCK // 2):
                level[2 * place] = held[place] >> np.uint8(4)
                level[2 * place + 1] = held[place] & np.uint8(15)
        else:
            for place in range(BLOCK // each):
                for part in range(each):
                    level[place * each + part] = (held[place] >> np.uint8(8 - bits - bits * part)) & mask
        into = numbers[first : first + count]
        if apart:
            start = origin[first : first + count]
            for index in range(count):
                into[index] = (np.float32(level[index]) * half - np.float32(1.0)) * size + start[index]
        else:
            for index in range(count):
                into[index] = (np.float32(level[index]) * half - np.float32(1.0)) * size
