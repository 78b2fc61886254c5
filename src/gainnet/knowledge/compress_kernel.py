"""Numbers to levels and back, compiled: a pass over each block of numbers that share a scale."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from gainnet.compiled import njit

Block = Float[np.ndarray, "block number"]


@njit
def largest(numbers: Float[np.ndarray, " number"], found: Float[np.ndarray, " block"], block: int) -> None:
    """The largest magnitude in each block, into ``found``."""
    for at in range(len(found)):
        top = np.float32(0.0)
        for index in range(at * block, min((at + 1) * block, len(numbers))):
            top = max(top, abs(numbers[index]))
        found[at] = top


@njit
def quantise(
    numbers: Float[np.ndarray, " number"],
    factor: Float[np.ndarray, " block"],
    dice: UInt16[np.ndarray, " number"],
    bits: int,
    packed: UInt8[np.ndarray, " byte"],
) -> None:
    """Numbers times their block's factor, rounded at random to one of two neighbouring levels, side by side in bytes.

    Args:
        numbers: scaled by ``factor``, they are from -steps/2 to steps/2, of steps = 2^bits - 1.
        factor: of each block.
        dice: 16 random bits for each number, which decide which neighbour it goes to; of whole blocks.
        bits: of a level, 2, 4 or 8.
        packed: where levels go, the first in a byte's highest bits; of whole blocks.
    """
    block = len(dice) // len(factor)
    each = 8 // bits
    steps = np.float32(2**bits - 1)
    middle, unit = np.float32(0.5) * steps + np.float32(2.0**-17), np.float32(2.0**-16)
    level = np.zeros(block, np.uint8)
    for at in range(len(factor)):
        first = at * block
        count, times = min(block, len(numbers) - first), factor[at]
        for index in range(count):
            value = numbers[first + index] * times + np.float32(dice[first + index]) * unit + middle
            level[index] = np.uint8(np.int32(min(value, steps)))
        level[count:] = 0
        start = first // each
        if each == 2:
            for place in range(block // 2):
                packed[start + place] = (level[2 * place] << 4) | level[2 * place + 1]
        elif each == 4:
            for place in range(block // 4):
                packed[start + place] = (
                    (level[4 * place] << 6) | (level[4 * place + 1] << 4) | (level[4 * place + 2] << 2)
                ) | level[4 * place + 3]
        else:
            packed[start : start + block] = level


@njit
def restore(
    packed: UInt8[np.ndarray, " byte"],
    scale: Float[np.ndarray, " block"],
    bits: int,
    numbers: Float[np.ndarray, " number"],
) -> None:
    """What `quantise` made levels of, into ``numbers``; ``packed`` is of whole blocks."""
    each = 8 // bits
    block = len(packed) * each // max(len(scale), 1)
    half, mask = np.float32(2.0) / np.float32(2**bits - 1), np.uint8(2**bits - 1)
    level = np.empty(block, np.uint8)
    for at in range(len(scale)):
        first = at * block
        start, size, count = first // each, scale[at], min(block, len(numbers) - first)
        if each == 2:
            for place in range(block // 2):
                byte = packed[start + place]
                level[2 * place], level[2 * place + 1] = byte >> np.uint8(4), byte & np.uint8(15)
        else:
            for place in range(block // each):
                byte = packed[start + place]
                for part in range(each):
                    level[place * each + part] = (byte >> np.uint8(8 - bits - bits * part)) & mask
        for index in range(count):
            numbers[first + index] = (np.float32(level[index]) * half - np.float32(1.0)) * size
