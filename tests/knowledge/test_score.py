import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge.score import distinct, perplexity, rouge, rouge1

DATA = Path(__file__).parents[3] / "shared" / "data" / "mts_dialog"


@pytest.mark.parametrize(("name", "published"), [("validation", (20.92, 6.76, 15.17)), ("test1", (21.78, 7.60, 16.15))])
@pytest.mark.untraced
def test_copying_the_dialogue_scores_as_published(name: str, published: tuple[float, float, float]) -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data/mts_dialog is missing")
    with (DATA / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    means = rouge([row["dialogue"] for row in rows], [row["section_text"] for row in rows]).means()
    assert means is not None
    assert [round(100.0 * value, 2) for value in means] == pytest.approx(published, abs=1e-9)


def test_rouge_by_hand() -> None:
    # three of four words shared, of five: P 3/5, R 3/4; one of three bigrams, of four; "a b d" in order
    score = rouge(["a b x d y"], ["a b c d"])
    assert score.one[0] == pytest.approx(2 * 3 / (5 + 4))
    assert score.two[0] == pytest.approx(2 * 1 / (4 + 3))
    assert score.longest[0] == pytest.approx(2 * 3 / (5 + 4))
    assert rouge([""], ["a"]).one.tolist() == [0.0]
    assert rouge(["Pains"], ["pain"]).one.tolist() == [0.0]  # case is folded, stems are not


def test_rouge_of_nothing_has_no_mean() -> None:
    assert rouge([], []).means() is None
    score = rouge(["a", "b"], ["a", "a"])
    assert score.means() == (0.5, 0.0, 0.5)
    assert score.means(np.array([True, False])) == (1.0, 0.0, 1.0)
    assert score.means(np.array([False, False])) is None


def test_a_reference_for_each_answer() -> None:
    with pytest.raises(InputError, match="answers: 1 for 0 references"):
        rouge(["a"], [])
    with pytest.raises(InputError, match="seen: 1 marks for 2 references"):
        distinct(["a", "b"], [True])


def test_distinct_keeps_the_first_and_nothing_seen() -> None:
    assert distinct(["None.", "a  b", "none.", "A b", "c"]).tolist() == [True, True, False, False, True]
    assert distinct(["a", "b", "a"], [True, False, False]).tolist() == [False, True, False]
    assert distinct([]).tolist() == []


@given(st.lists(st.sampled_from("abcde")), st.data())
@pytest.mark.untraced
def test_distinct_has_each_unseen_text_once(references: list[str], data: st.DataObject) -> None:
    train = data.draw(st.sets(st.sampled_from("abcde")))
    kept = distinct(references, [reference in train for reference in references])
    left = [reference for reference, keep in zip(references, kept, strict=True) if keep]
    assert sorted(left) == sorted(set(references) - train)


def test_perplexity() -> None:
    assert perplexity(10 * math.log(7.0), 10) == pytest.approx(7.0)  # uniform over seven words
    assert perplexity(1e6, 1) == math.inf
    assert perplexity(math.inf, 3) == math.inf
    for nat, token in ((1.0, 0), (math.nan, 4)):
        with pytest.raises(InputError, match="at least one token"):
            perplexity(nat, token)


def test_rouge1_alone_is_that_of_all_three() -> None:
    answers, references = ["a b x d y", "", "Pains b"], ["a b c d", "a", "pain b b"]
    np.testing.assert_array_equal(rouge1(answers, references), rouge(answers, references).one)
