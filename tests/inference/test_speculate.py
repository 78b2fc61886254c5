"""Drafts of one model that another verifies give the very pieces of the other, as fast as they can, and no slower."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from functools import cache
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from served import CONTEXT, greedy, language, prompts

from gainnet.errors import InputError
from gainnet.inference import speculate
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Line, Link, Pace, choose, pays
from gainnet.inference.remote import HttpVerifier, NodeFailed
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineDrafter, EngineVerifier, Speculation, Verdict
from gainnet.models import hub
from gainnet.models.collaboration import expected_tokens
from gainnet.models.hub import Language
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings

Work = Callable[[Engine, Engine], Coroutine[Any, Any, None]]
OTHER = 1e-9
"""So little that models agree, and are two."""
PATIENCE_S = 300.0
"""For machines with much else to do."""


@cache
def noisy(amount: float) -> Language:
    """A copy that agrees often."""
    made = language()
    model = copy.deepcopy(made.model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        for tensor in model.parameters():
            tensor.add_(amount * tensor.std() * torch.randn_like(tensor) if tensor.ndim == 2 else 0.0)
    return hub.as_language(model, made.tokenizer, made.context)


ENGINES: dict[float, Engine] = {}
"""By how much their model differs from `language`; begun where a test wants them, and kept for the next ones."""


@pytest.fixture(scope="module", autouse=True)
def engines() -> Iterator[None]:
    yield
    while ENGINES:
        ENGINES.popitem()[1].close()


def engine(amount: float) -> Engine:
    if amount not in ENGINES:
        ENGINES[amount] = Engine(noisy(amount), threads=1)
        ENGINES[amount].start()
    return ENGINES[amount]


def run(work: Work, amount: float = 0.02) -> None:
    """Drafts of a model that differs by an amount; that of none is the verifying one."""
    small = OTHER if amount == 0.0 else amount
    asyncio.run(asyncio.wait_for(work(engine(small), engine(0.0)), PATIENCE_S))


async def all_of(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in pieces]


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


class Clock:
    """Time as the module under test reads it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Far(EngineVerifier):
    """Takes its time by a clock: a round trip, and so long for each token alone and each draft."""

    def __init__(self, engine: Engine, clock: Clock, rtt_s: float, token_s: float = 0.01) -> None:
        super().__init__(engine)
        self.clock, self.rtt_s, self.token_s = clock, rtt_s, token_s
        self.opened = self.closed = 0
        self.hangs = False

    async def open(self, prompt: Sequence[int], sampling: Sampling) -> str:
        self.clock.now += self.rtt_s
        if self.hangs:
            await asyncio.Event().wait()
        self.opened += 1
        return await super().open(prompt, sampling)

    async def judge(self, session: str, draft: Sequence[int]) -> Verdict:
        self.clock.now += self.rtt_s + self.token_s
        return await super().judge(session, draft)

    async def close(self, session: str) -> None:
        self.closed += 1
        await super().close(session)

    async def whole(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        self.clock.now += self.rtt_s
        async for piece in super().whole(prompt, sampling):
            self.clock.now += self.token_s
            yield piece


class Slow(EngineDrafter):
    """Takes a millisecond for each token; knows nothing after so many of a text."""

    def __init__(self, engine: Engine, clock: Clock, longest: int = CONTEXT) -> None:
        super().__init__(engine)
        self.clock, self.longest = clock, longest

    async def draft(self, text: Sequence[int], length: int, sampling: Sampling) -> list[int]:
        self.clock.now += 1e-3 * length
        return [] if len(text) > self.longest else await super().draft(text, length, sampling)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speculate, "time", made)
    return made


# The formula


def test_tokens_of_a_round_are_those_of_simulated_rounds() -> None:
    rng = np.random.default_rng(0)
    for acceptance, length in [(0.0, 4), (0.3, 1), (0.8, 5), (0.95, 12), (1.0, 6)]:
        stays = rng.random((20_000, length)) < acceptance
        mean = float(np.cumprod(stays, 1).sum(1).mean()) + 1.0
        assert expected_tokens(acceptance, length) == pytest.approx(mean, rel=0.03)
    assert expected_tokens(0.5, 0) == 1.0
    for wrong in [(1.5, 1), (0.5, -1)]:
        with pytest.raises(InputError):
            expected_tokens(*wrong)


