"""What is sent made small: changes of adapters, and activations, as real bytes.

An update is the change of an adapter's factors, cut into blocks of `BLOCK` numbers (rows of a and columns of b lie in
one piece, so a block rarely mixes ranks). A block has one scale, its largest magnitude as a bfloat16 rounded up, and
each number is rounded at random to one of ``2^bits`` levels between plus and minus that scale, so that its mean is what
was to be sent: no error is larger than ``2 scale / (2^bits - 1)``. At 16 bits numbers are float16 changes, rounded to
nearest; at 32 they are the factors themselves, and nothing is lost. Factors that did not change (all of a, under FFA)
cost one bit.

Activations and their gradients have one scale a token, and are rounded to nearest, so what is sent is a function of what there
was: levels are symmetric about zero, and no number is off by more than half a level, ``scale / (2^bits - 2)``.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from gainnet.errors import InputError
from gainnet.knowledge import compress_kernel as kernel
from gainnet.knowledge.compress_kernel import BLOCK
from gainnet.models.low_rank import LowRank

MARK = b"gnU1"
HEADER = struct.Struct("<4sB8sI")
"""Mark, bits, the beginning of the digest of what the change starts from, number of factors."""
LARGEST = {16: 65504.0}
"""Number that may be sent, by bits where the format allows no more than 1e15; beyond is an explosion."""
ZEROS = np.zeros(0, np.float32)
"""What there was, where that is zeros."""
CHECK = struct.Struct("<I")
"""CRC-32 of all before it."""

ROWS = struct.Struct("<BII")
"""Bits, rows and width of packed activations."""
SENT = struct.Struct("<II")
"""Key and number of rows of what a `Rows` sends."""

Bits = Literal[2, 4, 8, 16, 32]
ActivationBits = Literal[4, 8, 16, 32]


@dataclass(frozen=True, slots=True)
class Update:
    """What is sent for an adapter that was trained."""

    data: bytes

    @property
    def bit(self) -> int:
        """Its size, header and all."""
        return 8 * len(self.data)

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes: one that was seen is not counted again."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Feedback:
    """What was lost of a change, and the basis in which it may be added to the next."""

    basis: str
    lost: Float[np.ndarray, " number"]


class Encoder:
    """A sender's side.

    Attributes:
        bits: of each number.
        threshold: a factor whose change is at most this part of its norm is not sent.
        feedback: what earlier updates lost; the encoder's only state.
    """

    def __init__(self, bits: Bits, threshold: float = 0.0, feedback: Feedback | None = None) -> None:
        self.bits = bits
        self.threshold = threshold
        self.feedback = feedback

    def encode(self, before: LowRank, after: LowRank, rng: np.random.Generator, basis: str | None = None) -> Update:
        """The update from an adapter to another.

        What is lost is added to the next update of the same basis and shape. A basis says in which coordinates factors are:
        under FFA all rounds have one, while factors that were decomposed anew have none in common (``None``). Where an
        update never arrives, put `feedback` back to what it was.

        Raises:
            InputError: NaN, infinity, or a change too large for its format; adapters of other bases, layers or shapes.
        """
        _same_shape(before, after)
        change, origin, sizes = after.flat(), before.flat(), _sizes(before)
        held = self.feedback
        if basis is not None or self.bits >= 16:  # or else the difference is taken while it is quantised
            change, origin = change - origin, ZEROS
            if held is not None and held.basis == basis and len(held.lost) == len(change):
                change += held.lost
        sent = _moved(change, origin, before, sizes, self.threshold)
        numbers = after.flat() if self.bits == 32 else change
        if not sent.all():
            chosen = np.repeat(sent, sizes)
            numbers, origin = numbers[chosen], origin[chosen] if len(origin) else ZEROS
        header = HEADER.pack(MARK, self.bits, bytes.fromhex(before.digest()[:16]), len(sent))
        body = b"".join((header, np.packbits(sent).data, *_pack(numbers, origin, self.bits, rng)))
        update = Update(body + CHECK.pack(zlib.crc32(body)))
        self.feedback = None
        if basis is not None:
            arrived = decode(update.data, before).flat() - before.flat()
            self.feedback = Feedback(basis, change - arrived)
        return update


def decode(data: bytes, before: LowRank) -> LowRank:
    """The adapter that an update makes of the one it started from.

    Raises:
        InputError: bytes cut short or damaged, an update from another start (rank, base or values), NaN or infinity.
    """
    sizes = _sizes(before)
    flags = -(-len(sizes) // 8)
    if len(data) < HEADER.size + flags + CHECK.size or data[:4] != MARK:
        raise InputError(f"update: {len(data)} bytes are not an update of this adapter")
    if CHECK.unpack(data[-CHECK.size :])[0] != zlib.crc32(memoryview(data)[: -CHECK.size]):
        raise InputError("update: its bytes are damaged or cut short")
    _, bits, digest, count = HEADER.unpack_from(data)
    if digest.hex() != before.digest()[:16] or count != len(sizes):
        raise InputError("update: it was made from another adapter (rank, base or values) than the one here")
    if bits not in (2, 4, 8, 16, 32):
        raise InputError(f"update: {bits} bits a number; it must be 2, 4, 8, 16 or 32")
    mask = np.unpackbits(np.frombuffer(data, np.uint8, flags, HEADER.size), count=count).astype(bool)
    body = memoryview(data)[HEADER.size + flags : -CHECK.size]
    every = bool(mask.all())
    origin = before.flat() if every and bits != 32 else ZEROS
    numbers = _unpack(body, int(sizes[mask].sum()), bits, origin)
    held = numbers if every else _spread(before, np.repeat(mask, sizes), numbers, whole=bits == 32)
    return LowRank.of(held, before.shapes, before.scale, before.base)


def _spread(
    before: LowRank, sent: Bool[np.ndarray, " all"], numbers: Float[np.ndarray, " sent"], *, whole: bool
) -> Float[np.ndarray, " all"]:
    """All numbers of an adapter, with what was sent added to them, or in their place where it is ``whole``."""
    held = before.flattened()
    held[sent] = numbers if whole else numbers + held[sent]
    return held


def _same_shape(before: LowRank, after: LowRank) -> None:
    if before.base != after.base or before.scale != after.scale or before.layers.keys() != after.layers.keys():
        raise InputError("update: its two adapters are not of one base, scale and set of layers")
    if before.shapes == after.shapes:
        return
    name = next(name for name, shape in before.shapes.items() if after.shapes[name] != shape)
    raise InputError(f"update: layer {name} has another shape after training than before")


def _sizes(adapter: LowRank) -> Int[np.ndarray, " factor"]:
    """Numbers in a and b of each layer, layers by name."""
    shapes = adapter.shapes
    ordered = [shapes[name] for name in sorted(shapes)]
    return np.array([rank * side for outward, rank, inward in ordered for side in (inward, outward)])


def _moved(
    numbers: Float[np.ndarray, " number"],
    origin: Float[np.ndarray, " origin"],
    before: LowRank,
    sizes: Int[np.ndarray, " factor"],
    threshold: float,
) -> Bool[np.ndarray, " factor"]:
    """Which factors changed by more than that part of their norm; one with NaN in it did."""
    ends = np.cumsum(sizes)
    if threshold == 0.0:
        return np.asarray(kernel.moved(numbers, origin, ends), bool)
    change = numbers - origin if len(origin) else numbers
    size, start = (
        np.array([np.linalg.norm(part) for part in np.split(found, ends[:-1])]) for found in (change, before.flat())
    )
    return np.asarray(~(size <= threshold * start) & (size != 0.0))


def _pack(
    numbers: Float[np.ndarray, " number"], origin: Float[np.ndarray, " origin"], bits: int, rng: np.random.Generator
) -> tuple[memoryview, ...]:
    """Numbers less what there was, as bytes: scales of blocks, then levels; at 16 bits and more, all that is sent.

    Raises:
        InputError: NaN, infinity, or a number too large for its format.
    """
    if bits >= 16:
        _sendable(float(np.abs(numbers).max(initial=0.0)), bits)
        return (numbers.astype("<f4" if bits == 32 else "<f2").data,)
    whole = -(-len(numbers) // BLOCK)
    dice = rng.integers(0, 2**64 - 1, whole * BLOCK // 4, dtype=np.uint64, endpoint=True).view(np.uint16)
    scales, packed = np.empty(whole, np.uint16), np.empty(whole * BLOCK * bits // 8, np.uint8)
    _sendable(kernel.quantise(numbers, origin, dice, bits, scales, packed), bits)
    return scales.astype("<u2", copy=False).data, packed[: -(-len(numbers) * bits // 8)].data


def _sendable(largest: float, bits: int) -> None:
    if not largest <= LARGEST.get(bits, 1e15):
        raise InputError(f"update: a change is {largest:g}, which cannot be sent at {bits} bits")


def _unpack(
    body: memoryview, count: int, bits: int, origin: Float[np.ndarray, " origin"]
) -> Float[np.ndarray, " number"]:
    """What `_pack` packed, with what there was (nothing, where that is empty)."""
    blocks = -(-count // BLOCK)
    wanted = count * bits // 8 if bits >= 16 else 2 * blocks + -(-count * bits // 8)
    if len(body) != wanted:
        raise InputError(f"update: {len(body)} bytes of numbers where {wanted} belong")
    if bits >= 16:
        numbers = np.frombuffer(body, "<f4" if bits == 32 else "<f2").astype(np.float32)
        _finite(numbers)
        return numbers + origin if len(origin) else numbers
    scales = _widened(np.frombuffer(body, "<u2", blocks).astype(np.uint16))
    _finite(scales)
    packed = np.zeros(blocks * BLOCK * bits // 8, np.uint8)
    packed[: wanted - 2 * blocks] = np.frombuffer(body, np.uint8, offset=2 * blocks)
    numbers = np.empty(count, np.float32)
    kernel.restore(packed, scales, bits, origin, numbers)
    return numbers


def _finite(numbers: Float[np.ndarray, " number"]) -> None:
    if not np.isfinite(numbers).all():
        raise InputError("update: it holds NaN or infinity")


def pack_rows(rows: Float[np.ndarray, "token width"], bits: ActivationBits) -> bytes:
    """Rows as bytes.

    Raises:
        InputError: NaN, infinity, or a number too large for float16 at 16 bits.
    """
    largest = float(np.abs(rows).max(initial=0.0))
    if not np.isfinite(largest) or largest > LARGEST.get(bits, 1e15):
        raise InputError(f"activation: a number is {largest:g}, which cannot be sent at {bits} bits")
    header = ROWS.pack(bits, *rows.shape)
    if bits >= 16:
        return header + rows.astype("<f4" if bits == 32 else "<f2").tobytes()
    top = 2 ** (bits - 1) - 1
    short = _rounded_up(np.abs(rows).max(axis=1, initial=0.0))
    scale = _widened(short)
    factor = np.divide(top, scale, out=np.zeros_like(scale), where=scale > 0.0)
    level = np.rint(rows * factor[:, None]).astype(np.int8).view(np.uint8)
    if bits == 4:
        even = np.zeros((len(level), level.shape[1] + level.shape[1] % 2), np.uint8)
        even[:, : level.shape[1]] = level
        level = (even[:, ::2] << 4) | (even[:, 1::2] & 15)
    return bytes(header + short.astype("<u2").tobytes() + level.tobytes())


def unpack_rows(data: bytes) -> Float[np.ndarray, "token width"]:
    """The rows that bytes hold, float32.

    Raises:
        InputError: bytes cut short or too many, or NaN or infinity in them.
    """
    if len(data) < ROWS.size:
        raise InputError(f"activation: {len(data)} bytes where at least {ROWS.size} belong")
    bits, rows, width = ROWS.unpack_from(data)
    if bits not in (4, 8, 16, 32):
        raise InputError(f"activation: {bits} bits a number; it must be 4, 8, 16 or 32")
    row_bytes = 2 + (width if bits == 8 else -(-width // 2)) if bits < 16 else width * bits // 8
    if len(data) != ROWS.size + rows * row_bytes:
        raise InputError(f"activation: {len(data)} bytes where {ROWS.size + rows * row_bytes} belong")
    if bits >= 16:
        found = np.frombuffer(data, "<f4" if bits == 32 else "<f2", offset=ROWS.size).astype(np.float32)
        found = found.reshape(rows, width)
    else:
        scale = _widened(np.frombuffer(data, "<u2", rows, ROWS.size).astype(np.uint16))
        level = np.frombuffer(data, np.uint8, offset=ROWS.size + 2 * rows).reshape(rows, row_bytes - 2)
        if bits == 4:
            level = np.stack([level & 0xF0, level << 4], axis=2).reshape(rows, 2 * (row_bytes - 2))[:, :width]
        signed = level.view(np.int8) >> (4 if bits == 4 else 0)
        found = np.asarray(signed * (scale / np.float32(2 ** (bits - 1) - 1))[:, None], np.float32)
    if not np.isfinite(found).all():
        raise InputError("activation: it holds NaN or infinity")
    return found


class Rows:
    """One end of a channel of activations: what its other end holds, by key, and how to bring it up to date.

    A row is sent anew where it moved by more than ``change`` of the norm of what the other end holds of it. What both ends
    hold is equal after each message, as long as every message arrives, in order.
    """

    def __init__(self, bits: ActivationBits, change: float = 0.0) -> None:
        self.bits = bits
        self.change = change
        self._held: dict[int, Float[np.ndarray, "token width"]] = {}

    def send(self, key: int, rows: Float[np.ndarray, "token width"]) -> tuple[bytes, Float[np.ndarray, "token width"]]:
        """The message that tells the other end of rows, and what it then holds of them."""
        held = self._held.get(key)
        if held is None or held.shape != rows.shape:
            moved = np.ones(len(rows), bool)
        else:
            # Not <=, so that NaN counts as moved, and is refused.
            moved = ~(np.linalg.norm(rows - held, axis=1) <= self.change * np.linalg.norm(held, axis=1))
        body = pack_rows(np.asarray(rows[moved], np.float32), self.bits)
        data = SENT.pack(key, len(rows)) + np.packbits(moved).tobytes() + body
        return data, self._take(key, moved, unpack_rows(body))

    def receive(self, data: bytes) -> tuple[int, Float[np.ndarray, "token width"]]:
        """Key and rows of a message.

        Raises:
            InputError: bytes that are no message, or one that builds on rows which are not held here.
        """
        if len(data) < SENT.size:
            raise InputError(f"activation: {len(data)} bytes where at least {SENT.size} belong")
        key, count = SENT.unpack_from(data)
        flags = -(-count // 8)
        if len(data) < SENT.size + flags:
            raise InputError("activation: its bytes are cut short")
        moved = np.unpackbits(np.frombuffer(data, np.uint8, flags, SENT.size), count=count).astype(bool)
        sent = unpack_rows(data[SENT.size + flags :])
        held = self._held.get(key)
        known = held is not None and held.shape == (count, sent.shape[1])
        if len(sent) != moved.sum() or not (moved.all() or known):
            raise InputError(f"activation: key {key} builds on rows that are not held here")
        return key, self._take(key, moved, sent)

    def digest(self) -> str:
        """SHA-256 of all that is held: equal at both ends of a channel."""
        found = hashlib.sha256()
        for key in sorted(self._held):
            found.update(f"{key} {self._held[key].shape}".encode())
            found.update(self._held[key].tobytes())
        return found.hexdigest()

    def _take(
        self, key: int, moved: Bool[np.ndarray, " token"], sent: Float[np.ndarray, "row width"]
    ) -> Float[np.ndarray, "token width"]:
        held = sent if moved.all() else self._held[key].copy()
        if held is not sent:
            held[moved] = sent
        self._held[key] = held
        return held


def _rounded_up(scale: Float[np.ndarray, " block"]) -> UInt16[np.ndarray, " block"]:
    """The upper half of each float32, the next larger one where the lower half is not zero: a bfloat16 no smaller."""
    return ((scale.astype(np.float32).view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def _widened(short: UInt16[np.ndarray, " block"]) -> Float[np.ndarray, " block"]:
    return (short.astype(np.uint32) << np.uint32(16)).view(np.float32)
