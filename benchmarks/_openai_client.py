"""What the openai package does, asked of a whole lab: each check says what failed, or nothing."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openai
from openai import AsyncOpenAI
from PIL import Image

from gainnet.models.low_rank import Factors, LowRank

MODEL, CARD, NODE = "assistant", "llama-3.1-70b-int8", "cloud"
PICTURES, DRAWING = "pictures", "digits"
MESSAGES: Any = [{"role": "user", "content": "How are you?"}]
CONTEXT, RANK = 512, 2
ANSWER_S = 240.0


async def checked(lab: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What each check found wrong, empty where nothing was.

    Args:
        lab: what a lab with a cloud wrote of itself (lab.json).
        folder: of the lab, with its models.
    """
    found = {}
    async with AsyncOpenAI(base_url=lab["address"], api_key="none", max_retries=0, timeout=ANSWER_S) as client:
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "models": lambda: _models(client), "chat": lambda: _chat(client), "stream": lambda: _stream(client),
            "completion": lambda: _completion(client), "embedding": lambda: _embedding(client),
            "image": lambda: _image(client), "errors": lambda: _errors(client),
            "adapters": lambda: _adapters(client, lab, folder),
        }  # fmt: skip
        for name, check in checks.items():
            try:
                await check()
                found[name] = ""
            except (AssertionError, openai.OpenAIError, OSError) as error:
                found[name] = f"{type(error).__name__} {error}"
    return found


async def _models(client: AsyncOpenAI) -> None:
    listed = [model.id for model in (await client.models.list()).data]
    assert {MODEL, CARD, PICTURES, DRAWING} <= set(listed), listed


async def _chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=6)
    assert answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    assert answer.usage is not None, answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage
    told = {"x-gainnet-quality-min": "0.8"}
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=2, extra_headers=told
    )
    assert raw.headers["x-gainnet-tier"] == "cloud", raw.headers


async def _stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    shown = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert shown, chunks
    assert chunks[-1].usage is not None, chunks[-1]
    assert 0 < chunks[-1].usage.completion_tokens <= 6, chunks[-1]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length"), chunks


async def _completion(client: AsyncOpenAI) -> None:
    said = [
        await client.completions.create(model=MODEL, prompt="The edge", max_tokens=5, temperature=0.0, n=1)
        for _ in range(2)
    ]
    assert said[0].choices[0].text, said
    tokens = await client.completions.create(
        model=MODEL, prompt=[5, 6, 7, 8], max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert tokens.usage is not None, tokens
    assert (tokens.usage.prompt_tokens, tokens.usage.completion_tokens) == (4, 4), tokens.usage


async def _embedding(client: AsyncOpenAI) -> None:
    made = await client.embeddings.create(model=CARD, input=["one", "two"])
    vectors = np.array([one.embedding for one in made.data])
    assert len(vectors) == 2, made
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4), vectors
    again = await client.embeddings.create(model=CARD, input="one", encoding_format="float")
    assert np.allclose(again.data[0].embedding, vectors[0], atol=1e-4), again


async def _image(client: AsyncOpenAI) -> None:
    """Two images of one prompt by the service's name, and one of them again by its model's: they are PNG, drawn on a tier."""
    told: dict[str, Any] = {"seed": 3, "steps": 10, "share": False}
    raw = await client.images.with_raw_response.generate(
        model=PICTURES, prompt="a seven", n=2, size="64x64", response_format="b64_json", extra_body=told
    )  # type: ignore[call-overload]
    assert raw.headers["x-gainnet-tier"] in ("edge", "cloud"), raw.headers
    first, second = (_opened(one.b64_json) for one in raw.parse().data)
    assert first.shape == second.shape == (64, 64), (first.shape, second.shape)
    assert not np.array_equal(first, second), "two images of one prompt are the same"
    again = await client.images.generate(model=DRAWING, prompt="Seven", extra_body=told)
    assert again.data is not None, again
    small = _opened(again.data[0].b64_json)
    block = first.shape[0] // small.shape[0]
    assert np.array_equal(small, first[::block, ::block]), "the same seed drew another image"


