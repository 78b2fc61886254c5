"""Continuations against those of transformers, and what is computed for them."""

import numpy as np
import pytest
import torch
from kinds import KINDS, drawn

from gainnet.models.continuation import continued

PROMPTS = [np.array(words) for words in ([5, 9, 11], [7], [5, 9, 11], [3, 4, 5, 6, 7, 8, 9, 10])]


def likeliest(logits):
    return logits.argmax(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.untraced
def test_they_are_those_of_transformers(kind):
    model = drawn(kind).eval()
    room = [9, 6, 4, 9]
    with torch.inference_mode():
        found = continued(
            model, lambda **given: model(**given, use_cache=True).logits[:, -1], PROMPTS, room, likeliest, pad=0, end=2
        )
        for prompt, most, words in zip(PROMPTS, room, found, strict=True):
            whole = model.generate(torch.from_numpy(prompt)[None], max_new_tokens=most, do_sample=False)[0]
            assert words.tolist() == whole[len(prompt) :].tolist()


def test_equal_prompts_are_read_once_and_what_ended_takes_no_step():
    model = drawn("llama").eval()
    seen = []

    def predict(input_ids, **given):
        seen.append(tuple(input_ids.shape))
        return model(input_ids=input_ids, **given, use_cache=True).logits[:, -1]

    with torch.inference_mode():
        found = continued(model, predict, [PROMPTS[0]] * 8, [1, 1, 1, 2, 4, 4, 4, 4], likeliest, pad=0, end=-1)
    assert seen == [(1, 3), (5, 1), (4, 1), (4, 1)]
    assert [len(words) for words in found] == [1, 1, 1, 2, 4, 4, 4, 4]
    assert all(words.tolist() == found[-1][: len(words)].tolist() for words in found)


def test_the_token_that_ends_is_the_last():
    model = drawn("llama").eval()
    script = iter([[5, 2], [6, 9], [2, 9]])

    def choose(logits):
        return torch.tensor(next(script)[: len(logits)])

    with torch.inference_mode():
        found = continued(
            model,
            lambda **given: model(**given, use_cache=True).logits[:, -1],
            PROMPTS[:2],
            [9, 9],
            choose,
            pad=0,
            end=2,
        )
    assert [words.tolist() for words in found] == [[5, 6, 2], [2]]


def test_a_row_that_has_ended_goes_no_further_than_the_model_has_positions():
    model = drawn("gpt2").eval()
    full = np.arange(63) % 50 + 3
    with torch.inference_mode():
        found = continued(
            model, lambda **given: model(**given, use_cache=True).logits[:, -1], [full, *[PROMPTS[0]] * 8], [1, *[9] * 8],
            likeliest, pad=0, end=-1,
        )  # fmt: skip
    assert [len(words) for words in found] == [1, *[9] * 8]
