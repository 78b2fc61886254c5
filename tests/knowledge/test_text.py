"""What becomes of examples and texts as tokens: nothing is lost but the middle of what is too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.knowledge import text
from gainnet.knowledge.example import Example
from gainnet.models import hub

TOK = hub.tokenizer(("the patient has a cough", "Doctor: any pain? Patient: no", "ASSESSMENT"), 320, 64)
words = st.text(max_size=200)
sections = st.text(alphabet="ABC <eos>", max_size=8)


def example(dialogue: str, note: str, section: str = "PLAN") -> Example:
    return Example("visit-1", section, dialogue, note)


def test_the_format_is_as_documented() -> None:
    encoded = text.encode(TOK, example("any pain?", "no pain"), 128)
    assert TOK.decode(encoded.token) == "<bos>any pain?\n\n## PLAN\nno pain<eos>"
    assert TOK.decode(encoded.token[encoded.answer :]) == "no pain<eos>"
    assert encoded.counted == len(encoded.token) - encoded.answer
    prompt = text.prompt(TOK, example("any pain?", "no pain"), 128)
    np.testing.assert_array_equal(prompt, encoded.token[: encoded.answer])


@settings(deadline=None, max_examples=60)
@given(dialogue=words, note=words, section=sections, context=st.integers(64, 200))
def test_it_fits_and_keeps_the_prompt_of_the_note(dialogue: str, note: str, section: str, context: int) -> None:
    encoded = text.encode(TOK, example(dialogue, note, section), context)
    assert 2 <= len(encoded.token) <= context
    assert encoded.answer < len(encoded.token)
    ask = TOK(f"\n\n## {section}\n", split_special_tokens=True)["input_ids"]
    before = encoded.token[: encoded.answer].tolist()
    assert before[0] == TOK.bos_token_id
    assert before[len(before) - len(ask) :] == ask
    assert TOK.eos_token_id not in encoded.token[:-1]
    whole = TOK(dialogue, split_special_tokens=True)["input_ids"] if dialogue else []
    kept = before[1 : len(before) - len(ask)]
    head = (len(kept) + 1) // 2
    assert kept == whole or kept == whole[:head] + whole[len(whole) - (len(kept) - head) :]


@settings(deadline=None, max_examples=30)
@given(dialogue=words, context=st.integers(64, 200))
def test_a_prompt_leaves_room_for_a_note(dialogue: str, context: int) -> None:
    assert len(text.prompt(TOK, example(dialogue, ""), context)) <= context - context // text.NOTE_SHARE
    assert len(text.prompt(TOK, example(dialogue, ""), context, note_max=10)) <= context - 10


def test_an_over_long_note_loses_its_end_and_an_empty_one_is_its_end() -> None:
    encoded = text.encode(TOK, example("any pain?", "no pain " * 100), 64)
    assert len(encoded.token) == 64
    assert TOK.eos_token_id not in encoded.token
    empty = text.encode(TOK, example("", ""), 64)
    assert empty.counted == 1
    assert empty.token[-1] == TOK.eos_token_id


def test_what_looks_like_a_special_token_is_text() -> None:
    encoded = text.encode(TOK, example("<bos> <eos> <pad>", "a<eos>b"), 128)
    assert {int(t) for t in encoded.token[1:-1]} & {0, 1, 2} == set()
    assert text.decode(TOK, encoded.token[encoded.answer :]) == "a<eos>b"


def test_a_section_that_takes_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="example visit-1: its section takes"):
        text.encode(TOK, example("any pain?", "no", "X" * 100), 64)


def test_sections_that_do_not_fit_are_told_beforehand() -> None:
    long = "X" * 100
    assert text.unfit(TOK, ("PLAN", long), 1024) == {}
    found = text.unfit(TOK, ("PLAN", long), 64)
    with pytest.raises(InputError) as caught:
        text.encode(TOK, example("any pain?", "no", long), 64)
    assert str(caught.value) == f"example visit-1: {found.pop(long)}"
    assert found == {}


def test_what_was_shortened_is_known() -> None:
    def cut(dialogue: str, note: str) -> tuple[bool, bool]:
        encoded = text.encode(TOK, example(dialogue, note), 64)
        return encoded.dialogue_cut, encoded.note_cut

    assert cut("any pain?", "no") == (False, False)
    assert cut("any pain? " * 50, "no") == (True, False)
    assert cut("any pain?", "no pain " * 100) == (True, True)
    assert cut("", "no pain " * 100) == (False, True)


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(words, max_size=4), context=st.integers(8, 40))
@pytest.mark.untraced
def test_every_token_of_public_text_but_the_first_counts_once(texts: list[str], context: int) -> None:
    encoded = text.public(TOK, texts, context)
    assert all(e.answer == 1 and 2 <= len(e.token) <= context for e in encoded)
    whole = [[1, *(TOK(t, split_special_tokens=True)["input_ids"] if t else []), 2] for t in texts]
    assert [t for e in encoded for t in e.token[1:].tolist()] == [t for w in whole for t in w[1:]]


def test_a_model_without_a_first_token_gets_none() -> None:
    tok = hub.tokenizer(("the patient",), 300, 64)
    tok.bos_token = None
    encoded = text.encode(tok, example("the", "patient"), 64)
    assert tok.decode(encoded.token) == "the\n\n## PLAN\npatient<eos>"
    assert text.public(tok, [""], 8) == []
