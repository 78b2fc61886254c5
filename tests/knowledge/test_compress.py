"""Updates and activations as bytes: unbiased, bounded, exact in size, and refused where they are damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge.compress import Encoder, Feedback, Rows, Update, decode, pack_rows, unpack_rows
from gainnet.models.low_rank import Factors, LowRank

SHAPES = {"q": (24, 30), "k": (10, 30), "down": (30, 50)}
BITS = (2, 4, 8, 16, 32)


def adapter(seed: int, rank: int = 4, size: float = 1.0) -> LowRank:
    rng = np.random.default_rng(seed)
    layers = {
        name: Factors(
            (size * rng.standard_normal((rank, i))).astype(np.float32),
            (size * rng.standard_normal((o, rank))).astype(np.float32),
        )
        for name, (o, i) in SHAPES.items()
    }
    return LowRank(layers, 2.0, "base")


def moved(start: LowRank, change: LowRank) -> LowRank:
    layers = {n: Factors(f.a + change.layers[n].a, f.b + change.layers[n].b) for n, f in start.layers.items()}
    return replace(start, layers=layers)


def flat(adapter: LowRank) -> Float[np.ndarray, " number"]:
    return np.concatenate(
        [p.ravel() for n in sorted(adapter.layers) for p in (adapter.layers[n].a, adapter.layers[n].b.T)]
    )


@pytest.mark.parametrize("bits", BITS)
def test_errors_are_within_a_level_and_sizes_are_those_of_the_bytes(bits: int) -> None:
    before = adapter(0)
    after = moved(before, adapter(1, size=0.01))
    update = Encoder(bits).encode(before, after, np.random.default_rng(2))  # type: ignore[arg-type]
    received = decode(update.data, before)
    numbers = before.numbers
    head = 17 + 1 + 4
    packed = numbers * bits // 8 if bits >= 16 else 2 * -(-numbers // 128) + -(-numbers * bits // 8)
    assert update.bit == 8 * len(update.data) == 8 * (head + packed)
    change, got = flat(after) - flat(before), flat(received) - flat(before)
    if bits == 32:
        assert received.digest() == after.digest()
    elif bits == 16:
        np.testing.assert_allclose(got, change, rtol=2**-10, atol=4e-7)
    else:
        largest = np.repeat([np.abs(change[i : i + 128]).max() for i in range(0, numbers, 128)], 128)[:numbers]
        assert (np.abs(got - change) <= 2.0 * 1.008 * largest / (2**bits - 1) + 1e-6).all()
    assert list(received.layers) == list(before.layers)
    assert received.layers["q"].b.dtype == np.float32


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.untraced
def test_rounding_is_unbiased(bits: int) -> None:
    before = replace(adapter(0), layers={n: Factors(f.a * 0, f.b * 0) for n, f in adapter(0).layers.items()})
    after, rng = adapter(1), np.random.default_rng(5)
    draws = 200
    encoder = Encoder(bits)  # type: ignore[arg-type]
    got = np.stack([flat(decode(encoder.encode(before, after, rng).data, before)) for _ in range(draws)]).astype(
        np.float64
    )
    wanted, levels = flat(after).astype(np.float64), 2**bits - 1
    scale = np.repeat([np.abs(got[:, i : i + 128]).max() for i in range(0, len(wanted), 128)], 128)[: len(wanted)]
    part = (wanted / scale + 1.0) * levels / 2.0 % 1.0
    likely = (part > 0.05) & (part < 0.95)
    spread = 2.0 * scale / levels * np.sqrt(part * (1.0 - part) / draws)
    off = ((got.mean(axis=0) - wanted) / spread)[likely]
    # A standard normal each, of more than three hundred numbers.
    assert len(off) > 300
    assert np.mean(off**2) == pytest.approx(1.0, abs=0.25)
    assert np.mean(off) == pytest.approx(0.0, abs=4.0 / np.sqrt(len(off)))
    assert np.abs(off).max() < 5.0


@given(
    st.sampled_from([2, 4, 8]),
    st.lists(st.floats(-(2.0**49), 2.0**49, width=32), min_size=1, max_size=300),
    st.integers(0, 99),
)
@example(8, [1e-42], 0)
@example(2, [3e-39, -1e-40], 0)
@settings(max_examples=60, deadline=None)
def test_any_change_is_sent_within_its_bound(bits: int, numbers: list[float], seed: int) -> None:
    values = np.array(numbers, np.float32)
    layers = {"q": Factors(values[None, :], np.zeros((1, 1), np.float32))}
    after = LowRank(layers, 1.0, "base")
    before = replace(after, layers={"q": Factors(values[None, :] * 0, np.zeros((1, 1), np.float32))})
    update = Encoder(bits).encode(before, after, np.random.default_rng(seed))  # type: ignore[arg-type]
    got = decode(update.data, before).layers["q"].a[0]
    for at in range(0, len(values), 128):
        scale = np.abs(values[at : at + 128]).max()
        error = np.abs(got[at : at + 128].astype(np.float64) - values[at : at + 128])
        step = 2.0**-133  # of the smallest bfloat16 numbers, whose scale is rounded up by as much
        assert (error <= 2.01 * (scale.astype(np.float64) + step) / (2**bits - 1) + 1e-44).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tiny", [False, True])
def test_what_arrives_is_what_the_formula_says(bits: int, tiny: bool) -> None:
    """Written once more for all blocks at once, to the bit: a change, its scale, its dice, its level, and back."""
    before, after = adapter(0), moved(adapter(0), adapter(1, size=0.01))
    if tiny:
        before, after = (replace(one, layers=_times(one, np.float32(2.0**-112))) for one in (before, after))
    change = (flat(after) - flat(before)).astype(np.float32)
    whole = -(-len(change) // 128)
    block = np.zeros((whole, 128), np.float32)
    block.flat[: len(change)] = change
    word = np.abs(block).max(axis=1).view(np.uint32).astype(np.uint64)
    scale = ((word + 0xFFFF) >> 16 << 16).astype(np.uint32).view(np.float32)[:, None]
    lift = np.where(scale < 2.0**-100, np.float32(2.0**64), np.float32(1.0))
    assert bool((lift > 1.0).any()) == tiny
    steps = np.float32(2**bits - 1)
    words = np.random.default_rng(3).integers(0, 2**64 - 1, whole * 32, np.uint64, endpoint=True)
    dice = words.view(np.uint16).reshape(whole, 128).astype(np.float32) * np.float32(2.0**-16)
    value = block * lift * (np.float32(0.5) * steps / (scale * lift)) + dice
    level = np.floor(np.minimum(value + (np.float32(0.5) * steps + np.float32(2.0**-17)), steps))
    told = (level * (np.float32(2.0) / steps) - np.float32(1.0)) * scale
    update = Encoder(bits).encode(before, after, np.random.default_rng(3))  # type: ignore[arg-type]
    np.testing.assert_array_equal(flat(decode(update.data, before)), told.ravel()[: len(change)] + flat(before))


def _times(adapter: LowRank, factor: np.float32) -> dict[str, Factors]:
    return {name: Factors(factors.a * factor, factors.b * factor) for name, factors in adapter.layers.items()}


@pytest.mark.compiles
def test_same_generator_same_bytes() -> None:
    before, after = adapter(0), adapter(1)
    one, two, other = (Encoder(4).encode(before, after, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.data == two.data
    assert one.digest == two.digest != other.digest
    assert Update(one.data) == one


def test_what_did_not_change_costs_one_bit() -> None:
    before, drawn = adapter(0), adapter(1)
    only_b = replace(before, layers={n: Factors(f.a, drawn.layers[n].b) for n, f in before.layers.items()})
    numbers = sum(f.b.size for f in before.layers.values())
    update = Encoder(4).encode(before, only_b, np.random.default_rng(0))
    assert len(update.data) == 22 + 2 * -(-numbers // 128) + -(-numbers // 2)
    received = decode(update.data, before)
    for name, factors in received.layers.items():
        np.testing.assert_array_equal(factors.a, before.layers[name].a)
    nothing = Encoder(4).encode(before, before, np.random.default_rng(0))
    assert len(nothing.data) == 22
    assert decode(nothing.data, before).digest() == before.digest()
    little = moved(before, adapter(2, size=1e-3))
    skipped = Encoder(4, threshold=0.01).encode(before, little, np.random.default_rng(0))
    assert len(skipped.data) == 22


@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_lost_is_sent_later(bits: int) -> None:
    """The sum of what arrives follows the sum of what was meant to within one update's loss."""
    start, rng = adapter(0), np.random.default_rng(1)
    encoder = Encoder(bits)  # type: ignore[arg-type]
    held, meant = start, flat(start).astype(np.float64)
    for seed in range(20):
        after = moved(held, adapter(seed, size=0.01))
        meant += flat(after) - flat(held)
        held = decode(encoder.encode(held, after, rng, basis="ffa").data, held)
    assert encoder.feedback is not None
    np.testing.assert_allclose(meant - flat(held), encoder.feedback.lost, atol=1e-5)
    resumed = Encoder(bits, feedback=Feedback("ffa", encoder.feedback.lost.copy()))  # type: ignore[arg-type]
    after = moved(held, adapter(99, size=0.01))
    one, two = (each.encode(held, after, np.random.default_rng(7), "ffa") for each in (encoder, resumed))
    assert one.data == two.data
    other = Encoder(bits, feedback=resumed.feedback)  # type: ignore[arg-type]
    plain = Encoder(bits)  # type: ignore[arg-type]
    sent = [each.encode(held, after, np.random.default_rng(7), "another").data for each in (other, plain)]
    assert sent[0] == sent[1]


