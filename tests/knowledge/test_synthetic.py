import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge import general, visits
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Corpus, Example
from gainnet.knowledge.score import distinct, rouge
from gainnet.knowledge.shards import Parts, deal, domains
from gainnet.knowledge.synthetic import make
from gainnet.rng import stream
from gainnet.scenario.knowledge import Synthetic

ENDS = (5, 5, 5, 5)


@cache
def made(seed: int = 1, ends_of_edge: tuple[int, ...] = ENDS, **fields: int) -> Corpus:
    return make(Synthetic(**fields), ends_of_edge=ends_of_edge, rng=stream(seed, "data"))


def trained(corpus: Corpus) -> list[Example]:
    return [example for domain in corpus.domains for shard in domain.shards for example in shard]


def held(corpus: Corpus) -> list[Example]:
    return [example for domain in corpus.domains for example in (*domain.validation, *domain.test)]


def test_same_generator_same_corpus() -> None:
    small = Synthetic(train=40, held=8, public=40)
    first, again, other = (make(small, ends_of_edge=ENDS, rng=stream(seed, "data")) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_sizes() -> None:
    corpus = made(1, (5, 4, 1), train=100, held=10, public=50)
    assert [sum(map(len, domain.shards)) for domain in corpus.domains] == [34, 33, 33]
    assert [len(domain.shards) for domain in corpus.domains] == [5, 4, 1]
    assert [(len(domain.validation), len(domain.test)) for domain in corpus.domains] == [(4, 4), (3, 3), (3, 3)]
    assert (len(corpus.public), len(corpus.public_held), corpus.refused) == (50, 10, ())
    keys = [example.key for example in (*trained(corpus), *held(corpus))]
    assert len(keys) == len(set(keys))
    least = made(1, ENDS, train=1, held=1, public=1)
    assert [(sum(map(len, d.shards)), len(d.validation), len(d.test)) for d in least.domains] == [(1, 1, 1)] * 4


@pytest.mark.untraced
def test_notes_and_public_texts_are_there_once() -> None:
    corpus = made()
    everything = [*trained(corpus), *held(corpus)]
    assert distinct([example.note for example in everything]).all()
    assert not any(example.seen for example in everything)
    public = (*corpus.public, *corpus.public_held)
    assert len(set(public)) == len(public)


def test_public_text_has_no_pairs() -> None:
    corpus = made()
    notes = {example.note for example in trained(corpus)} | {example.note for example in held(corpus)}
    dialogues = {example.dialogue for example in (*trained(corpus), *held(corpus))}
    text = "\n".join((*corpus.public, *corpus.public_held))
    assert not any(note in text for note in notes)
    assert not any(dialogue in text for dialogue in dialogues)
    for label in ("FHx", "c/o", "D/c", "R/o", "Tolerates", "VS:"):  # a chart's grammar is learnt from ends alone
        assert label not in text


def test_public_text_has_the_words_of_visits() -> None:
    corpus = made()

    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z]+", text.lower()))

    public = set().union(*map(words, corpus.public))
    unknown = Counter(word for example in held(corpus) for word in words(example.dialogue) if word not in public)
    assert sum(unknown.values()) < 0.01 * sum(len(example.dialogue.split()) for example in held(corpus))


def test_copying_does_not_solve_it() -> None:
    corpus = made(1, (2,) * 8)
    for domain in corpus.domains:
        score = rouge([e.dialogue for e in domain.test], [e.note for e in domain.test])
        means = score.means()
        assert means is not None
        assert means[0] < 0.25
        assert means[1] < 0.10
        assert score.one.max() < 0.40
    last = [e.dialogue.splitlines()[-1] for e in held(corpus)]  # nor does a line of it
    copied = rouge(last, [e.note for e in held(corpus)]).means()
    assert copied is not None
    assert copied[0] < 0.25


def test_lengths_fit_a_small_model() -> None:
    for example in trained(made()):
        assert 18 <= len(example.dialogue.split()) <= 110
        assert 30 <= len(example.note) <= 130


