"""Privacy: the accountant against Opacus', noise and clips against what they should be."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.knowledge.masked import Masks, total
from gainnet.knowledge.privacy import (
    Accountant,
    ExamplePrivacy,
    UpdatePrivacy,
    clipped,
    noise_multiplier,
    noised,
    private_mean,
    sampled,
)
from gainnet.knowledge.secure import FixedPoint
from gainnet.models.low_rank import Factors, LowRank


def adapter(seed: int, rank: int = 4, size: float = 1.0, shape: tuple[int, int] = (30, 20)) -> LowRank:
    rng = np.random.default_rng(seed)
    layers = {
        name: Factors(
            rng.standard_normal((rank, shape[1])).astype(np.float32),
            (size * rng.standard_normal((shape[0], rank))).astype(np.float32),
        )
        for name in ("q", "k")
    }
    return LowRank(layers, 2.0, "base")


def moved(start: LowRank, size: float, seed: int) -> LowRank:
    rng = np.random.default_rng(seed)
    layers = {
        n: Factors(f.a, (f.b + size * rng.standard_normal(f.b.shape)).astype(np.float32))
        for n, f in start.layers.items()
    }
    return replace(start, layers=layers)


def flat(adapter: LowRank) -> Float[np.ndarray, " number"]:
    return np.concatenate([f.b.astype(np.float64).ravel() for f in adapter.layers.values()])


@functools.cache
def opacus_rdp() -> Any:
    """The module of Opacus's accountant by itself: the package would import torch."""
    spec = find_spec("opacus")
    if spec is None or spec.origin is None:
        pytest.skip("needs the extra learn")
    path = Path(spec.origin).parent / "accountants" / "analysis" / "rdp.py"
    alone = spec_from_file_location("opacus_rdp", path)
    assert alone is not None
    assert alone.loader is not None
    module = module_from_spec(alone)
    alone.loader.exec_module(module)
    return module


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.6, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 20, 500])
@pytest.mark.untraced
def test_what_is_spent_is_what_opacus_says(noise: float, rate: float, steps: int) -> None:
    rdp = opacus_rdp()
    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
    for delta in (1e-3, 1e-5):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Optimal order is the")
            renyi = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders)
            wanted, _ = rdp.get_privacy_spent(orders=orders, rdp=renyi, delta=delta)
        found = Accountant(delta).step(noise, rate, steps)
        assert found == pytest.approx(max(float(wanted), 0.0), rel=1e-3, abs=1e-3)


def test_steps_add_up_in_any_split() -> None:
    account = Accountant(1e-3)
    assert account.epsilon == 0.0
    spent = [account.step(noise, rate) for noise, rate in [(1.0, 0.5), (1.0, 0.5), (2.0, 1.0)]]
    assert spent == sorted(spent)
    fine = Accountant(1e-3)
    fine.step(2.0, 1.0)
    assert fine.step(1.0, 0.5, 2) == pytest.approx(spent[-1])
    again = Accountant(1e-3, account.renyi.copy())
    assert again.epsilon == account.epsilon
    assert Accountant(1e-3).step(0.0, 0.5) == np.inf
    assert Accountant(1e-3).step(1.0, 0.0) == 0.0


@given(st.floats(0.5, 20.0), st.integers(1, 200), st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=12, deadline=None)
def test_the_noise_found_spends_epsilon(epsilon: float, steps: int, rate: float) -> None:
    noise = noise_multiplier(epsilon, 1e-3, {rate: steps})
    assert Accountant(1e-3).step(noise, rate, steps) <= epsilon
    if noise > 0.06:
        assert Accountant(1e-3).step(0.999 * noise, rate, steps) > epsilon


