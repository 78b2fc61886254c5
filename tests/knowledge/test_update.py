"""An edge's inbox: what comes again, twice or late."""

from __future__ import annotations

import numpy as np

from gainnet.knowledge.update import Inbox, Update
from gainnet.models.low_rank import Factors, LowRank

ADAPTER = LowRank({"layer": Factors(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32))}, 2.0, "base")


def update(end: int, number: int, digest: str) -> Update:
    return Update(end, number, digest, 1.0, ADAPTER, ADAPTER, 0.5, 8.0)


def test_an_update_that_comes_again_counts_once() -> None:
    inbox = Inbox()
    assert inbox.put(update(3, 0, "a"))
    assert not inbox.put(update(3, 0, "a"))
    found, lines = inbox.empty()
    assert [u.end for u in found] == [3]
    assert lines == ["end 3: update a came again and was not counted twice"]


def test_an_update_that_was_counted_in_an_earlier_round_does_not_count_again() -> None:
    inbox = Inbox()
    inbox.put(update(3, 0, "a"))
    inbox.empty()
    assert not inbox.put(update(3, 0, "a"))
    assert inbox.empty()[0] == []


def test_a_second_update_of_an_end_for_one_round_is_refused() -> None:
    inbox = Inbox()
    inbox.put(update(3, 0, "a"))
    assert not inbox.put(update(3, 0, "b"))
    assert inbox.put(update(3, 1, "c"))
    assert [u.digest for u in inbox.empty()[0]] == ["a", "c"]


def test_updates_are_in_the_order_of_ends_whatever_order_they_came_in() -> None:
    inbox = Inbox()
    for end in (5, 1, 3):
        inbox.put(update(end, 0, str(end)))
    assert [u.end for u in inbox.empty()[0]] == [1, 3, 5]
