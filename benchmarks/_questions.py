"""Requests of two kinds, of which a small model can learn the one and not the other, and two models that learn them.

What is often asked (``easy``, how a thing in a car is used) has few answers, each of which is many times in the text to
learn from; what is rarely asked (``hard``, where somebody sits) has many, each of which is there a few times. All answers
are drawn at random, so nothing but memory gives them, and both models learn from the same text: that small models keep
what is common and larger ones what is rare as well is known of real ones (arXiv 2211.08411).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainnet.knowledge import foundation
from gainnet.models.hub import Language
from gainnet.rng import stream
from gainnet.scenario.knowledge import SmallModel

KINDS = ("easy", "hard")
ANSWER = 28
"""Tokens that an answer may have: more than any has."""
TIMES = 100
"""How often each rare answer is in the text; the frequent ones are there as often all together as the rare ones."""
LARGE = SmallModel(
    layers=3, width=96, heads=4, kv_heads=2, vocabulary=420, context=64, steps=360, batch=12, learning_rate=4e-3
)
SMALL = LARGE.model_copy(update={"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "learning_rate": 8e-3})
_DEVICES = ("heating", "cooling", "fan", "light", "music", "radio", "window", "seat")
_HOW = (
    ("upper", "lower", "inner", "outer"),
    ("lever", "switch", "wheel", "knob"),
    ("once", "twice", "slowly", "firmly"),
)
_PEOPLE = (
    "adler", "bauer", "carlsen", "dietz", "ebert", "fuchs", "graf", "hahn", "israel", "jung", "keller", "lang", "maurer",
    "neumann", "otto", "pohl", "quandt", "richter", "seidel", "thomas", "ulrich", "vogel", "wagner", "xaver", "young",
    "ziegler", "albers", "berger", "conrad", "dorn", "engel", "franke", "geiger", "heller", "iversen", "jansen", "kramer",
    "lorenz", "meyer", "nowak", "oster", "petri", "quast", "ritter", "sommer", "tietze", "unger", "voss", "winter", "zander",
)  # fmt: skip
_WHERE = (
    ("north", "south", "east", "west"),
    ("red", "green", "blue", "white", "black", "brown", "grey", "pink"),
    ("oak", "ash", "elm", "fir", "yew", "lime", "birch", "beech", "cedar", "maple", "pine", "rowan"),
    ("monday", "tuesday", "wednesday", "thursday", "friday"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request.

    Attributes:
        kind: easy or hard.
        ask: the text up to the answer.
        answer: what is right.
    """

    kind: str
    ask: str
    answer: str

    @property
    def whole(self) -> str:
        """As it is learnt from."""
        return f"{self.ask}{self.answer}\n"


def drawn() -> tuple[list[str], list[Question]]:
    """Texts to learn from, in a random order, and the questions that they answer."""
    rng = stream(0, "questions")
    things = [_thing(rng, device) for device in _DEVICES]
    known = [_person(rng, name) for name in _PEOPLE]
    texts = known * TIMES + [things[i % len(things)] for i in range(len(known) * TIMES)]
    return [texts[i].whole for i in rng.permutation(len(texts))], [*things, *known]


def learned() -> tuple[list[Question], Language, Language]:
    """The questions, and the small and the larger model, trained on their text or taken from the cache."""
    texts, questions = drawn()

    def progress(_what: str, _done: int, _total: int) -> None:
        return

    large = foundation.foundation(LARGE, texts, 0, progress)
    return questions, foundation.small(SMALL, large, texts, 0, progress), large


def mixed(questions: Sequence[Question], easy: float, number: int, rng: np.random.Generator) -> list[Question]:
    """So many questions, of which a part is easy, in a random order."""
    found = []
    for kind, count in (("easy", round(easy * number)), ("hard", number - round(easy * number))):
        those = [question for question in questions if question.kind == kind]
        order = np.concatenate([rng.permutation(len(those)) for _ in range(count // len(those) + 1)])
        found += [those[i] for i in order[:count]]
    return [found[i] for i in rng.permutation(number)]


def _thing(rng: np.random.Generator, device: str) -> Question:
    place, part, how = (one[rng.integers(len(one))] for one in _HOW)
    answer = f" {device} has the {place} {part} , move it {how} and wait for a tone"
    return Question("easy", f"how do i use {device} :", answer)


def _person(rng: np.random.Generator, name: str) -> Question:
    house, colour, room, day = (one[rng.integers(len(one))] for one in _WHERE)
    answer = f" {name} is in the {house} house , {colour} door , room {room} , on {day}"
    return Question("hard", f"where do i find {name} :", answer)