def test_drafts_pay_up_to_the_round_trip_of_the_formula() -> None:
    draft, verify = Line(0.0, 1e-3), Line(10e-3, 0.0)
    limit = (expected_tokens(0.8, 6) - 1.0) * 10e-3 - 6e-3
    assert pays(0.8, 6, Link(limit - 1e-6), draft, verify)
    assert not pays(0.8, 6, Link(limit + 1e-6), draft, verify)
    assert not pays(0.8, 6, Link(limit - 1e-6, rate_bit_per_s=1e6), draft, verify)
    assert not pays(1.0, 0, Link(0.0), draft, verify)


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.95])
def test_the_length_chosen_is_the_fastest_and_none_where_none_pays(acceptance: float) -> None:
    draft, verify = Line(0.0, 1e-3), Line(10e-3, 0.5e-3)
    lengths = range(1, 17)
    pay = []
    for rtt_s in (0.0, 5e-3, 30e-3, 100e-3):
        link, left = Link(rtt_s), 1_000_000
        chosen = choose(acceptance, link, draft, verify, verify.at(0), left)
        per_token = [(draft.at(g) + verify.at(g) + rtt_s) / expected_tokens(acceptance, g) for g in lengths]
        if chosen.length:
            assert per_token[chosen.length - 1] == min(per_token) < verify.at(0)
            assert chosen.drafted_s < chosen.whole_s
        else:
            assert not any(pays(acceptance, g, link, draft, verify) for g in lengths)
        pay.append(chosen.length > 0)
    assert pay == sorted(pay, reverse=True)
    assert choose(0.9, Link(0.0), draft, verify, 1.0, left=1).length == 0


def test_what_is_measured_is_found_again_and_change_is_followed() -> None:
    with pytest.raises(InputError, match="longest 0"):
        Pace(0)
    pace = Pace()
    rng = np.random.default_rng(1)
    assert not pace.known
    assert pace.choose(100).length == 4
    assert (pace.draft, pace.verify, pace.rtt_s) == (Line(0.0, 0.0), Line(0.0, 0.0), 0.0)

    def rounds(count: int, acceptance: float, rtt_s: float) -> None:
        for _ in range(count):
            length = int(rng.integers(1, 9))
            accepted = int(np.cumprod(rng.random(length) < acceptance).sum())
            pace.crossed(rtt_s)
            pace.drafted(length, 2e-3 + 1e-3 * length)
            pace.verified(length, rtt_s + 8e-3 + 5e-4 * length)
            pace.judged(accepted, accepted < length)

    rounds(400, 0.9, 5e-3)
    assert pace.acceptance == pytest.approx(0.9, abs=0.05)
    assert pace.rtt_s == pytest.approx(5e-3)
    assert (pace.draft.fixed_s, pace.draft.each_s) == pytest.approx((2e-3, 1e-3), rel=0.05)
    assert (pace.verify.fixed_s, pace.verify.each_s) == pytest.approx((8e-3, 5e-4), rel=0.05)
    assert pace.token_s == pace.verify.at(0)
    assert pace.choose(100).length > 0
    pace.streamed(10, 0.02)
    assert pace.token_s == pytest.approx(2e-3)
    assert pace.choose(100).length == 0
    rounds(400, 0.2, 0.05)
    assert pace.acceptance == pytest.approx(0.2, abs=0.1)
    assert pace.rtt_s == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("points", [[(4, 8e-3)] * 5, [(1, 9e-3), (8, 1e-3)] * 5, [(1, 1e-3), (4, 8e-3)] * 9])