@given(st.floats(0.01, 10.0), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_clipped_changes_are_within_and_point_the_same_way(size: float, clip: float) -> None:
    before = adapter(0)
    after = moved(before, size, 1)
    change = flat(after) - flat(before)
    found = clipped(before, after, clip)
    assert found.norm == pytest.approx(np.linalg.norm(change), rel=1e-6)
    assert found.within == (found.norm <= clip)
    cut = flat(found.after) - flat(before)
    if found.within:
        assert found.after is after
    else:
        assert np.linalg.norm(cut) == pytest.approx(clip, rel=1e-4, abs=2e-6)
        np.testing.assert_allclose(cut, change * clip / found.norm, rtol=1e-5, atol=1e-6)


def test_noise_has_its_deviation() -> None:
    before = adapter(0, rank=8, shape=(400, 300))
    privacy = UpdatePrivacy(noise=1.5, clip=0.7, quantile=0.5, senders=10)
    found, _ = private_mean(before, dict.fromkeys(range(10), before), privacy, np.random.default_rng(0))
    noise = flat(found) - flat(before)
    wanted = privacy.update_noise * 0.7 / 10
    count = len(noise)
    assert noise.mean() == pytest.approx(0.0, abs=5.0 * wanted / np.sqrt(count))
    assert noise.var() == pytest.approx(wanted**2, rel=5.0 * np.sqrt(2.0 / count))
    both = noised(before, 0.3, np.random.default_rng(1), "ab").layers["q"]
    assert np.var(both.a - before.layers["q"].a) == pytest.approx(0.09, rel=0.15)
    np.testing.assert_array_equal(found.layers["q"].a, before.layers["q"].a)


@given(st.floats(0.1, 50.0), st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_updates_and_count_together_cost_what_is_accounted(noise: float, senders: int) -> None:
    privacy = UpdatePrivacy(noise, 1.0, 0.5, senders)
    # Two Gaussian mechanisms, of sensitivities 1 and 1/2, compose as one of this multiplier.
    joint = (privacy.update_noise**-2.0 + (2.0 * privacy.count_noise) ** -2.0) ** -0.5
    assert joint == pytest.approx(noise)
    assert noise <= privacy.update_noise <= 1.35 * noise


def test_without_noise_it_is_the_mean_of_clipped_changes() -> None:
    before = adapter(0)
    afters = [moved(before, size, seed) for seed, size in enumerate((0.01, 0.1, 1.0))]
    privacy = UpdatePrivacy(0.0, 1.0, 0.5, 4)
    found, _ = private_mean(before, dict(enumerate(afters)), privacy, np.random.default_rng(0))
    changes = [flat(clipped(before, after, 1.0).after) - flat(before) for after in afters]
    np.testing.assert_allclose(flat(found) - flat(before), np.sum(changes, axis=0) / 4, atol=1e-6)
    a_too = replace(before, layers={n: Factors(f.a + 0.5, f.b) for n, f in before.layers.items()})
    both, _ = private_mean(
        before, dict.fromkeys(range(4), a_too), replace(privacy, clip=1e9), np.random.default_rng(0), "ab"
    )
    np.testing.assert_allclose(both.layers["q"].a, a_too.layers["q"].a, atol=1e-6)


def test_the_clip_finds_the_quantile() -> None:
    rng = np.random.default_rng(0)
    norms = rng.lognormal(0.0, 0.5, 2000)
    privacy = UpdatePrivacy(1.0, 20.0, 0.7, 100)
    late = []
    for at in range(400):
        seen = rng.choice(norms, 100)
        privacy = privacy.adapted(float(np.sum(seen <= privacy.clip)) - 50.0, rng)
        if at >= 100:
            late.append(privacy.clip)
    assert np.mean(late) == pytest.approx(np.quantile(norms, 0.7), rel=0.1)


@pytest.mark.parametrize("held", [(96, 96), (7, 7), (3, 3), (0, 5, 9), (1, 40)])
def test_example_privacy_spends_its_epsilon_over_all_rounds(held: tuple[int, ...]) -> None:
    found = ExamplePrivacy.of(epsilon=8.0, delta=1e-3, clip=1.0, examples=held, batch=4, epochs=2)
    account = Accountant(1e-3)
    for count in filter(None, held):
        rate, steps = sampled(count, 4, 2)
        assert rate == min(1.0, 4 / count)
        assert steps == 2 * int(np.ceil(count / 4))
        account.step(found.noise_multiplier, rate, steps)
    assert 7.9 < account.epsilon <= 8.0


def test_a_masked_sum_makes_the_same_private_mean_to_its_grain() -> None:
    before = adapter(0)
    afters = {who: moved(before, size, who) for who, size in enumerate((0.01, 0.1, 1.0))}
    privacy = UpdatePrivacy(0.0, 1.0, 0.5, 4)
    masks = Masks(range(4), np.random.default_rng(1).bytes)  # one is lost
    grain = FixedPoint().grain
    plain, clip = private_mean(before, afters, privacy, np.random.default_rng(0))
    found, clip_too = private_mean(
        before, afters, privacy, np.random.default_rng(0),
        summed=lambda vectors, size: total(vectors, masks, size).vector, grain=grain,
    )  # fmt: skip
    np.testing.assert_allclose(flat(found), flat(plain), atol=3.0 * grain)
    assert clip_too == clip
    with pytest.raises(InputError, match="rounding may move"):
        private_mean(before, afters, replace(privacy, clip=1e-6), np.random.default_rng(0), grain=grain)


def test_where_nobody_sent_there_is_noise_alone() -> None:
    before = adapter(0)
    found, _ = private_mean(before, {}, UpdatePrivacy(1.0, 1.0, 0.5, 4), np.random.default_rng(0))
    assert np.abs(flat(found) - flat(before)).max() > 0.0


def test_what_is_wrong_is_refused() -> None:
    before = adapter(0)
    privacy = UpdatePrivacy(1.0, 1.0, 0.5, 4)
    rng = np.random.default_rng(0)
    other_a = replace(before, layers={n: Factors(f.a + 1.0, f.b) for n, f in before.layers.items()})
    for after, words in (
        (adapter(1, rank=3), "one rank"),
        (other_a, "a of q was changed"),
        (moved(before, float("nan"), 1), "NaN"),
    ):
        with pytest.raises(InputError, match=words):
            private_mean(before, {0: after}, privacy, rng)
    for call, words in (
        (lambda: Accountant(1e-3).step(-1.0, 0.5), "noise multiplier"),
        (lambda: Accountant(1e-3).step(1.0, 1.5), "sampling rate"),
        (lambda: noise_multiplier(0.0, 1e-3, {1.0: 1}), "above 0"),
        (lambda: noise_multiplier(1e-4, 1e-9, {1.0: 1}), "no noise is enough"),
        (lambda: ExamplePrivacy.of(8.0, 1e-3, 1.0, [0, 0], 8, 1), "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            call()
