"""What was measured of an adapter is known from then on, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from jaxtyping import Float, Int

from gainnet.knowledge import appraise
from gainnet.knowledge.example import Example
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Tuner
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import Knowledge, Writing

PLAIN = "plain"


def adapter(value: float) -> LowRank:
    return LowRank({"layer": Factors(np.full((1, 2), value, np.float32), np.ones((2, 1), np.float32))}, 2.0, "base")


class Counting(Tuner):
    """Each text's loss is its length, and a hundredth more with each adapter that is not the plain base."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def losses(
        self, adapter: LowRank | None, texts: Sequence[Encoded]
    ) -> tuple[Float[np.ndarray, " text"], Int[np.ndarray, " text"]]:
        self.asked.append((PLAIN if adapter is None else adapter.digest(), len(texts)))
        more = 0.0 if adapter is None else 0.01
        counted = np.array([text.counted for text in texts], np.int64)
        return np.array([len(text.token) + more for text in texts]), counted


def text(length: int) -> Encoded:
    return Encoded(np.arange(length), 1)


@pytest.fixture
def setting() -> Setting:
    found = object.__new__(Setting)
    fields = {
        "tuner": Counting(),
        "measured": WeakKeyDictionary(),
        "plain": {},
        "validation": ((text(3), text(5)), (), (text(9),)),
        "public_held": (text(11),),
        "corpus": SimpleNamespace(domains=[SimpleNamespace(name=name) for name in "abc"]),
    }
    for name, value in fields.items():
        object.__setattr__(found, name, value)
    return found


def test_an_adapter_is_measured_once_while_there_is_one(setting: Setting) -> None:
    tuner, one = setting.tuner, adapter(1.0)
    assert isinstance(tuner, Counting)
    first = appraise.appraise(tuner, one, setting)
    assert first.domain == {"a": pytest.approx(8.02 / 6.0), "c": pytest.approx(9.01 / 8.0)}
    assert first.public == pytest.approx(11.01 / 10.0)
    digest = one.digest()
    assert tuner.asked == [(digest, 2), (digest, 1), (digest, 1)]
    assert appraise.appraise(tuner, one, setting) == first
    assert appraise.on_domain(setting, one, 0) == first.domain["a"]
    held = [setting.validation[2][0], setting.validation[0][1]]
    np.testing.assert_allclose(appraise.on_proof(setting, one, held), [9.01, 5.01])
    assert len(tuner.asked) == 3
    assert np.isnan(appraise.on_domain(setting, one, 1))
    for _ in range(2):
        appraise.on_domain(setting, None, 0)
    assert tuner.asked[3:] == [(PLAIN, 2)]
    other = adapter(2.0)
    assert appraise.on_domain(setting, other, 0) == first.domain["a"]
    assert tuner.asked[4:] == [(other.digest(), 2)]
    del other
    assert list(setting.measured) == [one]


def test_another_models_adapters_are_never_kept(setting: Setting) -> None:
    small = Counting()
    twice = [appraise.appraise(small, adapter(2.0), setting) for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(small.asked) == 6
    assert not setting.measured


@pytest.mark.parametrize(
    ("notes", "short", "way"),
    [
        (["I had asthma as a child.", "Only a cough."], ["asthma child", "cough"], "extract"),
        (["noncontributory", "none"], ["noncontributory", "none"], "consensus"),
    ],
)
def test_a_domains_notes_are_written_as_its_held_out_ones_are_written_best(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, notes: list[str], short: list[str], way: str
) -> None:
    said = ["Patient: I had asthma as a child. And you?", "Patient: Only a cough. Well."]
    held = tuple(
        Example(str(k), "s", dialogue, note) for k, (dialogue, note) in enumerate(zip(said, notes, strict=True))
    )
    fields = {
        "config": Knowledge(writing=Writing(way="best"), held=8),
        "corpus": SimpleNamespace(domains=[SimpleNamespace(validation=held)]),
        "seed": 0,
    }
    for name, value in fields.items():
        object.__setattr__(setting, name, value)
    asked: list[list[str]] = []

    def drawn(
        _setting: Setting, _adapter: LowRank | None, examples: Sequence[Example], _rng: object
    ) -> list[list[str]]:
        asked.append([example.key for example in examples])
        return [[short[int(example.key)], "something else"] for example in examples]

    monkeypatch.setattr(appraise, "_drawn", drawn)
    assert appraise._way(setting, [None, None], 0) == way
    assert asked == [["0"], ["1"]]  # two models answer in turn
    object.__setattr__(setting, "config", Knowledge())
    assert appraise._way(setting, [None], 0) == "greedy"