def test_lines_never_fall_nor_begin_below_nothing(points: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tokens, seconds in points:
        pace.drafted(tokens, seconds)
    assert pace.draft.fixed_s >= 0.0
    assert pace.draft.each_s >= 0.0
    tokens, seconds = np.mean(points, 0)
    assert pace.draft.at(round(tokens)) == pytest.approx(float(seconds), rel=0.6)


# Two engines


@pytest.mark.parametrize("amount", [0.0, 0.02, 1.0])
@pytest.mark.untraced
def test_pieces_are_those_of_the_verifying_model(amount: float) -> None:
    async def work(small: Engine, large: Engine) -> None:
        verifier = EngineVerifier(large)
        spoken = Speculation(EngineDrafter(small), verifier, language().tokenizer)
        spoken.pace.choose = lambda left: choose(1.0, Link(0.0), Line(0.0, 0.0), Line(1.0, 0.0), 1.0, left, 5)  # type: ignore[method-assign]
        for number, prompt in enumerate(prompts(2 if amount == 0.02 else 1, longest=40, seed=4)):
            for how in (greedy(20), Sampling(max_tokens=20, seed=number), greedy(1), greedy(1000)):
                alone = await all_of(verifier.whole(prompt, how))
                assert await all_of(spoken.answer(prompt, how)) == alone
                stop = text(alone)[3:6]
                if stop:
                    stopped = Sampling(max_tokens=20, temperature=0.0, stop=(stop, "never"))
                    assert await all_of(spoken.answer(prompt, stopped)) == await all_of(verifier.whole(prompt, stopped))
        counters = spoken.counters
        assert (counters.whole, counters.switched) == (2 if amount == 0.02 else 1, 0)  # answers of one token
        assert 0 < counters.drafts <= counters.rounds
        assert counters.accepted < counters.tokens
        assert counters.bits == 24.0 * (counters.drafted + counters.rounds)
        if amount == 0.0:
            assert counters.accepted > 0.9 * counters.drafted
        await spoken.close()
        assert large.stats().sessions == 0

    run(work, amount)


def test_the_token_that_ends_a_text_ends_it_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(small: Engine, large: Engine) -> None:
        verifier, prompt = EngineVerifier(large), prompts(1)[0]
        alone = await all_of(verifier.whole(prompt, greedy(12)))
        monkeypatch.setattr(small, "_ends", frozenset([alone[5].token or 0]))
        monkeypatch.setattr(large, "_ends", small._ends)
        ended = await all_of(verifier.whole(prompt, greedy(12)))
        assert ended[-1].finish == "stop"
        spoken = Speculation(EngineDrafter(small), verifier, language().tokenizer)
        assert await all_of(spoken.answer(prompt, greedy(12))) == ended
        await spoken.close()

    run(work)


@pytest.mark.parametrize("rtt_s", [1e-3, 0.3])
@pytest.mark.untraced
def test_drafts_where_they_pay_else_the_rest_is_asked_for_at_once_and_tried_again_at_times(
    clock: Clock, rtt_s: float
) -> None:
    async def work(small: Engine, large: Engine) -> None:
        verifier = Far(large, clock, rtt_s)
        spoken = Speculation(Slow(small, clock), verifier, language().tokenizer, probe_every=3)
        spent, alone_s = 0.0, 0.0
        for prompt in prompts(9, longest=30):
            began_s = clock.now
            alone = await all_of(verifier.whole(prompt, greedy(24)))
            alone_s, began_s = alone_s + clock.now - began_s, clock.now
            assert await all_of(spoken.answer(prompt, greedy(24))) == alone
            spent += clock.now - began_s
        await spoken.close()
        counters = spoken.counters
        assert counters.answers == 9
        assert verifier.opened == verifier.closed
        assert spoken.pace.rtt_s == pytest.approx(rtt_s)
        if rtt_s < 0.01:
            assert counters.switched == counters.whole == counters.probes == 0
            assert spent < 0.8 * alone_s
        else:
            assert spoken.pace.token_s == pytest.approx(0.01)
            assert counters.whole + counters.probes == 8
            assert counters.switched >= 1
            assert counters.probes == 2
            assert counters.rounds < 30

    run(work, 0.0)


def test_where_the_drafter_has_nothing_to_say_the_rest_is_asked_for_at_once(clock: Clock) -> None:
    async def work(small: Engine, large: Engine) -> None:
        verifier = Far(large, clock, 0.0)
        spoken = Speculation(Slow(small, clock, 12), verifier, language().tokenizer)
        prompt = [5, 6, 7, 8]
        assert await all_of(spoken.answer(prompt, greedy(24))) == await all_of(verifier.whole(prompt, greedy(24)))
        assert (spoken.counters.switched, spoken.counters.whole) == (1, 0)
        await spoken.close()

    run(work, 0.0)


def test_an_answer_that_is_given_up_leaves_no_session(clock: Clock) -> None:
    async def work(small: Engine, large: Engine) -> None:
        verifier = Far(large, clock, 0.0)
        spoken = Speculation(EngineDrafter(small), verifier, language().tokenizer)
        pieces = spoken.answer(prompts(1)[0], greedy(24))
        await anext(pieces)
        await pieces.aclose()
        await spoken.close()
        assert (verifier.opened, verifier.closed, large.stats().sessions) == (1, 1, 0)
        verifier.hangs = True
        asking = asyncio.create_task(all_of(spoken.answer(prompts(1)[0], greedy(24))))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await spoken.close()
        assert (verifier.opened, verifier.closed) == (1, 1)

    run(work)


def test_log_probabilities_are_of_whole_requests_and_prompts_must_leave_room() -> None:
    async def work(small: Engine, large: Engine) -> None:
        spoken = Speculation(EngineDrafter(small), EngineVerifier(large), language().tokenizer)
        how, prompt = greedy(6, logprobs=1), prompts(1)[0]
        assert await all_of(spoken.answer(prompt, how)) == await all_of(EngineVerifier(large).whole(prompt, how))
        assert spoken.counters.whole == 1
        for wrong in ([], [5] * CONTEXT):
            with pytest.raises(InputError, match="must be from 1 to"):
                await anext(spoken.answer(wrong, greedy()))
        assert await EngineDrafter(small).draft([5] * CONTEXT, 4, greedy()) == []

    run(work)


# Over HTTP


def test_a_node_verifies() -> None:
    async def work(small: Engine, large: Engine) -> None:
        node = Node(NodeSettings(listen={"port": 0}, ids=("m",), slots=2, threads=1, token="secret"), language())
        await node.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as http:
                verifier = HttpVerifier(http, node.url, "m", CONTEXT, token="secret", tenant="t")
                spoken = Speculation(EngineDrafter(small), verifier, language().tokenizer)
                for prompt in prompts(2, longest=30):
                    how = greedy(24, ignore_eos=True)
                    alone = await all_of(EngineVerifier(large).whole(prompt, how))
                    told = await all_of(spoken.answer(prompt, how))
                    assert text(told) == text(alone)
                    assert told[-1].finish == alone[-1].finish
                    whole = await all_of(verifier.whole(prompt, how))
                    assert (text(whole), whole[-1].finish) == (text(alone), "length")
                    stop = text(alone)[3:6]
                    stopped = greedy(24, ignore_eos=True, stop=(stop,), top_k=50, seed=1)
                    cut = await all_of(EngineVerifier(large).whole(prompt, stopped))
                    assert text(await all_of(verifier.whole(prompt, stopped))) == text(cut)
                    assert text(await all_of(spoken.answer(prompt, stopped))) == text(cut)
                await spoken.close()
                assert node.engine.stats().sessions == 0
                assert spoken.counters.bits > 0.0
                with pytest.raises(NodeFailed, match="404"):
                    await verifier.judge("nobody", [])
                with pytest.raises(NodeFailed, match="400"):
                    await anext(verifier.whole([5], greedy(10_000)))
                with pytest.raises(NodeFailed, match="401"):
                    await HttpVerifier(http, node.url, "m", CONTEXT).open([5], greedy())
        finally:
            await node.close()

    run(work)


BROKEN = {
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n": "closed|payload|not completed",
    b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno": "500: no reason given",
    b'HTTP/1.1 200 OK\r\ncontent-length: 38\r\n\r\ndata: {"error":{"message":"it broke"}}\n': "it broke",
    b'HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\ndata: {"choices":[]}\n\n': "the answer broke off",
}


@pytest.mark.parametrize("answer", BROKEN, ids=range(len(BROKEN)))
def test_a_node_that_breaks_is_named(answer: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(broken, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, aiohttp.ClientSession() as http:
            with pytest.raises(NodeFailed, match=f"{url}: .*({BROKEN[answer]})"):
                await all_of(HttpVerifier(http, url, "m", CONTEXT).whole([5], greedy()))
        async with aiohttp.ClientSession() as http:
            with pytest.raises(NodeFailed, match=url):
                await HttpVerifier(http, url, "m", CONTEXT).open([5], greedy())

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
