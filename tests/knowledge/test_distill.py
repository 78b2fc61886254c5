"""Distillation on tiny models: who is heard, what the student takes over, and that nothing else moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch

from gainnet.errors import InputError
from gainnet.knowledge import distill, text
from gainnet.knowledge.batch import collate
from gainnet.knowledge.distill import Taught, learnable
from gainnet.knowledge.example import Example
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Diverged, Tuner
from gainnet.models import hub
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import Distillation, SmallModel

CONTEXT = 48
SECTIONS = ("HPI", "MEDS")
CONFIG = Distillation(samples=32, steps=12, learning_rate=5e-3, top_k=12)
WORDS = {"HPI": ("pain", "fever", "cough", "rash"), "MEDS": ("aspirin", "insulin", "iron", "zinc")}


def _examples(section: str, form: str) -> list[Example]:
    """All notes of a section: two of its words, as they were said, in some form."""
    pairs = [(one, two) for one, two in product(WORDS[section], repeat=2) if one != two]
    return [Example(f"{a} {b}", section, f"it is {a} or {b}", form.format(a, b)) for a, b in pairs]


def _trained(language: hub.Language, texts: list[Encoded], steps: int) -> hub.Language:
    """The same model, all of it trained on every token of texts."""
    model = language.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.0)
    batch = collate([Encoded(found.token, 1) for found in texts])
    token, mask = batch.rectangle(0)
    for _ in range(steps):
        logits = model(token, attention_mask=mask).logits[batch.row, batch.position[batch.at]]
        torch.nn.functional.cross_entropy(logits, batch.target).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.requires_grad_(False)
    return hub.Language(model, language.tokenizer, hub.digest(model), language.context)


@dataclass(frozen=True)
class World:
    """A large and a small model of one tokenizer, an adapter for each section, and texts."""

    tuner: Tuner
    pupil: Tuner
    start: LowRank
    teachers: dict[str, LowRank]
    texts: dict[str, list[Encoded]]

    def loss(self, adapter: LowRank | None, section: str, tuner: Tuner | None = None) -> float:
        nat, counted = (tuner or self.tuner).losses(adapter, self.texts[section])
        return float(nat.sum() / counted.sum())


@pytest.fixture(scope="module")
def world() -> World:
    torch.set_num_threads(1)
    examples = {section: _examples(section, "Told of {}, then {}.") for section in SECTIONS}
    other = [example for section in SECTIONS for example in _examples(section, "Then of {1}, told {0}.")]
    flat = [f"{e.dialogue}\n\n## {e.section}\n{e.note}" for found in (*examples.values(), other) for e in found]
    tokenizer = hub.tokenizer(flat * 4, 320, CONTEXT)
    known = [text.encode(tokenizer, example, CONTEXT) for example in other]
    public = known + text.public(tokenizer, [example.dialogue for example in other], CONTEXT)
    shape = SmallModel(layers=2, width=48, heads=2, kv_heads=1, vocabulary=320, context=CONTEXT)
    narrow = shape.model_copy(update={"width": 32, "layers": 1})
    language, small = (_trained(hub.build(one, tokenizer, seed=1), public, 60) for one in (shape, narrow))
    tuner, pupil = Tuner(language, (8,)), Tuner(small, (8,))
    encoded = {
        section: [text.encode(tokenizer, example, CONTEXT) for example in found] for section, found in examples.items()
    }
    rng = np.random.default_rng(0)
    start = tuner.adapters.fresh(8, rng)
    teachers = {
        section: tuner.tune(start, found, epochs=12, batch=4, learning_rate=1e-2, rng=rng).adapter
        for section, found in encoded.items()
    }
    return World(tuner, pupil, start, teachers, encoded)


def _worse(adapter: LowRank) -> LowRank:
    """As an edge that sends poison makes it: the opposite of what was learnt, enlarged."""
    layers = {name: Factors(factors.a, -2.0 * factors.b) for name, factors in adapter.layers.items()}
    return replace(adapter, layers=layers)


def _teach(world: World, teachers: list[LowRank], seed: int = 3, **given: object) -> Taught:
    rng = np.random.default_rng(seed)
    return distill.teach(world.tuner, world.start, teachers, SECTIONS, CONFIG, rng, **given)  # type: ignore[arg-type]


@pytest.mark.untraced
def test_the_student_moves_towards_its_teacher(world: World) -> None:
    teacher = world.teachers["HPI"]
    digests = (world.start.digest(), teacher.digest())
    nearer, better = [], []
    for seed in range(5):  # one draw may be a poor one: which is so differs between processors
        taught = distill.teach(world.tuner, world.start, [teacher], ("HPI",), CONFIG, np.random.default_rng(seed))
        assert taught.refused == ""
        assert taught.samples == 32
        assert 0 < taught.accepted[0] <= taught.kept <= 32
        assert taught.after < taught.before - 0.5
        nearer.append(_divergence(world, taught.adapter, teacher) / _divergence(world, world.start, teacher))
        better.append(world.loss(world.start, "HPI") - world.loss(taught.adapter, "HPI"))
    assert max(nearer) < 1.0
    assert np.mean(nearer) < 0.7
    assert min(better) > 0.0
    assert np.mean(better) > 0.75
    assert (world.start.digest(), teacher.digest()) == digests
    assert taught.adapter.rank == world.start.rank


def _divergence(world: World, student: LowRank, teacher: LowRank) -> float:
    """KL from the teacher, over the whole vocabulary, on notes that neither sampled."""
    texts, whole = world.texts["HPI"], len(world.tuner.language.tokenizer)
    nat, counted = 0.0, 0
    for one, two in zip(world.tuner.top(teacher, texts, whole), world.tuner.top(student, texts, whole), strict=True):
        right, left = (np.take_along_axis(top.value, np.argsort(top.token, axis=1), axis=1) for top in (one, two))
        nat, counted = nat + float((np.exp(right) * (right - left)).sum()), counted + len(right)
    return nat / counted


@pytest.mark.untraced
def test_each_section_is_taught_by_who_knows_it(world: World) -> None:
    teachers = [world.teachers["HPI"], world.teachers["MEDS"], _worse(world.teachers["HPI"])]
    taught = _teach(world, teachers, proof=world.texts)
    assert taught.accepted[0] > 0
    assert taught.accepted[1] > 0
    assert taught.accepted[2] == 0
    for section in SECTIONS:
        assert world.loss(taught.adapter, section) < world.loss(world.start, section)


def test_a_worse_teacher_is_never_heard(world: World) -> None:
    worse = _worse(world.teachers["HPI"])
    assert all(world.loss(worse, section) > world.loss(world.start, section) for section in SECTIONS)
    taught = _teach(world, [worse], proof=world.texts)
    assert taught == Taught(world.start, 0, 0, (0,), refused="no teacher knows better")
    assert math.isnan(taught.before)


def test_a_teacher_that_is_no_better_on_a_text_does_not_teach_it(world: World) -> None:
    taught = _teach(world, [world.start])
    assert taught.adapter is world.start
    assert taught.accepted == (0,)
    assert taught.refused == "no teacher knows better"


def test_the_best_of_each_text_counts_and_no_number_is_never_best() -> None:
    nat = np.array([[5.0, 5.0, 5.0, 5.0, math.nan], [4.0, 6.0, math.nan, 4.0, 4.0], [3.0, 5.0, 4.0, 3.0, 5.0]])
    assert distill._best(nat, [(0, 1), (0, 1), (0, 1), (0,), (0, 1)]).tolist() == [1, -1, 1, 0, 0]
    assert distill._best(nat, [()] * 5).tolist() == [-1] * 5


@pytest.mark.untraced
def test_the_same_generator_gives_the_same_bytes(world: World) -> None:
    teachers = list(world.teachers.values())
    one, two, other = (_teach(world, teachers, seed=seed).adapter.digest() for seed in (3, 3, 4))
    assert one == two
    assert one != other


def test_a_shared_a_stays(world: World) -> None:
    taught = _teach(world, [world.teachers["HPI"]], factors="b")
    assert taught.refused == ""
    for name, factors in taught.adapter.layers.items():
        assert np.array_equal(factors.a, world.start.layers[name].a)
    assert taught.adapter.digest() != world.start.digest()


def test_what_diverges_leaves_the_student(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise Diverged("training diverged: loss nan in step 1")

    with monkeypatch.context() as patch:
        patch.setattr(world.tuner, "tune", diverge)
        taught = _teach(world, [world.teachers["HPI"]])
    assert taught.adapter is world.start
    assert taught.refused == "training diverged: loss nan in step 1"
    assert taught.as_tree().keys() == {"samples", "kept", "accepted", "before", "refused"}


@pytest.mark.parametrize("teachers", [0, 1])
def test_nothing_asked_for_is_nothing_done(world: World, teachers: int) -> None:
    none = CONFIG.model_copy(update={"samples": 0})
    given = list(world.teachers.values())[:teachers]
    taught = distill.teach(world.tuner, world.start, given, SECTIONS, none, np.random.default_rng(0))
    assert taught.adapter is world.start
    assert taught.samples == 0


@pytest.mark.parametrize("own", [0, 6])
@pytest.mark.untraced
def test_a_small_model_learns_round_by_round(world: World, own: int) -> None:
    """Without data, and with texts of an end's own; measured on all the texts."""
    teacher, student, losses = world.teachers["MEDS"], None, [world.loss(None, "MEDS", world.pupil)]
    rng, gentle = np.random.default_rng(5), CONFIG.model_copy(update={"learning_rate": 2e-3})
    given = {"texts": world.texts["MEDS"][:own]}
    for _ in range(3):
        taught = distill.small(world.tuner, teacher, world.pupil, student, ("MEDS",), gentle, rng, **given)
        assert taught.refused == ""
        assert taught.after < taught.before
        student = taught.adapter
        losses.append(world.loss(student, "MEDS", world.pupil))
    assert losses[3] < losses[0] - 1.0
    assert student is not None
    assert student.base == world.pupil.language.digest
    assert set(taught.as_tree()) == {"samples", "kept", "accepted", "before", "after"}
    if own:
        assert losses == sorted(losses, reverse=True)


