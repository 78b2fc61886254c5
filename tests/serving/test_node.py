"""What a node answers, by the openai client and by hand."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from nodes import MESSAGES, PATIENCE_S, SHAPE, idle, language, run, served

from gainnet.errors import InputError
from gainnet.inference.request import Sampling
from gainnet.models import adapter as storing
from gainnet.models.adapter import Adapters
from gainnet.models.low_rank import Factors, LowRank
from gainnet.serving import node_model
from gainnet.serving.node import Node
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.reading import read
from gainnet.serving.router import Refused
from gainnet.serving.wire import Message

LONG: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 400, "ignore_eos": True}
GREEDY: Any = {"model": "m", "temperature": 0.0, "max_tokens": 8}


def test_chat_by_the_openai_client() -> None:
    async def main() -> None:
        async with served() as at:
            whole = await at.client.chat.completions.create(messages=MESSAGES, **GREEDY)
            assert whole.usage is not None
            assert whole.choices[0].finish_reason in ("stop", "length")
            stream = await at.client.chat.completions.create(
                messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert said == whole.choices[0].message.content
            assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
            assert chunks[-1].choices == []
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
            assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
            listed = await at.client.models.list()
            assert [model.id for model in listed.data] == ["m"]

    run(main())


def test_seeds_choices_and_logprobs() -> None:
    async def main() -> None:
        async with served() as at:
            asked: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 6, "seed": 5, "n": 2, "logprobs": True}
            asked |= {"top_logprobs": 3, "extra_body": {"ignore_eos": True}}
            first, second = [await at.client.chat.completions.create(**asked) for _ in range(2)]
            assert [choice.message.content for choice in first.choices] == [c.message.content for c in second.choices]
            assert first.choices[0].message.content != first.choices[1].message.content
            logprobs = first.choices[1].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert len(logprobs.content) == 6
            assert all(len(one.top_logprobs) == 3 and one.logprob <= 0.0 for one in logprobs.content)
            stream = await at.client.chat.completions.create(stream=True, **asked)
            said, shown = ["", ""], 0
            async for chunk in stream:
                for choice in chunk.choices:
                    said[choice.index] += choice.delta.content or ""
                    shown += len(choice.logprobs.content or ()) if choice.logprobs else 0
            assert said == [choice.message.content for choice in first.choices]
            assert shown == 12

    run(main())


@pytest.mark.untraced
def test_completions_of_text_lists_and_tokens() -> None:
    async def main() -> None:
        async with served() as at:
            tokens = await at.node.prompts.text("How are you?")
            one = await at.client.completions.create(prompt="How are you?", logprobs=2, **GREEDY)
            same = await at.client.completions.create(prompt=tokens, **GREEDY)
            many = await at.client.completions.create(prompt=["How are you?", "Well"], n=1, **GREEDY)
            assert one.choices[0].text == same.choices[0].text == many.choices[0].text
            assert [choice.index for choice in many.choices] == [0, 1]
            logprobs = one.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.tokens is not None
            assert one.usage is not None
            assert len(logprobs.tokens) == one.usage.completion_tokens
            assert one.usage.prompt_tokens == len(tokens)
            letter = next(c for c in one.choices[0].text if c.isprintable())
            stopped = await at.client.completions.create(prompt="How are you?", stop=letter, **GREEDY)
            assert stopped.choices[0].finish_reason == "stop"
            assert stopped.choices[0].text == one.choices[0].text.partition(letter)[0]
            stream = await at.client.completions.create(prompt="How are you?", stream=True, logprobs=0, **GREEDY)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == one.choices[0].text

    run(main())


def test_embeddings() -> None:
    async def main() -> None:
        async with served() as at:
            plain = await at.client.embeddings.create(model="m", input=["a", "b", "a"], encoding_format="float")
            vectors = np.array([one.embedding for one in plain.data])
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
            np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
            _, coded, _ = await at.post("/v1/embeddings", {"model": "m", "input": "b", "encoding_format": "base64"})
            decoded = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
            np.testing.assert_allclose(decoded, vectors[1], atol=1e-5)
            assert coded["usage"] == {"prompt_tokens": 2, "total_tokens": 2}

    run(main())


WRONG: list[tuple[str, Any, int, str]] = [
    ("/v1/chat/completions", {"model": "none", "messages": MESSAGES}, 404, "model_not_found"),
    ("/v1/chat/completions", {"model": "m", "messages": []}, 400, "invalid_value"),
    ("/v1/chat/completions", LONG | {"max_tokens": 600}, 400, "context_length_exceeded"),
    ("/v1/chat/completions", LONG | {"presence_penalty": 1.0}, 400, "unsupported"),
    ("/v1/completions", {"model": "m", "prompt": "word " * 600}, 400, "context_length_exceeded"),
    ("/v1/completions", {"model": "m", "prompt": ["a"] * 70}, 400, "limit_exceeded"),
    ("/v1/completions", {"model": "m", "prompt": [10**6]}, 400, "invalid_value"),
    ("/v1/completions", {"model": "m", "prompt": "a", "echo": True}, 400, "unsupported"),
    ("/v1/embeddings", {"model": "m", "input": "a", "dimensions": 2}, 400, "unsupported"),
    ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "a"}, 403, "forbidden"),
    ("/v1/unload_lora_adapter", {"lora_name": "a"}, 404, "not_found"),
    ("/verify", {"session": "none", "draft": [1]}, 404, "not_found"),
    ("/verify", {"draft": [1]}, 400, "missing_field"),
    ("/nowhere", {}, 404, "not_found"),
    ("/health", {}, 405, "method_not_allowed"),
]


def test_what_is_wrong_is_refused_in_the_form_of_the_api() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}}]}]

    async def main() -> None:
        async with served(limits={"body_byte": 10_000}) as at:
            more = [("/v1/chat/completions", {"model": "m", "messages": picture}, 400, "unsupported_content")]
            more += [("/v1/completions", {"model": "m", "prompt": "a" * 20_000}, 413, "body_too_large")]
            for path, body, status, code in [*WRONG, *more]:
                found = await at.post(path, body)
                assert (found[0], found[1]["error"]["code"]) == (status, code), path
            with pytest.raises(openai.NotFoundError):
                await at.client.chat.completions.create(model="other", messages=MESSAGES)
            async with at.http.post(at.node.url + "/v1/completions", data=b"x") as response:
                assert response.status == 415
            async with at.http.get(at.node.url + "/verify") as response:
                assert response.status == 405
            passed = await at.post("/v1/chat/completions", LONG, x_gainnet_deadline_ms="0")
            assert (passed[0], passed[1]["error"]["code"]) == (408, "deadline_exceeded")
            assert at.node.engine.stats().running == 0

    run(main())


def test_a_client_that_leaves_cancels_its_work() -> None:
    async def main() -> None:
        async with served() as at:
            before = at.node.engine.stats().counters.cancelled
            stream = await at.client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=400, n=2, stream=True, extra_body={"ignore_eos": True}
            )
            await anext(stream)
            await stream.close()
            await idle(at.node)
            assert at.node.engine.stats().counters.cancelled == before + 2

    run(main())


def test_a_deadline_ends_the_work() -> None:
    async def main() -> None:
        async with served() as at:
            status, body, _ = await at.post("/v1/chat/completions", LONG | {"n": 2}, x_gainnet_deadline_ms="30")
            assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
            await idle(at.node)
            async with at.http.post(
                at.node.url + "/v1/chat/completions",
                json=LONG | {"stream": True},
                headers={"x-gainnet-deadline-ms": "120"},
            ) as response:
                events = (await response.text()).strip().split("\n\n")
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
            await idle(at.node)

    run(main())


def test_a_full_queue_refuses() -> None:
    async def main() -> None:
        async with served(slots=1, queue=1) as at:
            streams = [
                await at.http.post(at.node.url + "/v1/chat/completions", json=LONG | {"stream": True}) for _ in range(1)
            ]
            second = asyncio.create_task(at.post("/v1/chat/completions", LONG))
            async with asyncio.timeout(PATIENCE_S):
                while at.node.engine.stats().waiting < 1:
                    await asyncio.sleep(0.001)
            status, body, headers = await at.post("/v1/chat/completions", LONG)
            assert (status, body["error"]["type"], headers["retry-after"]) == (429, "rate_limit_error", "1")
            second.cancel()
            streams[0].close()
            await asyncio.gather(second, return_exceptions=True)
            await idle(at.node)

    run(main())


def drawn(seed: int = 0) -> LowRank:
    """An adapter that says something else."""
    adapters = Adapters(node_model.made(SHAPE, 0), [2])
    rng = np.random.default_rng(seed)
    fresh = adapters.fresh(2, rng)
    layers = {
        name: Factors(factors.a, 0.5 * rng.standard_normal(factors.b.shape).astype(np.float32))
        for name, factors in fresh.layers.items()
    }
    return LowRank(layers, fresh.scale, fresh.base)


def test_adapters_come_and_go(tmp_path: Path) -> None:
    storing.save(drawn(), tmp_path / "a" / "v1")
    storing.save(drawn(1), tmp_path / "a" / "v2")
    asked: Any = {"prompt": "How are you?", "temperature": 0.0, "max_tokens": 8}

    async def main() -> None:
        async with served(adapters={"root": str(tmp_path)}, load={"a@v1": "a/v1"}) as at:
            plain = (await at.client.completions.create(model="m", **asked)).choices[0].text
            adapted = (await at.client.completions.create(model="a@v1", **asked)).choices[0].text
            assert plain != adapted
            load = {"lora_name": "a@v2", "lora_path": "a/v1"}
            assert (await at.post("/v1/load_lora_adapter", load))[0] == 200
            assert (await at.client.completions.create(model="a@v2", **asked)).choices[0].text == adapted
            assert (await at.post("/v1/load_lora_adapter", load))[0] == 200  # another gateway says it again
            assert (await at.post("/v1/load_lora_adapter", load | {"digest": "0" * 64}))[0] == 400
            assert (await at.post("/v1/load_lora_adapter", load | {"lora_name": "m"}))[0] == 400
            other = load | {"lora_path": "a/v2"}
            status, said, _ = await at.post("/v1/load_lora_adapter", other)
            assert (status, said["error"]["code"]) == (409, "conflict")
            cards = {card.id: card for card in (await at.client.models.list()).data}
            assert cards["a@v2"].model_dump()["parent"] == "m"
            assert (await at.post("/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "../x"}))[0] == 400
            assert (await at.post("/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "none"}))[0] == 404
            assert (await at.post("/v1/load_lora_adapter", {"lora_name": "b"}))[0] == 400
            assert (await at.post("/v1/unload_lora_adapter", {"lora_name": "a@v2"}))[0] == 200
            assert (await at.post("/v1/unload_lora_adapter", {"lora_name": "a@v2"}))[0] == 404
            with pytest.raises(openai.NotFoundError):
                await at.client.completions.create(model="a@v2", **asked)

    run(main())


def test_adapters_outlive_a_restart(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        storing.save(drawn(number), tmp_path / "adapters" / str(number))
    settings: Any = {"adapters": {"root": str(tmp_path / "adapters")}, "state": str(tmp_path / "state.json")}

    async def main() -> None:
        async with served(**settings) as at:
            for name in ("1", "2", "3"):
                assert (await at.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": name}))[0] == 200
            assert (await at.post("/v1/unload_lora_adapter", {"lora_name": "1"}))[0] == 200
        storing.save(drawn(4), tmp_path / "adapters" / "3")  # what should never happen
        async with served(**settings) as at:
            assert at.node.engine.stats().resident == ("2",)
            assert (await at.post("/v1/load_lora_adapter", {"lora_name": "2", "lora_path": "2"}))[0] == 200

    run(main())


def test_a_node_whose_engine_failed_says_so() -> None:
    async def main() -> None:
        async with served() as at:
            assert (await at.get("/ready"))[0] == (await at.get("/health"))[0] == 200
            at.node.engine._scheduler.step = None  # type: ignore[assignment, method-assign]
            assert (await at.post("/v1/completions", {"model": "m", "prompt": "a"}))[0] == 503
            assert (await at.get("/ready"))[0] == (await at.get("/health"))[0] == 503

    run(main())


def test_drafts_are_judged_in_sessions() -> None:
    async def main() -> None:
        async with served(sessions_open=2) as at:
            prompt = await at.node.prompts.text("How are you?")
            answer = at.node.engine.submit(prompt, node_greedy())
            right = [piece.token for piece in answer.wait(10.0) if piece.token is not None]
            asked = {"model": "m", "prompt": "How are you?", "max_tokens": 8, "ignore_eos": True, "cache_salt": "t"}
            status, opened, _ = await at.post("/verify", asked)
            assert (status, opened["prompt_tokens"]) == (200, len(prompt))
            session = {"session": opened["session"], "cache_salt": "t"}
            _, judged, _ = await at.post("/verify", session | {"draft": [*right[:3], (right[3] + 1) % 300]})
            assert (judged["accepted"], judged["token"]) == (3, right[3])
            _, judged, _ = await at.post("/verify", session | {"draft": right[4:8]})
            assert judged["finish_reason"] == "length"
            assert (await at.post("/verify", {"session": opened["session"]}))[0] == 404  # another tenant's
            assert (await at.post("/verify", session | {"draft": [1]}))[0] == 400
            assert (await at.post("/verify", session | {"close": True}))[1]["closed"]
            assert (await at.post("/verify", session))[0] == 404
            assert [(await at.post("/verify", asked))[0] for _ in range(3)] == [200, 200, 429]
            at.node._sessions.sweep(asyncio.get_running_loop().time() + 50.0)
            assert at.node.engine.stats().sessions == 2
            at.node._sessions.sweep(asyncio.get_running_loop().time() + 61.0)
            assert at.node.engine.stats().sessions == 0

    run(main())


def node_greedy() -> Any:
    return Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)


@pytest.mark.untraced
def test_pages_and_drain() -> None:
    async def main() -> None:
        async with served(tier="cloud") as at:
            await at.post("/v1/chat/completions", LONG | {"max_tokens": 20})
            assert (await at.get("/health"))[0] == 200
            assert (await at.get("/ready"))[0] == 200
            assert (await at.get("/version"))[0] == 200
            state = json.loads((await at.get("/node/state"))[1])
            assert (state["tier"], state["models"], state["slots"], state["running"]) == ("cloud", ["m"], 2, 0)
            assert state["prompt_token_per_s"] > 0.0
            assert state["decode_token_per_s"] > 0.0
            metrics = (await at.get("/metrics"))[1]
            for name in ("num_requests_running", "kv_cache_usage_perc", "time_to_first_token_seconds_bucket"):
                assert f"vllm:{name}{{" in metrics
            assert 'vllm:generation_tokens_total{model_name="m"} 20' in metrics
            asked = asyncio.create_task(at.post("/v1/chat/completions", LONG))
            async with asyncio.timeout(PATIENCE_S):
                while not at.node.in_flight:
                    await asyncio.sleep(0.001)
            draining = asyncio.create_task(at.node.drain())
            await asyncio.sleep(0.0)
            assert at.node._draining
            assert (await asked)[0] == 200
            await draining
            with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
                await at.client.chat.completions.create(model="m", messages=MESSAGES)

    run(main())


def test_a_token_is_asked_for() -> None:
    async def main() -> None:
        async with served(token="secret") as at:
            assert (await at.get("/ready"))[0] == 200
            assert (await at.get("/node/state"))[0] == 401
            body = {"model": "m", "prompt": "a"}
            assert (await at.post("/v1/completions", body))[0] == 401
            assert (await at.post("/v1/completions", body, authorization="Bearer secret"))[0] == 200

    run(main())


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("tier: end\nslots: 3\nmodel: {kind: pretrained, name: weights}\nadapters: {root: adapters}\n")
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("GAINNET_NODE_LISTEN__PORT", "8123")
    settings = read(NodeSettings, file)
    assert (settings.tier, settings.slots, settings.listen.port) == ("end", 3, 8123)
    assert settings.model.name == str(tmp_path / "weights")  # type: ignore[union-attr]
    assert settings.adapters is not None
    assert settings.adapters.root == tmp_path / "adapters"
    for text, said in (
        ("slot: 3\n", "slot is not a field (did you mean 'slots'?)"),
        ("listen: {prot: 1}\n", "listen.prot is not a field (did you mean 'port'?)"),
        ("model: {kind: small, widht: 32}\n", "model.small.widht is not a field (did you mean 'width'?)"),
        ("slots: 0\n", "slots: "),
        ("tier: sky\n", "tier: "),
        ("model: {kind: small, width: 33}\n", "model.small: width must be a multiple"),
        ("load: {a: b}\n", "load: needs adapters.root"),
        ("ids: [a]\nadapters: {root: .}\nload: {a: b}\n", "load.a: is one of ids"),
        ("- 1\n", "settings are a section"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=r"^[^\n]+$") as error:
            read(NodeSettings, file)
        assert said in str(error.value)
    monkeypatch.setenv("GAINNET_NODE_LIMITS", "{")
    with pytest.raises(InputError, match="environment"):
        read(NodeSettings, None)
    monkeypatch.delenv("GAINNET_NODE_LIMITS")
    with pytest.raises(InputError, match="no safetensors"):
        Node(settings)


def test_a_tokenizer_with_a_template_uses_it() -> None:
    plain = node_model.Prompts(language())
    tokenizer = language().tokenizer
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if fail %}{% endif %}"
    try:
        templated = asyncio.run(node_model.Prompts(language()).chat([node_message("hi")]))
        assert tokenizer.decode(templated) == "<user>hi"
        tokenizer.chat_template = "{{ raise_exception('no') }}"
        with pytest.raises(Refused, match="messages: no"):
            asyncio.run(node_model.Prompts(language()).chat([node_message("hi")]))
    finally:
        tokenizer.chat_template = None
    said = asyncio.run(plain.chat([node_message("hi")]))
    assert tokenizer.decode(said[1:]) == "User: hi\nAssistant:"


def node_message(text: str) -> Any:
    return Message(role="user", content=text)
