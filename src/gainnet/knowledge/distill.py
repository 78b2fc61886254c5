"""Distillation without data: models sample texts themselves, and whoever is better at them teaches.

The idea is that of GaisNet's relays (arXiv 2401.02668), where no data leaves its place. A teacher is heard only where
its loss is below the student's (FedMKT, arXiv 2406.02224), and what it predicts is kept as its likeliest tokens.

A model finds what it sampled itself likely, so a low loss on its own text proves little. Where held-out notes are given
as ``proof``, only teachers that are better than the student on those of a section are asked about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError
from gainnet.knowledge import text
from gainnet.knowledge.example import Example
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Diverged, Top, Tuner
from gainnet.models.low_rank import LowRank
from gainnet.scenario.knowledge import Distillation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 8
DIALOGUE_MAX, NOTE_MAX = 80, 48
"""Tokens of a sampled dialogue and note, at most."""
NOTE_MIN = 3
BIGRAMS_DISTINCT = 0.5
"""Of the pairs of neighbouring tokens in a note, so many must differ from each other: models that repeat themselves."""
TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that teaches: an adapter and the tuner of its base; None is the plain base."""

    tuner: Tuner
    adapter: LowRank | None


@dataclass(frozen=True, slots=True)
class Text:
    """A text and the section of its note; a text of an end's own has none."""

    section: str
    encoded: Encoded


def sample(
    tuner: Tuner, adapter: LowRank | None, sections: Sequence[str], number: int, rng: np.random.Generator
) -> list[Text]:
    """At most ``number`` texts that a model samples, of these sections in turn."""
    heard = dict.fromkeys(sections, (0,))
    return _sampled([Teacher(tuner, adapter)], heard, number, rng, tuner.language.context)


