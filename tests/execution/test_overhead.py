"""What a machine's software takes besides computing: for a request, for a step, and for each text in it."""

from __future__ import annotations

import pytest

import tiny
from gainnet.execution.outcome import Outcomes
from gainnet.orchestrator import stage_kernel as sk
from gainnet.scenario.hardware import HARDWARE
from tiny import EDGE, SMALL, Driven

TOKENS, FRAME_S = 10.0, 0.02


def _driven(count: int = 1, **overheads: float) -> Driven:
    machine = HARDWARE["edge-accelerator"].model_dump() | overheads
    scenario = tiny.scenario(network={"edge": {"hardware": machine, "resident": [SMALL]}}, frame_s=FRAME_S)
    return Driven(scenario, tiny.tasks(count, deadline_s=9.0, output_token=TOKENS))


def _ended(driven: Driven, count: int = 1) -> Outcomes:
    """Frames until so many tasks have ended, or two seconds are over."""
    ended = 0
    while ended < count and len(driven.frames) < 2.0 / FRAME_S:
        ended += len(driven.frame(tiny.first(node=EDGE, model=driven.model(SMALL))).outcomes)
    return driven.outcomes


def _end_s(**overheads: float) -> float:
    outcomes = _ended(_driven(**overheads))
    assert tiny.names_of(outcomes) == ["served"]
    return float(outcomes.end_s[0])


@pytest.mark.untraced
def test_a_request_is_delayed_and_every_step_takes_longer() -> None:
    plain = _end_s()
    assert _end_s(request_overhead_s=0.3) - plain == pytest.approx(0.3, abs=1e-6)
    assert _end_s(step_overhead_s=0.02) - plain == pytest.approx(0.02 * (1.0 + TOKENS), rel=0.01)
    assert _end_s(text_overhead_s=0.02) - plain == pytest.approx(0.02 * (1.0 + TOKENS), rel=0.01)


def test_what_a_request_waits_for_takes_nobody_elses_time() -> None:
    driven = _driven(4, request_overhead_s=0.3)
    outcomes = _ended(driven, 4)
    busy_s = sum(float(frame.usage.node_use[EDGE]) * FRAME_S for frame in driven.frames)
    assert outcomes.end_s.max() < 0.3 + 0.2
    assert busy_s < 0.2


@pytest.mark.untraced
def test_texts_that_decode_together_share_a_step_and_not_what_each_takes() -> None:
    def last_s(count: int, **overheads: float) -> float:
        return float(_ended(_driven(count, **overheads), count).end_s.max())

    # Prefills that begin together are steps of their own; the decoding after them is shared.
    once = last_s(4, step_overhead_s=0.02) - last_s(4)
    each = last_s(4, text_overhead_s=0.02) - last_s(4)
    assert once == pytest.approx(0.02 * (4.0 + TOKENS), rel=0.1)
    assert each == pytest.approx(0.02 * 4.0 * (1.0 + TOKENS), rel=0.1)


def test_the_plan_knows_of_it() -> None:
    driven = _driven(request_overhead_s=0.3, step_overhead_s=0.02)
    driven.run.observe()
    posed = driven.run.posed
    least = {int(node): asap for node, asap in zip(posed.ints[:, sk.NODE], posed.floats[:, 5], strict=True)}
    plain = _driven()
    plain.run.observe()
    before = {
        int(n): asap for n, asap in zip(plain.run.posed.ints[:, sk.NODE], plain.run.posed.floats[:, 5], strict=True)
    }
    assert least[EDGE] - before[EDGE] == pytest.approx(0.3 + 0.02 * (1.0 + TOKENS), rel=0.01)