def test_a_factor_below_the_threshold_is_sent_once_it_adds_up() -> None:
    start = adapter(0)
    step = moved(start, adapter(1, size=4e-3))
    encoder, rng = Encoder(8, threshold=0.01), np.random.default_rng(0)
    sizes = [len(encoder.encode(start, step, rng, basis="ffa").data) for _ in range(4)]
    assert sizes[0] == sizes[1] == 22
    assert max(sizes) > 22


def test_bad_updates_are_refused_in_one_line() -> None:
    before, after = adapter(0), adapter(1)
    data = Encoder(4).encode(before, after, np.random.default_rng(0)).data
    for cut in (b"", data[:10], data[:-1], data + b"\0", data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(InputError, match=r"^update: [^\n]*$"):
            decode(cut, before)
    for other in (adapter(5), adapter(0, rank=3), replace(before, base="another")):
        with pytest.raises(InputError, match="another adapter"):
            decode(data, other)
    bad = replace(
        after, layers={**after.layers, "q": Factors(after.layers["q"].a * np.float32(np.nan), after.layers["q"].b)}
    )
    wide = replace(after, layers={**after.layers, "q": Factors(after.layers["q"].a[:, :-1], after.layers["q"].b)})
    few = replace(after, layers={"q": after.layers["q"]})
    for wrong, words in ((bad, "nan"), (wide, "another shape"), (few, "set of layers"), (adapter(1, rank=3), "shape")):
        with pytest.raises(InputError, match=words):
            Encoder(4).encode(before, wrong, np.random.default_rng(0))
    with pytest.raises(InputError, match="nan"):  # in a factor that may be left out for having moved little
        Encoder(4, threshold=0.5).encode(before, bad, np.random.default_rng(0))
    huge = moved(before, adapter(1, size=1e6))
    with pytest.raises(InputError, match="16 bits"):
        Encoder(16).encode(before, huge, np.random.default_rng(0))


@pytest.mark.parametrize("patch", ["bits", "length", "scale"])
def test_a_forged_update_is_refused(patch: str) -> None:
    import struct
    import zlib

    before = adapter(0)
    data = bytearray(Encoder(4).encode(before, adapter(1), np.random.default_rng(0)).data[:-4])
    if patch == "bits":
        data[4] = 5
    elif patch == "length":
        data += b"\0"
    else:
        data[18:20] = b"\xff\xff"
    with pytest.raises(InputError, match="update: "):
        decode(bytes(data) + struct.pack("<I", zlib.crc32(data)), before)


def rows(seed: int, shape: tuple[int, int] = (7, 33)) -> Float[np.ndarray, "token width"]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(st.sampled_from([4, 8, 16, 32]), st.integers(0, 6), st.integers(1, 33), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_activations_keep_within_half_a_level(bits: int, tokens: int, width: int, seed: int) -> None:
    sent = rows(seed, (tokens, width)) * np.float32(3.0)
    data = pack_rows(sent, bits)  # type: ignore[arg-type]
    each = {4: 2 + -(-width // 2), 8: 2 + width, 16: 2 * width, 32: 4 * width}[bits]
    assert len(data) == 9 + tokens * each
    got = unpack_rows(data)
    assert got.shape == sent.shape
    assert got.dtype == np.float32
    if bits == 32:
        np.testing.assert_array_equal(got, sent)
    elif bits == 16:
        np.testing.assert_allclose(got, sent, rtol=2**-10, atol=1e-6)
    else:
        bound = 1.008 * np.abs(sent).max(axis=1, initial=0.0, keepdims=True) / (2**bits - 2)
        assert (np.abs(got - sent) <= bound + 1e-6).all()
    assert data == pack_rows(sent, bits)  # type: ignore[arg-type]


def test_zero_rows_stay_zero() -> None:
    assert not unpack_rows(pack_rows(np.zeros((3, 5), np.float32), 4)).any()


def test_only_rows_that_moved_are_sent_and_both_ends_agree() -> None:
    here, there = Rows(8, change=0.1), Rows(8, change=0.1)
    first = rows(0)
    full, held = here.send(5, first)
    key, got = there.receive(full)
    assert key == 5
    np.testing.assert_array_equal(got, held)
    second = first.copy()
    second[2] += 1.0
    second[3] *= 1.01
    data, held = here.send(5, second)
    assert len(data) == 8 + 1 + 9 + (2 + 33)
    np.testing.assert_array_equal(there.receive(data)[1], held)
    np.testing.assert_array_equal(held[3], got[3])
    assert np.abs(held[2] - second[2]).max() < 0.05
    idle, _ = here.send(5, second)
    assert len(idle) == 18
    there.receive(idle)
    longer, _ = here.send(5, rows(1, (9, 33)))
    there.receive(longer)
    other, _ = here.send(6, rows(2))
    assert here.digest() != there.digest()
    there.receive(other)
    assert here.digest() == there.digest()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 9)), max_size=12),
    st.sampled_from([0.0, 0.7, 1.5]),
)
@settings(max_examples=40, deadline=None)
def test_both_ends_agree_after_any_messages(messages: list[tuple[int, int, int]], change: float) -> None:
    here, there = Rows(4, change), Rows(4, change)
    for key, tokens, seed in messages:
        data, held = here.send(key, rows(seed, (tokens, 6)))
        np.testing.assert_array_equal(there.receive(data)[1], held)
    assert here.digest() == there.digest()


def test_bad_activations_are_refused() -> None:
    good = rows(0)
    data = pack_rows(good, 4)
    for cut in (b"", data[:5], data[:-1], data + b"\0", b"\5" + data[1:], data[:9] + b"\xff\xff" + data[11:]):
        with pytest.raises(InputError, match=r"^activation: [^\n]*$"):
            unpack_rows(cut)
    for value, bits in ((np.nan, 4), (np.inf, 32), (1e6, 16)):
        bad = good.copy()
        bad[1, 1] = value
        with pytest.raises(InputError, match="cannot be sent"):
            pack_rows(bad, bits)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="cannot be sent"):
            Rows(bits).send(1, bad)  # type: ignore[arg-type]
    here, there = Rows(8), Rows(8)
    here.send(1, good)
    changed = good.copy()
    changed[0] += 1.0
    partial, _ = Rows(8, 0.5).send(1, good)
    here.change = 0.5
    partial, _ = here.send(1, changed)
    for data in (partial, b"", partial[:8]):
        with pytest.raises(InputError, match="activation: "):
            there.receive(data)