def test_domains_differ_in_their_notes() -> None:
    corpus = made(1, (2,) * 8)
    assert [domain.name for domain in corpus.domains][:4] == ["history", "treatment", "examination", "decision"]
    assert len({domain.name for domain in corpus.domains}) == 8
    first = [{e.note.split()[0] for e in domain.test if not e.note[0].isdigit()} for domain in corpus.domains]
    assert all(not one & other for i, one in enumerate(first[:4]) for other in first[:i])
    grammars = {re.sub(r": [^|]*", ":", e.note) for d in corpus.domains[4:] for e in d.test}
    assert len(grammars) == 8  # each section of each clinic has its own


def test_values_of_the_note_were_said() -> None:
    numbers = {word: str(number) for number, word in enumerate(visits.words.NUMBERS, 2)}
    for example in trained(made()):
        said = example.dialogue
        for word, number in numbers.items():
            said = said.replace(word, f"{word} {number}")
        said = f"{said} 2 1"  # of SpO2 and A1c
        for value in re.findall(r"\d+", example.note):
            assert re.search(rf"(?<!\d){value}(?!\d)", said), (value, example)


@pytest.mark.untraced
def test_corrections_count_and_others_drugs_do_not() -> None:
    found = Counter[str]()
    for example in trained(made(7, train=800, public=1)):
        if taken := re.search(
            r"(\d+), (?:no, wait,|sorry, I mean|no, actually|hmm, no,) (\d+) milligrams", example.dialogue
        ):
            found["corrected"] += 1
            assert f"{taken[2]} mg" in example.note
        if other := re.search(
            r"Patient: My (?:neighbor|friend|coworker|husband|roommate|landlord) takes (\w+)", example.dialogue
        ):
            found["other"] += 1
            elsewhere = len(re.findall(rf"\b{other[1]}\b", example.dialogue)) > 1
            assert elsewhere or other[1] not in example.note
    assert min(found["corrected"], found["other"]) > 50


def test_every_edge_needs_an_end() -> None:
    with pytest.raises(InputError, match="no edge"):
        made(1, ())
    with pytest.raises(InputError, match="edge 1 has 0 ends"):
        made(1, (3, 0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 9), st.integers(0, 2**32))
def test_dealing_loses_nothing(sections: list[str], ends: int, seed: int) -> None:
    examples = [Example(str(index), section, "d", "n") for index, section in enumerate(sections)]
    shards = deal(examples, ends, np.random.default_rng(seed))
    assert len(shards) == ends
    assert sorted(e.key for shard in shards for e in shard) == sorted(e.key for e in examples)


def test_dealing_is_skewed() -> None:
    examples = [Example(str(index), "ab"[index % 2], "d", "n") for index in range(400)]
    shards = [s for seed in range(50) for s in deal(examples, 5, np.random.default_rng(seed))]
    shares = np.array([sum(e.section == "a" for e in shard) / len(shard) for shard in shards if shard])
    sizes = np.array([len(shard) for shard in shards])
    assert shares.std() > 0.2  # an even deal has about 0.06
    assert sizes.mean() == 80.0
    assert sizes.std() > 30.0


def test_what_stands_in_training_data_of_any_domain_is_seen() -> None:
    train = Example("t", "a", "Hello.", "None.")
    probes = [Example(key, "b", d, n) for key, d, n in (("n", "x", " none. "), ("d", "HELLO.", "y"), ("-", "x", "y"))]
    parts = [Parts("A", ("a",), [train], [], []), Parts("B", ("b",), [], probes, probes)]
    _, second = domains(parts, (1, 1), np.random.default_rng(0))
    assert [e.seen for e in second.validation] == [e.seen for e in second.test] == [True, True, False]


def test_texts_repeat_when_ways_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "_KINDS", (lambda draw: str(draw.whole(1, 3)),))
    texts = general.texts(Draw(stream(1, "x")), 7)
    assert len(texts) == 7
    assert set(texts) == {"1", "2", "3"}
