"""The gate: each condition by itself, and scores that are no numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.knowledge.gate import Scores, judge, perplexity
from gainnet.scenario.knowledge import Gate

GATE = Gate(loss_max=3.0, domain_drop=0.02, public_drop=0.01)
CHAMPION = Scores({"heart": 2.0, "lung": 2.5}, public=2.2)
LOSSES = st.floats(0.0, 3.0)


def test_the_first_is_held_against_the_floor_only() -> None:
    assert judge(CHAMPION, None, GATE).promoted
    refused = judge(replace(CHAMPION, domain={"heart": 3.1}), None, GATE)
    assert refused.reasons == ("heart: the loss is 3.100 nat a token, at most 3 is allowed",)


def test_what_is_as_good_is_promoted() -> None:
    verdict = judge(CHAMPION, CHAMPION, GATE)
    assert verdict.promoted
    assert verdict.reasons == ()


@given(heart=LOSSES, lung=LOSSES, public=LOSSES)
def test_a_domain_or_public_text_loses_at_most_its_part_of_perplexity(heart: float, lung: float, public: float) -> None:
    candidate = Scores({"heart": heart, "lung": lung}, public)
    worse = [
        math.exp(loss) / math.exp(before) - 1.0 - drop
        for loss, before, drop in ((heart, 2.0, 0.02), (lung, 2.5, 0.02), (public, 2.2, 0.01))
    ]
    if all(abs(excess) > 1e-12 for excess in worse):
        assert len(judge(candidate, CHAMPION, GATE).reasons) == sum(excess > 0 for excess in worse)


def test_a_refusal_says_by_how_much() -> None:
    candidate = Scores({"heart": 2.0 + math.log(1.05), "lung": 1.0}, public=2.0)
    expected = "heart: perplexity 7.759 is 5 % above 7.389, at most 2 % is allowed"
    assert judge(candidate, CHAMPION, GATE).reasons == (expected,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_a_refusal(bad: float) -> None:
    for champion in (None, CHAMPION):
        heart = judge(Scores({"heart": bad, "lung": 2.0}, 2.0), champion, GATE)
        public = judge(Scores({"heart": 1.0, "lung": 2.0}, bad), champion, GATE)
        assert heart.reasons == (f"heart: the loss is {bad}, no finite number",)
        assert public.reasons == (f"public text: the loss is {bad}, no finite number",)


def test_a_champion_without_a_number_has_nothing_to_lose() -> None:
    champion = Scores({"heart": math.nan, "lung": 2.5}, math.nan)
    assert judge(CHAMPION, champion, GATE).promoted


def test_every_domain_of_the_champion_is_judged() -> None:
    missing = judge(Scores({"heart": 1.0}, 1.0), CHAMPION, GATE)
    assert missing.reasons == ("lung: was not judged, and the champion was",)
    assert judge(Scores({"heart": 1.0, "lung": 1.0, "skin": 2.9}, 1.0), CHAMPION, GATE).promoted
    assert judge(Scores({}, 1.0), None, GATE).reasons == ("no domain was judged",)


def test_latency_and_memory_where_they_have_limits() -> None:
    gate = GATE.model_copy(update={"latency_s": 0.5, "memory_byte": 1e9})
    reasons = judge(replace(CHAMPION, latency_s=0.7), CHAMPION, gate).reasons
    assert reasons == (
        "latency: 0.7 s, at most 0.5 s is allowed",
        "memory: is not known, and has a limit of 1e+09 byte",
    )
    assert judge(replace(CHAMPION, latency_s=0.5, memory_byte=1e9), CHAMPION, gate).promoted
    assert not judge(replace(CHAMPION, latency_s=math.nan, memory_byte=1e9), CHAMPION, gate).promoted
    assert judge(replace(CHAMPION, latency_s=9.0), CHAMPION, GATE).promoted


def test_small_losses_on_public_text_do_not_add_up() -> None:
    champion, rounds = CHAMPION, 0
    while rounds < 20:
        candidate = replace(champion, public=champion.public + math.log1p(0.008))
        if not judge(candidate, champion, GATE, origin=CHAMPION).promoted:
            break
        champion, rounds = candidate, rounds + 1
    assert rounds == 1
    assert judge(candidate, champion, GATE).promoted  # each step by itself is small


def test_perplexity_of_any_loss() -> None:
    assert perplexity(math.log(7.0)) == pytest.approx(7.0)
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))
    assert judge(Scores({"heart": 1e6, "lung": 2.5}, 2.2), CHAMPION, GATE.model_copy(update={"loss_max": 1e9})).reasons
