"""Masked sums: exact, whoever drops out, and nothing but the sum to be seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge.secure import Collector, FixedPoint, Member, _joined, _split, masked_sum, uplink_bit


def vectors(count: int, length: int, seed: int = 0) -> dict[int, Float[np.ndarray, " number"]]:
    rng = np.random.default_rng(seed)
    return {3 * number + 1: rng.standard_normal(length) for number in range(count)}


def rounded(vector: Float[np.ndarray, " number"], fixed: FixedPoint) -> Float[np.ndarray, " number"]:
    return np.rint(vector * 2.0**fixed.fraction) * 2.0**-fixed.fraction


@given(st.integers(1, 7), st.integers(0, 40), st.sampled_from([(16, 8), (32, 20), (64, 40)]), st.data())
@settings(max_examples=25, deadline=None)
@pytest.mark.untraced
def test_the_sum_is_exact_whoever_is_lost(
    count: int, length: int, format_: tuple[int, int], data: st.DataObject
) -> None:
    fixed = FixedPoint(*format_)
    held = vectors(count, length)
    threshold = count // 2 + 1
    order = data.draw(st.permutations(sorted(held)))
    lost = order[: data.draw(st.integers(0, count - threshold))]
    silent = order[len(lost) : len(lost) + data.draw(st.integers(0, count - len(lost) - threshold))]
    found = masked_sum(held, threshold, np.random.default_rng(1).bytes, fixed, lost, silent)
    left = [number for number in held if number not in lost]
    exact = np.sum([rounded(held[number], fixed) for number in left], axis=0)
    np.testing.assert_array_equal(found.total, exact)
    assert list(found.survivors) == left


def test_bits_are_those_of_the_messages() -> None:
    count, length = 5, 100
    found = masked_sum(vectors(count, length), 3, np.random.default_rng(0).bytes)
    sealed = 4 + 2 * 66 + 16
    up = 64 + (count - 1) * sealed + 4 * length + count * (4 + 66)
    down = count * (4 + 64) + (count - 1) * sealed + 4 * count
    assert set(found.up_bit.values()) == {8 * up} == {uplink_bit(length, count)}
    assert set(found.down_bit.values()) == {8 * down}


def test_below_the_threshold_there_is_no_sum() -> None:
    held = vectors(4, 5)
    for lost, silent in (([1, 4], []), ([1], [4]), ([], [1, 4])):
        with pytest.raises(InputError, match=r"^secure: [^\n]*3 are needed[^\n]*$"):
            masked_sum(held, 3, np.random.default_rng(0).bytes, lost=lost, silent=silent)


def test_masked_vectors_tell_nothing() -> None:
    """Bytes of masked vectors are uniform, whatever the vector, and those of two members differ everywhere they may."""
    fixed = FixedPoint(32, 20)
    held = {number: np.zeros(20_000) for number in (0, 1, 2)}
    rng = np.random.default_rng(0)
    members = {number: Member(number, 2, fixed, rng.bytes) for number in held}
    keys = {number: member.keys() for number, member in members.items()}
    sealed = {number: member.share(keys) for number, member in members.items()}
    masked = {
        number: member.mask({o: sealed[o][number] for o in members if o != number}, held[number])
        for number, member in members.items()
    }
    for data in masked.values():
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        expected = len(data) / 256
        # Chi-squared with 255 degrees of freedom: mean 255, deviation 22.6.
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * 22.6
    pairs = np.sum([np.frombuffer(data, np.uint32) for data in masked.values()], axis=0, dtype=np.uint32)
    assert np.count_nonzero(pairs) > 19_900
    revealed = {number: member.reveal([0, 1, 2]) for number, member in members.items()}
    total = Collector(2, fixed, keys, (0, 1, 2)).total(masked, revealed)
    assert not total.any()
    with pytest.raises(InputError, match="already"):
        members[0].reveal([0, 1])


def test_same_entropy_same_messages() -> None:
    fixed = FixedPoint()
    one, two, other = (Member(0, 1, fixed, np.random.default_rng(seed).bytes).keys() for seed in (1, 1, 2))
    assert one == two != other


@given(st.integers(0, 2**256 - 1), st.integers(1, 6), st.integers(0, 4), st.randoms())
@settings(max_examples=50, deadline=None)
def test_shares_make_the_secret_and_fewer_do_not(secret: int, threshold: int, more: int, random: st.DataObject) -> None:
    holders = list(range(threshold + more))
    shares = _split(secret, holders, threshold, np.random.default_rng(0).bytes)
    random.shuffle(holders)  # type: ignore[attr-defined]
    assert _joined({holder: shares[holder] for holder in holders[:threshold]}) == secret
    if threshold > 1:
        assert _joined({holder: shares[holder] for holder in holders[: threshold - 1]}) != secret


def test_what_is_wrong_is_refused() -> None:
    entropy = np.random.default_rng(0).bytes
    for bits, fraction in ((24, 4), (32, 32), (16, -1)):
        with pytest.raises(InputError, match="bits must be"):
            FixedPoint(bits, fraction)
    for value in (2.0**11, np.nan, np.inf):
        with pytest.raises(InputError, match="too large"):
            masked_sum({0: np.array([value]), 1: np.zeros(1)}, 2, entropy)
    with pytest.raises(InputError, match="more than half"):
        masked_sum(vectors(4, 2), 2, entropy)
    with pytest.raises(InputError, match="different lengths"):
        masked_sum({0: np.zeros(2), 1: np.zeros(3)}, 2, entropy)
    with pytest.raises(InputError, match="no keys"):
        Member(0, 1, FixedPoint(), entropy).share({})
    members = [Member(number, 2, FixedPoint(), entropy) for number in range(3)]
    keys = {member.number: member.keys() for member in members}
    with pytest.raises(InputError, match="1 members sent keys"):
        members[0].share({0: keys[0]})
    for bad in ({**keys, 2: keys[1]}, {**keys, 2: b"short"}):
        with pytest.raises(InputError, match="public keys"):
            members[0].share(bad)
    with pytest.raises(InputError, match="X25519"):
        members[0].share({**keys, 2: bytes(64)})
    sealed = [member.share(keys) for member in members]
    with pytest.raises(InputError, match="changed on the way"):
        members[0].mask({1: sealed[1][0][:-1] + b"\0"}, np.zeros(1))
    with pytest.raises(InputError, match="1 members shared"):
        Member.mask(members[2], {}, np.zeros(1))
    inbox = [{o: sealed[o][m.number] for o in range(3) if o != m.number} for m in members]
    masked = {m.number: m.mask(inbox[m.number], np.ones(2)) for m in members[:2]}
    with pytest.raises(InputError, match="masked vector already"):
        members[0].mask(inbox[0], np.zeros(2))
    with pytest.raises(InputError, match="survivors"):
        members[0].reveal([0])
    with pytest.raises(InputError, match="survivors"):
        members[0].reveal([0, 1, 9])
    revealed = {m.number: m.reveal([0, 1]) for m in members[:2]}
    collector = Collector(2, FixedPoint(), keys, (0, 1, 2))
    np.testing.assert_array_equal(collector.total(masked, revealed), [2.0, 2.0])
    wrong = {**revealed, 0: {**revealed[0], 2: revealed[0][0]}}
    with pytest.raises(InputError, match="do not make its key"):
        collector.total(masked, wrong)
    with pytest.raises(InputError, match="1 shares of member 2"):
        collector.total(masked, {**revealed, 0: {0: revealed[0][0], 1: revealed[0][1]}})
    forged = {m: {**r, 2: _split(7, [0, 1, 2], 2, entropy)[m]} for m, r in revealed.items()}
    with pytest.raises(InputError, match="do not make its key"):
        collector.total(masked, forged)
