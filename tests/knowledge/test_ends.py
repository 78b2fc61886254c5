"""What an end does in a round: all that it holds where it can, else a part, drawn anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.learning import learning_scenario

from gainnet.knowledge.arm import Links
from gainnet.knowledge.ends import PLANNED, Ends
from gainnet.knowledge.privacy import ExamplePrivacy
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.text import Encoded

LENGTHS = ((10,) * 20, (10,) * 4)
DEADLINE_S = 2.0


def setting(**changed: Any) -> Setting:
    found = object.__new__(Setting)
    shards = tuple(tuple(Encoded(np.arange(length), 1) for length in lengths) for lengths in LENGTHS)
    config = learning_scenario(deadline_s=DEADLINE_S, **changed).knowledge
    for name, value in {"seed": 3, "config": config, "shards": shards}.items():
        object.__setattr__(found, name, value)
    return found


def links(token_per_s: float, bit_per_s: float = 1e6) -> Links:
    each = np.full(2, bit_per_s)
    return Links(each, each, each, each, each, np.full(2, token_per_s))


@pytest.mark.parametrize(
    ("token_per_s", "bit", "epochs", "examples"),
    [
        (200.0 / (PLANNED * DEADLINE_S) + 1.0, 0.0, 1, 0),
        (100.0 / (PLANNED * DEADLINE_S) + 1.0, 0.0, 1, 10),
        (100.0 / (PLANNED * DEADLINE_S) + 1.0, 0.0, 2, 5),
        (100.0 / (PLANNED * DEADLINE_S - 1.0) + 1.0, 0.5e6, 1, 10),
        (1e9, 1e6, 1, 1),
        (0.0, 0.0, 1, 1),
    ],
    ids=["all", "half", "twice", "sending", "no time", "stands still"],
)
def test_an_end_does_what_it_can_finish_in_time(token_per_s: float, bit: float, epochs: int, examples: int) -> None:
    ends = Ends(setting(local_epochs=epochs))
    assert ends.fitting(0, 0, links(token_per_s), bit, bit) == examples
    if examples:
        assert ends.tokens(0, 0, examples) == 10.0 * examples * epochs
    assert ends.tokens(0, 0) == 200.0 * epochs


def test_an_end_whose_link_or_machine_stands_still_does_the_least() -> None:
    ends = Ends(setting())
    assert ends.fitting(0, 0, links(1e9, bit_per_s=0.0), 1.0, 1.0) == 1
    assert ends.fitting(0, 0, links(0.0, bit_per_s=0.0), 1.0, 1.0) == 1
    assert ends.fitting(0, 0, links(1e9, bit_per_s=0.0), 0.0, 0.0) == 0


def test_per_example_privacy_counts_on_all_examples() -> None:
    private = {0: object.__new__(ExamplePrivacy)}
    assert Ends(setting(), private).fitting(0, 0, links(1.0), 0.0, 0.0) == 0


def test_another_part_is_drawn_in_each_round_and_all_are_in_their_turn() -> None:
    found = setting()
    parts = [found.drawn(0, number, 6) for number in range(30)]
    assert all(len(set(part)) == 6 and part == sorted(part) for part in parts)
    assert set(np.concatenate(parts).tolist()) == set(range(20))
    assert found.drawn(0, 4, 6) == parts[4]
    assert found.drawn(1, 0, 6) == found.drawn(1, 0) == [0, 1, 2, 3]
    assert [len(text.token) for text in found.lesson(0, 0, 6)] == [10] * 6
    assert found.lesson(1, 0) == found.shards[1]


def test_where_updates_are_private_each_end_is_drawn_by_itself() -> None:
    private = {"privacy": {"kind": "update"}, "aggregation": "ffa", "ranks": [4], "edge_rank": 4}
    found = setting(participation=0.3, **private)
    for name, value in {"shards": found.shards[1:] * 10, "edge_of": np.zeros(10, np.int64)}.items():
        object.__setattr__(found, name, value)
    object.__setattr__(found, "corpus", SimpleNamespace(domains=[None]))
    drawn = [Ends(found).participants(number) for number in range(400)]
    counts = np.array([len(one) for one in drawn])
    assert counts.min() == 0
    assert counts.mean() == pytest.approx(3.0, abs=0.3)
    assert counts.var() == pytest.approx(10 * 0.3 * 0.7, rel=0.25)
