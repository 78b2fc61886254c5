"""Answers are those of `generate`, whoever else is in the batch; they end, stop, are refused and given up as asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from served import CONTEXT, generated, greedy, language, prompts, read

from gainnet.errors import InputError
from gainnet.inference.engine import Engine
from gainnet.inference.request import Answer, EngineStopped, Piece, QueueFull, Sampling


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(language(), slots=4, prefill=32, threads=1) as made:
        yield made


@pytest.mark.parametrize("prefill", [1, 7, 256])
@pytest.mark.untraced
def test_greedy_answers_are_those_of_generate_in_ragged_batches(prefill: int) -> None:
    asked = prompts(7)
    with Engine(language(), slots=3, prefill=prefill, threads=1) as engine:
        answers = [engine.submit(prompt, greedy(5 + 2 * index)) for index, prompt in enumerate(asked)]
        for index, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
            assert read(answer) == generated(language(), prompt, 5 + 2 * index)
        counters = engine.stats().counters
    assert counters.generated_tokens == sum(len(generated(language(), p, 5 + 2 * i)) for i, p in enumerate(asked))
    assert counters.prompt_tokens == sum(map(len, asked))
    assert counters.first_tokens == counters.finished == 7
    assert counters.inter_tokens == counters.generated_tokens - 7


@pytest.mark.untraced
def test_the_same_seed_gives_the_same_answer_whatever_else_runs(engine: Engine) -> None:
    how = Sampling(max_tokens=15, temperature=1.2, top_p=0.9, top_k=40, seed=11, ignore_eos=True)
    asked = prompts(1)[0]
    alone = read(engine.submit(asked, how))
    others = [engine.submit(prompt, Sampling(max_tokens=20, ignore_eos=True)) for prompt in prompts(3, seed=5)]
    again = engine.submit(asked, how)
    assert read(again) == alone
    assert again.seed == 11
    for other in others:
        read(other)
    assert read(engine.submit(asked, Sampling(max_tokens=15, seed=12, ignore_eos=True))) != alone
    drawn = engine.submit(asked, Sampling(max_tokens=15, ignore_eos=True))
    assert read(engine.submit(asked, Sampling(max_tokens=15, seed=drawn.seed, ignore_eos=True))) == read(drawn)


def _pieces(engine: Engine, how: Sampling) -> list[Piece]:
    return engine.submit(prompts(1)[0], how).wait(60.0)


def test_what_is_shown_is_the_text_of_its_tokens(engine: Engine) -> None:
    pieces = _pieces(engine, greedy(40, ignore_eos=True))
    token = [piece.token for piece in pieces]
    assert "".join(piece.text for piece in pieces) == language().tokenizer.decode(token, skip_special_tokens=True)
    assert [piece.finish for piece in pieces] == [None] * 39 + ["length"]


def test_a_stop_text_across_tokens_ends_the_answer_and_is_left_out(engine: Engine) -> None:
    pieces = _pieces(engine, greedy(30, ignore_eos=True))
    whole = "".join(piece.text for piece in pieces)
    at = len(whole) // 2
    stop = whole[at : at + 6]
    stopped = _pieces(engine, greedy(30, ignore_eos=True, stop=("never to be seen", stop)))
    assert "".join(piece.text for piece in stopped) == whole[: whole.index(stop)]
    assert stopped[-1].finish == "stop"
    assert len(stopped) < 30
    assert [p.token for p in stopped] == [p.token for p in pieces[: len(stopped)]]


def test_the_token_that_ends_a_text_ends_the_answer_unless_it_is_ignored() -> None:
    made = language()
    first = generated(made, [5, 6, 7], 6)
    model = made.model
    kept = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [first[3]]
        with Engine(made, threads=1) as engine:
            pieces = engine.submit([5, 6, 7], greedy(6)).wait(60.0)
            ignored = read(engine.submit([5, 6, 7], greedy(6, ignore_eos=True)))
    finally:
        model.generation_config.eos_token_id = kept
    ends = first.index(first[3]) + 1
    assert [piece.token for piece in pieces] == first[:ends]
    assert pieces[-1].finish == "stop"
    assert ignored == first


def test_log_probabilities_are_the_models(engine: Engine) -> None:
    prompt = prompts(1)[0]
    pieces = engine.submit(prompt, greedy(4, logprobs=3)).wait(60.0)
    token = [*prompt, *(piece.token for piece in pieces)]
    with torch.inference_mode():
        logs = torch.log_softmax(language().model(torch.tensor([token])).logits[0, len(prompt) - 1 : -1], -1)
    for piece, expected in zip(pieces, logs, strict=True):
        assert piece.logprob == pytest.approx(float(expected[piece.token]), abs=1e-4)
        assert [number for number, _ in piece.top] == expected.topk(3).indices.tolist()
        np.testing.assert_allclose([value for _, value in piece.top], expected.topk(3).values, atol=1e-4)
    chosen = engine.submit(prompt, Sampling(max_tokens=3, seed=1, logprobs=0)).wait(60.0)
    assert all(piece.logprob is not None and not piece.top for piece in chosen)


def test_an_answer_ends_where_the_context_does(engine: Engine) -> None:
    prompt = prompts(1, seed=3)[0][:1] * (CONTEXT - 3)
    pieces = engine.submit(prompt, greedy(50, ignore_eos=True)).wait(60.0)
    assert len(pieces) == 3
    assert pieces[-1].finish == "length"


@pytest.mark.untraced
def test_pieces_are_read_as_they_come_by_many_readers_of_one_loop(engine: Engine) -> None:
    asked = prompts(6, seed=9)

    async def one(prompt: list[int]) -> list[int | None]:
        return [piece.token async for piece in engine.submit(prompt, greedy())]

    async def all_of_them() -> list[list[int | None]]:
        return await asyncio.gather(*(one(prompt) for prompt in asked))

    assert asyncio.run(all_of_them()) == [generated(language(), prompt) for prompt in asked]


def test_what_is_given_up_ends_and_its_slot_is_used_by_others() -> None:
    with Engine(language(), slots=1, queue=2, threads=1) as engine:
        long = engine.submit([5, 6], Sampling(max_tokens=90, ignore_eos=True))
        while not engine.stats().running:
            time.sleep(0.001)
        waiting = engine.submit([7, 8], greedy(3))
        queued = engine.submit([9], greedy(3))
        with pytest.raises(QueueFull, match="2 requests wait already, of at most 2"):
            engine.submit([9])
        queued.cancel()
        assert [piece.finish for piece in queued.wait(60.0)] == ["cancelled"]
        long.cancel()
        pieces = long.wait(60.0)
        assert pieces[-1] == Piece(None, "", finish="cancelled", tokens=0)
        assert len(pieces) < 90
        assert read(waiting) == generated(language(), [7, 8], 3)
        long.cancel()  # nothing more happens
        stats = engine.stats()
    assert (stats.counters.cancelled, stats.counters.refused) == (2, 1)


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        ([], {}, "prompt: is empty"),
        ([3] * CONTEXT, {}, f"prompt: {CONTEXT} tokens: must be at most {CONTEXT - 1}"),
        ([3, 10**6], {}, "prompt: token 1000000: must be from 0 to"),
        ([3], {"adapter": "none"}, "adapter none: is not loaded; there are none"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_any_work(
    engine: Engine, prompt: list[int], more: dict[str, str], message: str
) -> None:
    before = engine.stats().counters.steps
    with pytest.raises(InputError, match=message):
        engine.submit(prompt, greedy(), **more)
    assert engine.stats().counters.steps == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_k", -1),
        ("seed", -1),
        ("stop", ("",)),
        ("logprobs", 21),
    ],
)
def test_sampling_names_what_is_wrong(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        Sampling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slots", "queue", "sessions", "prefill"])
def test_an_engine_has_at_least_one_of_each(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} 0: must be at least 1"):
        Engine(language(), **{name: 0})


def test_embeddings_are_mean_hidden_states_of_length_one(engine: Engine) -> None:
    texts = ["the patient has a cough", "no", "both parents are well, she says " * 3]
    found = engine.embed([*texts, [5, 6]]).result(60)
    assert found.shape == (4, 32)
    for text, vector in zip(texts, found, strict=False):
        token = [1, *language().tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            mean = language().model.base_model(torch.tensor([token])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    assert engine.stats().counters.embedded >= 4
    with pytest.raises(InputError, match="there is no text"):
        engine.embed([])
    with pytest.raises(InputError, match="at most 64 at once"):
        engine.embed(["a"] * 65)


def test_embeddings_that_are_given_up_leave() -> None:
    engine = Engine(language(), slots=1, threads=1)
    future = engine.embed(["a", "b"])
    assert future.cancel()
    assert engine.stats().waiting == 0
    engine.close()


def test_closing_ends_at_once_or_when_all_is_done() -> None:
    engine = Engine(language(), slots=1, threads=1)
    before = engine.submit([5, 6], greedy(3))
    engine.start()
    after = engine.submit([7], greedy(4))
    engine.close(drain=True)
    assert read(before) == generated(language(), [5, 6], 3)
    assert read(after) == generated(language(), [7], 4)
    with pytest.raises(EngineStopped, match="was closed"):
        engine.submit([5])
    idle = Engine(language(), slots=1, threads=1)
    left, texts, draft = idle.submit([5]), idle.embed(["a"]), idle.verify(idle.open_session([5]), [6])
    idle.close()
    for wait in (lambda: left.wait(60.0), lambda: texts.result(60), lambda: draft.result(60)):
        with pytest.raises(EngineStopped, match="was closed"):
            wait()
    with pytest.raises(EngineStopped):
        asyncio.run(_first(left))


async def _first(answer: Answer) -> Piece:
    return await anext(aiter(answer))


def test_a_failure_reaches_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(language(), slots=1, threads=1) as engine:
        monkeypatch.setattr(engine._scheduler, "step", _broken)
        answer = engine.submit([5])
        with pytest.raises(EngineStopped, match="the engine failed: out of memory"):
            answer.wait(60.0)
        with pytest.raises(EngineStopped, match="failed"):
            engine.submit([5])


def _broken() -> None:
    raise RuntimeError("out of memory")


@pytest.mark.untraced
def test_many_threads_ask_and_give_up_at_once_and_nothing_is_left() -> None:
    wrong: list[object] = []
    asked = prompts(4, longest=20, seed=2)
    expected = [generated(language(), prompt, 6) for prompt in asked]

    def work(engine: Engine, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(8):
            index = int(rng.integers(4))
            answer = engine.submit(asked[index], greedy(6))
            if rng.random() < 0.3:
                answer.cancel()
                answer.wait(60.0)
            elif read(answer) != expected[index]:
                wrong.append(index)

    with Engine(language(), slots=3, prefill=16, threads=1) as engine:
        threads = [threading.Thread(target=work, args=(engine, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.close(drain=True)
        stats = engine.stats()
    assert not wrong
    assert (stats.running, stats.waiting, stats.kv_use) == (0, 0, 0.0)
    assert stats.counters.finished + stats.counters.cancelled == 32


def test_waiting_ends_in_time() -> None:
    engine = Engine(language(), threads=1)
    with pytest.raises(TimeoutError):
        engine.submit([5]).wait(0.01)
    engine.close()
