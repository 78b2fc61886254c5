"""The twin benchmark: what the simulator makes of a card, and how streams are drawn, sent and compared."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gainnet.errors import GainnetError
from gainnet.network.compute_kernel import decode_step_s, prefill_s
from gainnet.scenario.models import LanguageModel
from gainnet.serving import profile
from gainnet.serving.profile import Profile, Protocol, Server
from gainnet.serving.profile_fit import Fit, Points
from serving.nodes import run, served

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODEL = LanguageModel(parameters=1e6, layers=4, width=128, kv_heads=2, head_width=32, weight_byte=4.0, quality=0.6)
NONE = np.zeros(0)
FITTED = Fit(MODEL, 4e10, 2e9, 3e-3, 2e-4, NONE, NONE, 0.0)
GIVEN = (2e6, 2.0 * 4 * 128, 2.0 * 4 * 2 * 32 * 2.0, 4e6, 4e10, 2e9, 3e-3, 2e-4)
SLOTS, BESIDES_S = 4, 0.01


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("twin")


def card(twin: ModuleType, tier: str) -> dict[str, Any]:
    measured = Profile(Points(NONE, NONE, NONE, NONE, NONE), BESIDES_S, {}, None, SLOTS, 600)
    return profile.card(twin.MODEL, tier, measured, FITTED)


def stream(twin: ModuleType, sent_s: list[float], prompt: int = 100, output: int = 40) -> Any:
    count = len(sent_s)
    return twin.Stream(np.array(sent_s), np.full(count, prompt), np.full(count, output))


@pytest.mark.parametrize(("tier", "link_s"), [("cloud", 0.04), ("edge", 0.0), ("end", 0.0)])
@pytest.mark.untraced
def test_a_request_alone_takes_what_its_card_says(twin: ModuleType, tier: str, link_s: float) -> None:
    latency_s = twin.simulated(twin.scenario(tier, card(twin, tier)), stream(twin, [0.0, 1.0]))
    alone_s = BESIDES_S + prefill_s(100.0, *GIVEN) + 39.0 * decode_step_s(1.0, 119.5, *GIVEN)
    np.testing.assert_allclose(latency_s, alone_s + link_s, atol=0.006)


@pytest.mark.untraced
def test_a_node_that_is_asked_too_much_answers_at_its_capacity_in_order(twin: ModuleType) -> None:
    most = twin.capacity(FITTED, SLOTS)
    number = 40
    given = twin.drawn(np.random.default_rng(1), 3.0 * most, number)
    latency_s = twin.simulated(twin.scenario("edge", card(twin, "edge")), given)
    ended_s = given.sent_s + latency_s
    mine = twin.drawn(np.random.default_rng(0), 1.0, 2000).output_token.mean() / given.output_token.mean()
    assert number / ended_s.max() == pytest.approx(most * mine, rel=0.2)
    behind = np.arange(number) - np.argsort(np.argsort(ended_s))
    assert np.abs(behind).mean() < 2 * SLOTS


def test_streams_are_drawn_as_asked(twin: ModuleType) -> None:
    drawn = twin.drawn(np.random.default_rng(0), 5.0, 4000)
    assert len(drawn) == 4000
    assert drawn.sent_s[0] == 0.0
    assert 4000 / drawn.sent_s[-1] == pytest.approx(5.0, rel=0.1)
    assert np.median(drawn.prompt_token) == pytest.approx(100.0, rel=0.1)
    assert drawn.output_token.min() >= 1
    assert drawn.output_token.max() <= 100


def test_percentiles_are_compared(twin: ModuleType) -> None:
    real, predicted = np.arange(101.0), np.arange(101.0) * 2.0
    real[0] = np.nan
    found = twin.compared(real, predicted)
    assert found["p50_predicted_s"] == 100.0
    assert found["p95_measured_s"] == pytest.approx(95.05)
    with pytest.raises(GainnetError, match="no request was answered"):
        twin.compared(np.full(3, np.nan), predicted)


@pytest.mark.untraced
def test_a_node_is_profiled_and_asked(twin: ModuleType) -> None:
    async def main() -> None:
        async with served(slots=2) as node:
            server = Server(node.http, node.node.url, "m")
            measured = twin.Measured()
            protocol = Protocol(prompts=(4, 8), contexts=(4,), slots=2, repeats=2, drafts=())
            await twin._profiled(measured, server, server, protocol, 0.0)
            assert len(measured.profiles) == len(measured.besides_s) == 1
            before = twin._processor_s([os.getpid()])
            given = stream(twin, [0.01, 0.0, 0.02], prompt=5, output=3)
            sent, latency_s = await twin._asked(server, given)
            assert (latency_s > 0.0).all()
            assert (np.diff(sent.sent_s) >= 0.0).all()
            assert sent.sent_s[0] == 0.0
            own_s, busy_s, whole_s = twin._processor_s([os.getpid()]) - before
            assert own_s >= 0.0
            assert busy_s <= whole_s + 1e-6  # sums of ticks since the boot, and no core had a rest
            _, refused = await twin._asked(Server(node.http, node.node.url, "other"), given)
            assert np.isnan(refused).all()

    run(main())