def _opened(coded: str | None) -> np.ndarray:
    """The pixels of a PNG file in base64."""
    assert coded is not None, "no b64_json"
    file = base64.b64decode(coded, validate=True)
    assert file.startswith(b"\x89PNG\r\n\x1a\n"), file[:16]
    return np.asarray(Image.open(io.BytesIO(file)))


async def _errors(client: AsyncOpenAI) -> None:
    await _fails(client, openai.NotFoundError, "model_not_found", model="none")
    await _fails(client, openai.BadRequestError, None, max_tokens=10**9)
    await _fails(client, openai.APIStatusError, "deadline_exceeded", extra_headers={"x-gainnet-deadline-ms": "0"})
    await _fails(client, openai.APIStatusError, "no_quality", extra_headers={"x-gainnet-quality-min": "0.99"})


async def _fails(client: AsyncOpenAI, kind: type[openai.APIStatusError], code: str | None, **change: Any) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 3} | change
    try:
        answer = await client.chat.completions.create(**asked)
    except kind as error:
        if code is not None and error.code != code:
            raise AssertionError(f"{change}: {error.code}, not {code}: {error}") from None
        return
    raise AssertionError(f"{change}: answered {answer}")


async def _adapters(client: AsyncOpenAI, lab: Mapping[str, Any], folder: Path) -> None:
    """Two versions loaded while the lab runs, an alias that is moved, and the first unloaded."""
    for number in (1, 2):
        path = Path(lab["adapters"]) / "domain" / str(number)
        await asyncio.to_thread(_made, folder / "models" / "cloud", path, number)
        body = {"lora_name": f"domain@v{number}", "lora_path": f"domain/{number}", "nodes": [NODE]}
        await _told(lab, "/v1/load_lora_adapter", body)
    await _told(lab, "/v1/aliases", {"alias": "domain", "version": "domain@v1"})
    greedy = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0.0}
    first = await client.chat.completions.with_raw_response.create(model="domain", **greedy)
    assert first.headers["x-gainnet-node"] == NODE, first.headers
    texts = {"domain": first.parse().choices[0].message.content}
    for name in ("domain@v1", "domain@v2", CARD):
        texts[name] = (await client.chat.completions.create(model=name, **greedy)).choices[0].message.content
    assert texts["domain"] == texts["domain@v1"], texts
    assert len({texts[name] for name in ("domain@v1", "domain@v2", CARD)}) == 3, texts
    await _told(lab, "/v1/aliases", {"alias": "domain", "version": "domain@v2", "unload": True})
    moved = await client.chat.completions.create(model="domain", **greedy)
    assert moved.choices[0].message.content == texts["domain@v2"], (moved, texts)
    listed = [model.id for model in (await client.models.list()).data]
    assert {"domain", "domain@v2"} <= set(listed), listed
    until = asyncio.get_running_loop().time() + 20.0
    while asyncio.get_running_loop().time() < until:
        try:
            await client.chat.completions.create(model="domain@v1", **greedy)
        except openai.NotFoundError:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("domain@v1 was unloaded and is still answered with")


async def _told(lab: Mapping[str, Any], path: str, body: Mapping[str, Any]) -> None:
    def post() -> None:
        request = urllib.request.Request(
            lab["admin"] + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            response.read()

    await asyncio.to_thread(post)


def _made(model: Path, path: Path, seed: int) -> None:
    """An adapter of a model, of random factors."""
    from gainnet.models import adapter, hub  # brings torch, which takes seconds

    language = hub.load(str(model), CONTEXT)
    rng = np.random.default_rng(seed)
    layers = {}
    for name, module in language.model.named_modules():
        if name.endswith(("q_proj", "v_proj", "down_proj")):
            out, inward = module.weight.shape
            a = rng.standard_normal((RANK, inward), np.float32)
            layers[name] = Factors(a, rng.standard_normal((out, RANK), np.float32))
    adapter.save(LowRank(layers, 2.0, language.digest), path)
