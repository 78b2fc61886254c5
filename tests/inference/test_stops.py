"""Text is shown in whole characters, is that of its tokens, and never shows a stop text or the beginning of one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gainnet.inference.stops import Stops, Texts

SHOWN = Texts(words())


def _told(texts: Texts, token: list[int]) -> list[str]:
    decoder = texts.decoder()
    return [*(decoder.add(one) for one in token), decoder.rest()]


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_comes_back_in_whole_characters(text: str) -> None:
    told = _told(SHOWN, words()(text, add_special_tokens=False)["input_ids"])
    assert "".join(told) == text
    assert told[-1] == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 299), max_size=20))
def test_any_tokens_become_the_text_that_the_tokenizer_gives(token: list[int]) -> None:
    token = [one for one in token if one < len(words())]
    assert "".join(_told(SHOWN, token)) == words().decode(token, skip_special_tokens=True)


def test_a_character_of_several_tokens_is_shown_with_the_last() -> None:
    token = words()("é€", add_special_tokens=False)["input_ids"]
    told = _told(SHOWN, token)
    assert len(token) == 5
    assert told == ["", "é", "", "", "€", ""]
    assert _told(SHOWN, token[:4])[-1] == "\N{REPLACEMENT CHARACTER}"


def test_unknown_and_added_tokens() -> None:
    tok: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(words().backend_tokenizer.to_str()))
    tok.add_tokens(["≥three"])
    added = tok.convert_tokens_to_ids("≥three")
    assert _told(Texts(tok), [added, 10**6]) == ["≥three", "", ""]


def test_a_tokenizer_of_words_shows_spaces_between_them() -> None:
    plain = Tokenizer(models.WordLevel({"[UNK]": 0, "▁no": 1, "▁cough": 2, "s": 3}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.decoder = decoders.Metaspace()
    texts = Texts(PreTrainedTokenizerFast(tokenizer_object=plain))
    assert _told(texts, [1, 2, 3, 1]) == ["no", " cough", "s", " no", ""]


def test_a_tokenizer_with_bytes_to_fall_back_on_waits_for_whole_characters() -> None:
    vocabulary = {"<unk>": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3}
    plain = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    plain.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    texts = Texts(PreTrainedTokenizerFast(tokenizer_object=plain))
    assert _told(texts, [1, 2, 3, 1]) == ["a", "", "é", "a", ""]
    assert _told(texts, [1, 2])[-1] == "\N{REPLACEMENT CHARACTER}"


def _fed(stop: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stops, shown = Stops(stop), ""
    for piece in pieces:
        more, ended = stops.add(piece)
        shown += more
        if ended:
            return shown, True
    return shown + stops.rest(), False


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        (("END",), ["a E", "N", "D b"], ("a ", True)),
        (("END",), ["a E", "N", "O b"], ("a ENO b", False)),
        (("aab",), ["aa", "ab"], ("a", True)),
        (("xyz", "y"), ["xy"], ("x", True)),
        ((), ["a", "b"], ("ab", False)),
        (("END",), ["EN"], ("EN", False)),
    ],
)
def test_stop_texts_across_pieces(stop: tuple[str, ...], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert _fed(stop, pieces) == expected


@settings(deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
)
def test_stop_texts_cut_where_the_whole_text_would_be_cut(pieces: list[str], stop: list[str]) -> None:
    shown, ended = _fed(tuple(stop), pieces)
    whole = "".join(pieces)
    ends = [whole.find(one) + len(one) for one in stop if one in whole]
    assert ended == bool(ends)
    assert whole.startswith(shown)
    assert not any(one in shown for one in stop)
    if not ended:
        assert shown == whole
