"""What edges were told, and when: by the mail itself, and in runs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gainnet.measurement.metrics import report
from gainnet.orchestrator.broadcast import Broadcast, Message
from gainnet.run import Run, simulate
from gainnet.scenario.load import load

CROWD = ["network.ends=1500", "network.cloud.count=1"]
FRAMES = 14


def message(value: float) -> Message:
    return Message(np.full(3, value), np.full(2, value), np.arange(2))


def test_a_message_is_heard_when_its_time_has_gone_by() -> None:
    mail = Broadcast(0.25, message(0.0))
    found = []
    for frame in range(8):
        mail.send(message(frame + 1.0), frame * 0.1)
        found.append(float(mail.heard(frame * 0.1).price[0]))
    # 0.25 s of frames of 0.1 s are three.
    assert found == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_without_staleness_the_latest_is_heard_at_once() -> None:
    mail, sent = Broadcast(0.0, message(0.0)), message(1.0)
    mail.send(sent, 0.7)
    assert mail.heard(0.7) is sent


def test_when_nothing_is_sent_what_is_under_way_arrives_and_then_holds() -> None:
    mail = Broadcast(0.2, message(0.0))
    for frame in range(3):
        mail.send(message(frame + 1.0), frame * 0.1)
    assert [float(mail.heard(time_s).bid[0]) for time_s in (0.2, 0.3, 0.4, 0.5, 9.0)] == [1.0, 2.0, 3.0, 3.0, 3.0]


def test_a_message_under_way_does_not_change() -> None:
    mail, sent = Broadcast(0.1, message(0.0)), message(1.0)
    mail.send(sent, 0.0)
    sent.price[:] = sent.bid[:] = 7.0
    assert mail.heard(0.1).price.tolist() == [1.0] * 3
    assert mail.heard(0.1).bid.tolist() == [1.0] * 2


@cache
def _followed(staleness_s: float) -> tuple[list[Message], list[Message]]:
    """What the controller knew at the start of each frame of a crowded campus, and what edges had heard by then."""
    matcher = f"orchestrator.matcher={{kind: local, staleness_s: {staleness_s}}}"
    run = Run(load("campus", [*CROWD, matcher], duration_s=2.0))
    known, heard = [], []
    for _ in range(FRAMES):
        mine = run.orchestrator
        before = Message(mine._price.copy(), mine._bid.copy(), mine._edges)
        run.observe()
        told = mine._told
        known.append(before)
        heard.append(Message(told.price.copy(), before.bid if told.bid is mine._bid else told.bid.copy(), told.spare))
        run.commit(run.match())
    assert max(one.price.max() for one in known) > 0.0
    assert known[-1].bid.max() > 0.0
    return known, heard


@pytest.mark.parametrize(("staleness_s", "frames"), [(0.0, 0), (0.1, 1), (0.3, 3), (0.35, 4)])
@pytest.mark.untraced
def test_prices_and_bids_are_those_of_exactly_so_long_ago(staleness_s: float, frames: int) -> None:
    known, heard = _followed(staleness_s)
    for frame in range(FRAMES):
        expected = known[frame - frames] if frame >= frames else Message(*(np.zeros_like(a) for a in (
            known[0].price, known[0].bid, known[0].spare)))  # fmt: skip
        np.testing.assert_array_equal(heard[frame].price, expected.price)
        np.testing.assert_array_equal(heard[frame].bid, expected.bid)


@pytest.mark.parametrize("staleness_s", [0.0, 0.3])
@pytest.mark.untraced
def test_the_problem_is_answered_at_what_was_told(staleness_s: float) -> None:
    matcher = f"orchestrator.matcher={{kind: local, staleness_s: {staleness_s}}}"
    run = Run(load("campus", [*CROWD, matcher], duration_s=2.0))
    for _ in range(FRAMES):
        problem = run.observe()
        told = run.orchestrator._told.price[problem.row_id]
        expected = run.orchestrator._local.answer(problem, told, told)
        plan = run.match()
        np.testing.assert_array_equal(plan.choice, expected.choice)
        run.commit(plan)


@pytest.mark.untraced
def test_staleness_changes_a_run_and_a_seed_repeats_it() -> None:
    def tasks(staleness_s: float) -> object:
        matcher = f"orchestrator.matcher={{kind: local, staleness_s: {staleness_s}}}"
        record = simulate(load("campus", [*CROWD, matcher], duration_s=2.0)).record
        assert record is not None
        found = report(record)
        return found["tasks"], found["qos"]

    assert tasks(0.5) == tasks(0.5)
    assert tasks(0.5) != tasks(0.0)