def test_an_end_may_add_texts_of_its_own(world: World) -> None:
    teacher, own = world.teachers["MEDS"], world.texts["MEDS"]
    given = (world.tuner, teacher, world.pupil, None, ("MEDS",))
    only = CONFIG.model_copy(update={"samples": 0})
    taught = distill.small(*given, only, np.random.default_rng(0), texts=own)
    assert taught.samples == 0
    assert taught.kept == len(own)
    assert taught.after < taught.before
    with_both = distill.small(*given, CONFIG, np.random.default_rng(0), texts=own)
    assert with_both.kept > len(own)


def test_another_tokenizer_is_refused(world: World) -> None:
    other = hub.build(SmallModel(layers=1, width=16, heads=1, kv_heads=1), hub.tokenizer(["zzz"], 300, 32), seed=0)
    with pytest.raises(InputError, match="tokenizer"):
        distill.small(world.tuner, None, Tuner(other, (2,)), None, SECTIONS, CONFIG, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("note", "good"),
    [
        ([5, 6, 7, 2], True),
        ([5, 6, 7], True),  # cut where it was too long
        ([5, 6, 2], False),
        ([2], False),
        ([], False),
        ([5, 6, 0, 7, 2], False),
        ([5, 6, 1, 7, 2], False),
        ([5, 6] * 4, False),
        ([5] * 8, False),
        ([5, 6, 7, 8, 5, 6, 7, 9], True),
    ],
)
def test_only_notes_that_say_something_are_learnt(note: list[int], good: bool) -> None:
    token = np.array([1, 9, 9, 9, *note])
    assert learnable(Encoded(token, 4), (1, 2, 0), 2) is good
    assert not learnable(Encoded(np.array([1, 9, 1, *note]), 3), (1, 2, None), 2)
