"""Judged drafts give the very text that is generated without them; what is rejected leaves no trace."""

from __future__ import annotations

import time

import numpy as np
import pytest
from served import CONTEXT, adapter, generated, greedy, language, merged, prompts, read

from gainnet.errors import InputError
from gainnet.inference.engine import Engine
from gainnet.inference.request import QueueFull, Sampling


def _spoken(engine: Engine, session: str, truth: list[int], seed: int) -> list[int]:
    """A text by drafts that are right for a while."""
    rng = np.random.default_rng(seed)
    said: list[int] = []
    while len(said) < len(truth):
        draft = truth[len(said) : len(said) + int(rng.integers(0, 6))]
        right = int(rng.integers(0, len(draft) + 1))
        draft = [*draft[:right], *((token + 1) % 250 for token in draft[right:])]
        found = engine.verify(session, draft).result(60)
        said += draft[: found.accepted]
        if found.token is not None:
            assert found.accepted >= right or len(said) + 1 > len(truth)
            said.append(found.token)
    return said[: len(truth)]


@pytest.mark.parametrize("how", [greedy(30, ignore_eos=True), Sampling(max_tokens=30, seed=5, ignore_eos=True)])
@pytest.mark.untraced
def test_texts_by_drafts_are_those_without(how: Sampling) -> None:
    made = language()
    with Engine(made, slots=2, sessions=2, prefill=24, threads=1) as engine:
        for seed, prompt in enumerate(prompts(4)):  # more sessions than keep their rows
            truth = read(engine.submit(prompt, how, tenant="other"))
            session = engine.open_session(prompt, how)
            assert _spoken(engine, session, truth, seed) == truth
            assert engine.text_of(session)[: len(prompt)] == tuple(prompt)
        counters = engine.stats().counters
        assert engine.stats().sessions == 4
    assert counters.drafts > 0
    assert 0 < counters.accepted_tokens < counters.drafted_tokens


def test_sessions_take_turns_for_rows_beside_answers_and_with_adapters() -> None:
    made = language()
    one = adapter(made, 1)
    asked = prompts(4, longest=30, seed=3)
    with Engine(made, slots=2, sessions=1, prefill=8, threads=1) as engine:
        engine.load_adapter("a", one)
        names = [None, "a", None, "a"]
        sessions = [engine.open_session(prompt, adapter=name) for prompt, name in zip(asked, names, strict=True)]
        said: list[list[int]] = [[] for _ in sessions]
        for _ in range(4):
            other = engine.submit(asked[0], greedy(4))
            futures = [engine.verify(session, [5, 6]) for session in sessions]
            for text, future in zip(said, futures, strict=True):
                found = future.result(60)
                text += [*[5, 6][: found.accepted], *([] if found.token is None else [found.token])]
            assert read(other) == generated(made, asked[0], 4)
        for prompt, name, text in zip(asked, names, said, strict=True):
            assert text == generated(merged(made, one) if name else made, prompt, len(text))
        for session in sessions:
            engine.close_session(session)


def test_a_text_ends_at_its_length_and_at_the_token_that_ends_it() -> None:
    made = language()
    prompt = prompts(1)[0]
    truth = generated(made, prompt, 8)
    with Engine(made, threads=1) as engine:
        short = engine.open_session(prompt, greedy(3))
        found = engine.verify(short, truth[:5]).result(60)
        assert (found.accepted, found.token, found.finish) == (3, None, "length")
        assert engine.text_of(short) == (*prompt, *truth[:3])
        with pytest.raises(InputError, match="has ended"):
            engine.verify(short, [])
        engine._ends = frozenset([truth[2]])
        ending = engine.open_session(prompt, greedy(8))
        found = engine.verify(ending, truth[:6]).result(60)
        assert (found.accepted, found.token, found.finish) == (truth.index(truth[2]) + 1, None, "stop")
        last = engine.open_session(prompt, greedy(8))
        found = engine.verify(last, truth[: truth.index(truth[2])]).result(60)
        assert (found.token, found.finish) == (truth[2], "stop")


def test_drafts_that_were_drawn_are_judged_by_their_probabilities() -> None:
    made = language()
    prompt = prompts(1)[0]
    size = made.model.config.vocab_size
    flat = np.full((2, size), 1.0 / size)
    with Engine(made, threads=1) as engine:
        session = engine.open_session(prompt, Sampling(max_tokens=20, seed=3, logprobs=1, ignore_eos=True))
        found = engine.verify(session, [7, 9], flat).result(60)
        assert 0 <= found.accepted <= 2
        assert found.logprob is not None
        wrong = np.zeros((1, size))
        for given, message in [(flat[:1], "must be finite, not negative, and 2 x"), (-flat, "not negative")]:
            with pytest.raises(InputError, match=message):
                engine.verify(session, [7, 9], given)
        with pytest.raises(InputError, match="was not drawn from that"):
            engine.verify(session, [7], wrong)


def test_what_cannot_be_judged_is_refused() -> None:
    engine = Engine(language(), queue=1, threads=1)
    session = engine.open_session([5, 6])
    with pytest.raises(InputError, match="session nobody: there is none"):
        engine.verify("nobody", [])
    with pytest.raises(InputError, match="draft: token -1"):
        engine.verify(session, [-1])
    with pytest.raises(InputError, match=f"draft: {CONTEXT} tokens after 2: the context is {CONTEXT}"):
        engine.verify(session, [5] * CONTEXT)
    waiting = engine.verify(session, [7])
    with pytest.raises(InputError, match="is being judged"):
        engine.verify(session, [7])
    other = engine.open_session([5])
    with pytest.raises(QueueFull, match="1 drafts wait already"):
        engine.verify(other, [])
    engine.close_session(session)
    engine.start()
    while not waiting.cancelled():
        time.sleep(0.001)
    assert engine.verify(other, []).result(60).token is not None
    with pytest.raises(InputError, match="there is none"):
        engine.text_of(session)
    engine.close()
