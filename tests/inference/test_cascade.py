"""Calibrations find the probabilities that answers were drawn from; a cascade keeps what it is sure of, where that pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import adapter, greedy, language, prompts, spread, words

from gainnet.errors import InputError
from gainnet.inference.calibration import QUANTILES, Calibration, Calibrations, Stale, confidences, pays
from gainnet.inference.cascade import Cascade, Costs
from gainnet.inference.engine import Engine
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineVerifier
from gainnet.models import hub
from gainnet.scenario.knowledge import SmallModel

Work = Callable[[Engine, Engine], Coroutine[Any, Any, None]]
PATIENCE_S = 300.0
"""For machines with much else to do."""


def drawn(count: int, seed: int, column: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Answers whose probability of being good is the square of one quantile; the others tell nothing."""
    rng = np.random.default_rng(seed)
    sure = rng.random((count, len(QUANTILES)))
    return sure, (rng.random(count) < sure[:, column] ** 2).astype(np.float64)


def test_a_calibration_finds_the_probability_and_the_quantile_that_tells() -> None:
    made = Calibration(*drawn(20_000, 0))
    assert made.quantile == QUANTILES[2]
    for sure in (0.2, 0.5, 0.8):
        assert made.of(np.full(len(QUANTILES), sure)) == pytest.approx(sure**2, abs=0.05)
    assert np.all(np.diff(made.probability) >= 0.0)
    with pytest.raises(InputError, match="no answers"):
        Calibration(np.empty((0, len(QUANTILES))), np.empty(0))


@pytest.mark.parametrize("quality", [0.5, 0.7, 0.9, 0.97])
def test_a_plan_keeps_the_quality_on_other_answers_and_defers_no_more_than_theory(quality: float) -> None:
    plan = Calibration(*drawn(20_000, 1)).plan(quality)
    # Deferring below u gives u + (1 - u^3) / 3 with answers good by u^2: the least u that is enough, by bisection.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if middle + (1.0 - middle**3) / 3.0 >= quality else (middle, high)
    assert plan.deferred == pytest.approx(high, abs=0.03)
    assert plan.quality >= quality
    sure, good = drawn(20_000, 2)
    made = Calibration(*drawn(20_000, 1))
    kept = made._of(sure[:, made._column]) >= plan.least
    assert 1.0 - kept.mean() == pytest.approx(plan.deferred, abs=0.03)
    assert np.where(kept, good, 1.0).mean() >= quality - 0.03


def test_the_ends_of_plans() -> None:
    made = Calibration(*drawn(500, 3))
    assert made.plan(0.0).deferred == 0.0
    everything = made.plan(1.0)
    assert everything.quality == pytest.approx(1.0)
    right = Calibration(drawn(50, 3)[0], np.ones(50)).plan(1.0)
    assert (right.deferred, right.quality) == (0.0, 1.0)
    wrong = Calibration(drawn(50, 3)[0], np.zeros(50)).plan(0.9)
    assert (wrong.least, wrong.deferred, wrong.quality) == (float("inf"), 1.0, 1.0)
    one = Calibration(drawn(1, 3)[0], np.ones(1))
    assert one.plan(0.9).deferred == 0.0


@given(st.integers(1, 60), st.integers(0, 1000), st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=40)
@pytest.mark.untraced
def test_plans_hold_on_what_they_were_learned_from(count: int, seed: int, quality: float) -> None:
    sure, good = drawn(count, seed)
    made = Calibration(sure, good)
    plan = made.plan(quality)
    kept = np.array([made.of(one) >= plan.least for one in sure])
    assert plan.deferred == pytest.approx(1.0 - kept.mean())
    # An isotonic fit is right on the mean of each of its levels.
    assert np.where(kept, good, 1.0).mean() == pytest.approx(plan.quality)
    assert plan.quality >= quality - 1e-9