@dataclass(frozen=True, slots=True)
class Taught:
    """What came of a distillation.

    Attributes:
        adapter: of the student; the one it had where nothing was learnt.
        samples: texts that were sampled.
        kept: of these and the texts given, those that can be learnt from.
        accepted: how many each teacher taught.
        before, after: mean loss (nat a token) of the student on what was taught; NaN where nothing was.
        refused: why the student stays as it was; empty where it learnt.
    """

    adapter: LowRank
    samples: int = 0
    kept: int = 0
    accepted: tuple[int, ...] = ()
    before: float = math.nan
    after: float = math.nan
    refused: str = ""

    def as_tree(self) -> dict[str, Any]:
        """As plain data, without the adapter; losses only where there are some."""
        tree: dict[str, Any] = {"samples": self.samples, "kept": self.kept, "accepted": list(self.accepted)}
        losses = {"before": self.before, "after": self.after}
        tree |= {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        return tree | ({"refused": self.refused} if self.refused else {})


def teach(
    tuner: Tuner,
    student: LowRank,
    teachers: Sequence[LowRank],
    sections: Sequence[str],
    config: Distillation,
    rng: np.random.Generator,
    *,
    factors: Literal["ab", "b"] = "ab",
    proof: Mapping[str, Sequence[Encoded]] | None = None,
    measure: Measure | None = None,
    texts: Sequence[Text] | None = None,
) -> Taught:
    """Teach an adapter what others of the same model know better.

    Args:
        tuner: of the model.
        student: is left as it is.
        teachers: who sample texts, and teach.
        sections: whose notes are sampled, in turn.
        config: how many texts and steps, and how.
        rng: of samples and order.
        factors: ``b`` leaves A as it is.
        proof: held-out notes by section; a section without is open to all teachers.
        measure: summed loss (nat) of an adapter on each of some of these notes; by default the tuner's.
        texts: that were sampled already (see `sample`), all of these sections; by default they are sampled here.
    """
    heads = [Teacher(tuner, teacher) for teacher in teachers]
    nat = measure or (lambda adapter, held: tuner.losses(adapter, held)[0])
    heard = _heard([student, *teachers], sections, proof or {}, nat)
    if texts is None:
        texts = _sampled(heads, heard, config.samples, rng, tuner.language.context)
    return _learn(Teacher(tuner, student), heads, heard, texts, config, rng, factors)


def small(
    tuner: Tuner,
    teacher: LowRank | None,
    pupil: Tuner,
    student: LowRank | None,
    sections: Sequence[str],
    config: Distillation,
    rng: np.random.Generator,
    *,
    texts: Sequence[Encoded] = (),
    sampled: Sequence[Text] | None = None,
) -> Taught:
    """Teach a smaller model what a large one knows, on texts that the large one samples.

    Args:
        tuner: of the large model.
        teacher: its adapter, None for the plain model.
        pupil: of the small model, whose tokenizer is the same.
        student: the small model's adapter, left as it is; None to begin with a fresh one of the largest rank.
        sections: whose notes are sampled, in turn.
        config: how many texts and steps, and how.
        rng: of samples and order, and of a fresh adapter.
        texts: more to learn from: an end's own.
        sampled: texts that the large one sampled already (see `sample`); by default it samples here.

    InputError where the tokenizers differ.
    """
    if not _alike(tuner.language.tokenizer, pupil.language.tokenizer):
        raise InputError("distillation: the small model's tokenizer must be that of the large one")
    student = student or pupil.adapters.fresh(pupil.adapters.ranks[-1], rng)
    heads = [Teacher(tuner, teacher)]
    heard = dict.fromkeys(sections, (0,))
    context = min(tuner.language.context, pupil.language.context)
    if sampled is None:
        sampled = _sampled(heads, heard, config.samples, rng, context)
    fitting = [found for found in sampled if len(found.encoded.token) <= context]
    own = [Text("", Encoded(found.token[:context], found.answer)) for found in texts if found.answer < context]
    return _learn(Teacher(pupil, student), heads, {**heard, "": (0,)}, [*fitting, *own], config, rng, "ab")


@lru_cache(maxsize=8)
def _alike(one: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> bool:
    """Whether two tokenizers have the same tokens; as long as they live, since a vocabulary takes milliseconds to read."""
    return bool(one.get_vocab() == other.get_vocab())


Measure = Callable[[LowRank | None, Sequence[Encoded]], Float[np.ndarray, " text"]]
"""Summed loss (nat) of an adapter on each of some texts."""
Heard = Mapping[str, tuple[int, ...]]
"""The teachers (by index) that are asked about each section."""


def _heard(
    models: Sequence[LowRank], sections: Sequence[str], proof: Mapping[str, Sequence[Encoded]], measure: Measure
) -> dict[str, tuple[int, ...]]:
    """Which of the models after the first are better than it on each section's held-out notes, as far as there are any."""
    known = [section for section in dict.fromkeys(sections) if any(held.counted for held in proof.get(section, ()))]
    where = {section: {id(held): held for held in proof[section]} for section in known}
    held = list({key: held for found in where.values() for key, held in found.items()}.values())
    place = {id(found): index for index, found in enumerate(held)}
    nat = np.stack([measure(model, held) for model in models]) if held else np.zeros((len(models), 0))
    teachers = range(len(models) - 1)
    heard = {section: tuple(teachers) for section in sections}
    for section in known:
        loss = nat[:, [place[key] for key in where[section]]].sum(axis=1)
        heard[section] = tuple(index for index in teachers if loss[index + 1] < loss[0])
    return heard


def _sampled(
    teachers: Sequence[Teacher], heard: Heard, samples: int, rng: np.random.Generator, context: int
) -> list[Text]:
    """At most ``samples`` texts, dealt to the pairs of sections and teachers in turn: a dialogue, then a note of it."""
    pairs = [(section, index) for section, who in heard.items() for index in who]
    if not pairs or not samples:
        return []
    first = int(rng.integers(len(pairs)))
    dealt = [pairs[(first + number) % len(pairs)] for number in range(samples)]
    found: list[Text] = []
    for index, teacher in enumerate(teachers):
        mine = [section for section, who in dealt if who == index]
        if mine:
            found += _whole(teacher, mine, rng, context)
    return found


def _whole(teacher: Teacher, sections: Sequence[str], rng: np.random.Generator, context: int) -> list[Text]:
    """A text of each section, all of it sampled by one model."""
    tokenizer = teacher.tuner.language.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    start = np.array([] if tokenizer.bos_token_id is None else [begin], np.int64)
    asks = [_ask(teacher.tuner, section, context) for section in sections]
    note_max = min(NOTE_MAX, context // 4)
    room = context - 1 - note_max - max(map(len, asks))
    dialogues = [start] * len(asks)
    if room > 0:
        begun = [np.array([begin], np.int64)] * len(asks)
        said = teacher.tuner.sample(teacher.adapter, begun, min(DIALOGUE_MAX, room), TEMPERATURE, rng)
        dialogues = [np.concatenate([start, token[token != tokenizer.eos_token_id]]) for token in said]
    prompts = [np.concatenate([dialogue, ask]) for dialogue, ask in zip(dialogues, asks, strict=True)]
    notes = teacher.tuner.sample(teacher.adapter, prompts, note_max, TEMPERATURE, rng)
    return [
        Text(section, Encoded(np.concatenate([prompt, note]), len(prompt)))
        for section, prompt, note in zip(sections, prompts, notes, strict=True)
    ]


def _ask(tuner: Tuner, section: str, context: int) -> Int[np.ndarray, " position"]:
    """The tokens that ask for a section's note."""
    tokenizer = tuner.language.tokenizer
    prompt = text.prompt(tokenizer, Example("", section, "", ""), context)
    return prompt if tokenizer.bos_token_id is None else prompt[1:]


def learnable(encoded: Encoded, special: Sequence[int | None], end: int) -> bool:
    """Whether a sampled text is worth learning: a note that says something, ends, and does not repeat itself.

    Args:
        encoded: the text.
        special: tokens that stand in no text but at its ends.
        end: the token that ends a text.
    """
    note = encoded.token[encoded.answer :]
    note = note[:-1] if len(note) and note[-1] == end else note
    inside = {*encoded.token[1 : encoded.answer].tolist(), *note.tolist()}
    if len(note) < NOTE_MIN or inside & set(special):
        return False
    pairs = list(zip(note[:-1].tolist(), note[1:].tolist(), strict=True))
    return len(set(pairs)) >= BIGRAMS_DISTINCT * len(pairs)


def worth_learning(tuner: Tuner, texts: Sequence[Text]) -> list[Encoded]:
    """The sampled texts that are `learnable`, each once."""
    return [found.encoded for found in _filtered(texts, tuner)]


def _filtered(texts: Sequence[Text], tuner: Tuner) -> list[Text]:
    """Those worth learning, each once; an end's own, which have no section, as they are."""
    tokenizer = tuner.language.tokenizer
    special, end = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id), tokenizer.eos_token_id
    kept = (found for found in texts if not found.section or learnable(found.encoded, special, end))
    return list({found.encoded.token.tobytes(): found for found in kept if found.encoded.counted}.values())


def _learn(
    student: Teacher,
    teachers: Sequence[Teacher],
    heard: Heard,
    texts: Sequence[Text],
    config: Distillation,
    rng: np.random.Generator,
    factors: Literal["ab", "b"],
) -> Taught:
    """Train the student on what teachers predict, each text taught by who is best at it and better than the student."""
    assert student.adapter is not None, "a student has an adapter"
    kept = _filtered(texts, teachers[0].tuner) if teachers else []
    taught = Taught(student.adapter, sum(bool(found.section) for found in texts), len(kept), (0,) * len(teachers))
    nat = _nat([student, *teachers], [found.encoded for found in kept])
    teacher = _best(nat, [heard[found.section] for found in kept])
    chosen = np.flatnonzero(teacher >= 0)
    taught = replace(taught, accepted=tuple(int((teacher == index).sum()) for index in range(len(teachers))))
    if not len(chosen) or not config.steps:
        return replace(taught, refused="no teacher knows better")
    lessons = [kept[index].encoded for index in chosen.tolist()]
    soft = _predicted(teachers, teacher[chosen], lessons, config.top_k)
    counted = sum(lesson.counted for lesson in lessons)
    taught = replace(taught, before=float(nat[0, chosen].sum() / counted))
    order = np.concatenate([rng.permutation(len(lessons)) for _ in range(-(-config.steps * BATCH // len(lessons)))])
    order = order[: config.steps * BATCH]
    try:
        tuned = student.tuner.tune(
            student.adapter,
            [lessons[index] for index in order.tolist()],
            epochs=1,
            batch=BATCH,
            learning_rate=config.learning_rate,
            rng=rng,
            factors=factors,
            soft=[soft[index] for index in order.tolist()],
        )
    except Diverged as error:
        return replace(taught, refused=str(error))
    after = float(_nat([Teacher(student.tuner, tuned.adapter)], lessons).sum() / counted)
    if not math.isfinite(after):
        return replace(taught, refused=f"the loss after it is {after}")
    return replace(taught, adapter=tuned.adapter, after=after)


def _nat(models: Sequence[Teacher], texts: Sequence[Encoded]) -> Float[np.ndarray, "model text"]:
    """Summed loss (nat) of each model on each text."""
    if not texts:
        return np.zeros((len(models), 0))
    return np.stack([model.tuner.losses(model.adapter, texts)[0] for model in models])


def _best(nat: Float[np.ndarray, "model text"], heard: Sequence[tuple[int, ...]]) -> Int[np.ndarray, " text"]:
    """The teacher of each text: of those heard the one of least loss, -1 where that is not below the student's.

    Args:
        nat: losses of the student, then of each teacher; what is no number is never the best.
        heard: the teachers that are asked, by text.
    """
    found = np.full(nat.shape[1], -1, np.int64)
    for number, who in enumerate(heard):
        losses = {index: nat[index + 1, number] for index in who if math.isfinite(nat[index + 1, number])}
        best = min(losses, key=lambda index: losses[index], default=-1)
        if best >= 0 and not losses[best] >= nat[0, number]:
            found[number] = best
    return found


def _predicted(
    teachers: Sequence[Teacher], teacher: Int[np.ndarray, " text"], texts: Sequence[Encoded], top_k: int
) -> list[Top]:
    """What its teacher predicts after each position of each text."""
    found: dict[int, Top] = {}
    for index, model in enumerate(teachers):
        mine = np.flatnonzero(teacher == index).tolist()
        k = min(top_k, len(model.tuner.language.tokenizer))
        predicted = model.tuner.top(model.adapter, [texts[at] for at in mine], k) if mine else []
        found |= dict(zip(mine, predicted, strict=True))
    return [found[at] for at in range(len(texts))]