def test_a_cascade_pays_by_the_share_that_is_deferred() -> None:
    assert pays(0.79, 1.0, 5.0)
    assert not pays(0.81, 1.0, 5.0)
    assert not pays(0.0, 5.0, 5.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        deferred, small, large = rng.random(), rng.random() + 0.01, rng.random() + 0.01
        assert pays(deferred, small, large) == (small + deferred * large < large)
    for wrong, message in [((1.5, 1.0, 1.0), "deferred"), ((0.5, 0.0, 1.0), "small"), ((0.5, 1.0, np.inf), "large")]:
        with pytest.raises(InputError, match=message):
            pays(*wrong)


def test_calibrations_are_of_a_version_and_refused_when_stale() -> None:
    kept = Calibrations(least=3, age_s=10.0, versions=2)
    sure, good = drawn(8, 0)
    with pytest.raises(Stale, match="no answer of it"):
        kept.of("v1", 0.0)
    for index in range(3):
        with pytest.raises(Stale):
            kept.of("v1", float(index))
        kept.judged("v1", sure[index], bool(good[index]), float(index))
    first = kept.of("v1", 3.0)
    assert kept.of("v1", 12.0) is first
    with pytest.raises(Stale, match="13 s ago"):
        kept.of("v1", 15.0)
    with pytest.raises(Stale, match="'v2': no answer"):
        kept.of("v2", 3.0)
    kept.judged("v1", sure[3], True, 14.0)
    assert kept.of("v1", 15.0) is not first
    kept.judged("v2", sure[4], True, 15.0)
    with pytest.raises(Stale, match="1 answers were judged, of 3"):
        kept.of("v2", 15.0)
    kept.judged("v3", sure[5], True, 15.0)
    assert [kept.answers(name) for name in ("v1", "v2", "v3")] == [0, 1, 1]
    for wrong in ({"least": 0}, {"versions": 0}, {"age_s": 0.0}):
        with pytest.raises(InputError):
            Calibrations(**wrong)


def test_confidences_are_quantiles_of_probabilities() -> None:
    probability = np.linspace(0.1, 0.9, 9)
    assert confidences(np.log(probability).tolist()) == pytest.approx(np.quantile(probability, QUANTILES))
    with pytest.raises(InputError, match="there are none"):
        confidences([])


# Engines


Run = Callable[[Work], None]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Lets work be done with two engines that all tests of the module share."""
    shape = SmallModel(layers=1, width=32, heads=4, kv_heads=2, vocabulary=300, context=96)
    with (
        Engine(spread(hub.build(shape, words(), seed=3)), threads=1) as small,
        Engine(language(), threads=1) as large,
    ):
        yield lambda work: asyncio.run(asyncio.wait_for(work(small, large), PATIENCE_S))


async def all_of(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in pieces]


def test_answers_are_learned_from_then_kept_or_deferred(run: Run) -> None:
    def good(_small: str, large: str) -> bool:
        return len(large) % 2 == 0

    async def work(small: Engine, large: Engine) -> None:
        larger, asked = EngineVerifier(large), prompts(6, longest=20)
        alone = [await all_of(larger.whole(prompt, greedy(6))) for prompt in asked]
        own = [await all_of(EngineVerifier(small).whole(prompt, greedy(6))) for prompt in asked]
        cascade = Cascade(
            small, larger, Costs(1.0, 4.0), quality=0.0, good=good, calibrations=Calibrations(4), audit_every=0
        )
        with pytest.raises(Stale):
            cascade.plan()
        for index in range(4):
            assert await all_of(cascade.answer(asked[index], greedy(6))) == alone[index]
        assert (cascade.counters.audits, cascade.counters.stale) == (4, 4)
        plan = cascade.plan()
        assert plan is not None
        assert plan.deferred == 0.0
        assert [await all_of(cascade.answer(prompt, greedy(6))) for prompt in asked] == own
        assert cascade.counters.kept == 6
        shown = await all_of(cascade.answer(asked[0], greedy(6, logprobs=1)))
        assert all(piece.logprob is not None and piece.top for piece in shown)
        cascade.costs.small = 4.0
        assert cascade.plan() is None
        assert await all_of(cascade.answer(asked[0], greedy(6))) == alone[0]
        assert cascade.counters.whole == 1

    run(work)


def test_what_it_is_unsure_of_is_deferred_and_some_are_audited_and_versions_begin_anew(run: Run) -> None:
    async def work(small: Engine, large: Engine) -> None:
        larger, prompt = EngineVerifier(large), prompts(1)[0]
        alone = await all_of(larger.whole(prompt, greedy(6)))
        kept = Calibrations(4)
        cascade = Cascade(small, larger, Costs(1.0, 4.0), quality=0.9, calibrations=kept, audit_every=3, learn_every=2)
        version = f"{small.language.digest} "
        for sure, good in [(0.0, False), (1.0, True)] * 4:
            kept.judged(version, np.full(len(QUANTILES), sure), good, 1e12)
        kept.judged(version, np.full(len(QUANTILES), 1.0), True, 1e12)
        plan = cascade.plan()
        assert plan is not None
        assert 0.0 < plan.deferred < 0.6
        for _ in range(3):
            assert await all_of(cascade.answer(prompt, Sampling(max_tokens=6, temperature=0.0))) == alone
        assert (cascade.counters.deferred, cascade.counters.audits, kept.answers(version)) == (2, 1, 10)
        small.load_adapter("a@v2", adapter(small.language, 1))
        for _ in range(2):
            assert await all_of(cascade.answer(prompt, greedy(6), adapter="a@v2")) == alone
        assert (cascade.counters.stale, cascade.counters.audits, cascade.counters.whole) == (2, 2, 1)
        assert kept.answers(f"{small.language.digest} a@v2") == 1

    run(work)


class Unheard:
    """A larger model whose answer comes while the small one cannot be asked."""

    context = 96

    async def whole(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        yield Piece(5, f"{len(prompt)} {sampling.max_tokens}", finish="stop")


def test_an_answer_does_not_fail_because_nothing_can_be_learned_from_it(run: Run) -> None:
    async def work(small: Engine, large: Engine) -> None:
        cascade = Cascade(small, Unheard(), Costs(1.0, 4.0))
        told = await all_of(cascade.answer([5, 6], greedy(4), adapter="unknown"))
        assert [piece.text for piece in told] == ["2 4"]
        assert cascade.calibrations.answers(f"{small.language.digest} unknown") == 0
        pieces = cascade.answer([5, 6], greedy(4))
        await anext(pieces)
        await pieces.aclose()
        assert large.stats().running == 0

    run(work)
    with pytest.raises(InputError, match="quality 2"):
        Cascade(Engine(language()), Unheard(), Costs(1.0, 2.0), quality=2.0)
