"""What others' clients make of the gateway: the openai package."""

from __future__ import annotations

import asyncio

import openai
import pytest
from fakes import CHAT, Place, scene
from openai import AsyncOpenAI

from gainnet.serving.answers import ANSWERS, ErrorAnswer
from gainnet.serving.router import Refused


def _client(place: Place, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{place.gateway.url}/v1", api_key="none", max_retries=retries)


@scene(models={"m": "m", "other": "o"})
async def test_the_openai_client(place: Place) -> None:
    async with _client(place) as client:
        assert [model.id for model in (await client.models.list()).data] == ["m", "other"]
        whole = await client.chat.completions.create(**CHAT)
        assert whole.choices[0].message.content == "one two"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 3
        stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 10
        assert (await client.completions.create(model="m", prompt="a")).choices[0].text == "one two"
        vectors = await client.embeddings.create(model="m", input=["a"], encoding_format="float")
        assert vectors.data[0].embedding == [0.5, -0.5]
        images = await client.images.generate(model="m", prompt="a", size="256x256")
        assert images.data is not None
        assert images.data[0].b64_json == "aGk="
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
        assert raw.headers["x-gainnet-node"] == "edge-0"


@scene(breaker={"failures": 100})
async def test_errors_are_the_openai_clients_own(place: Place) -> None:
    async with _client(place) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(**CHAT | {"model": "none"})
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await client.chat.completions.create(**CHAT, max_tokens=10**9)
        place.nodes[0].how = "busy"
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**CHAT)
        place.nodes[0].how = "500"
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**CHAT)
        place.nodes[0].how = "cut"
        with pytest.raises(openai.APIError, match="lost"):
            async for _ in await client.chat.completions.create(**CHAT, stream=True):
                pass


@scene(breaker={"failures": 100})
async def test_the_openai_client_comes_back_when_it_is_told_to(place: Place) -> None:
    node = place.nodes[0]
    node.how = "500"
    async with _client(place, retries=2) as client:
        task = asyncio.create_task(client.chat.completions.create(**CHAT))
        async with asyncio.timeout(10.0):
            while not node.asked:
                await asyncio.sleep(0.002)
        node.how = "well"
        assert (await task).choices[0].message.content == "one two"
        node.asked.clear()
        with pytest.raises(openai.APIStatusError):  # an expired deadline is not tried again
            await client.chat.completions.create(**CHAT, extra_headers={"x-gainnet-deadline-ms": "0"})
        assert not node.asked


def test_nodes_may_say_more_and_errors_have_one_form() -> None:
    answer = ANSWERS["chat"].model_validate({"id": "1", "created": 1, "model": "m", "choices": [], "more": 1})
    assert answer.model_dump()["more"] == 1
    from gainnet.serving.answers import error_body

    said = ErrorAnswer.model_validate_json(error_body(Refused(429, "no", 1.0, code="c", param="p")))
    assert (said.error.type, said.error.code, said.error.param) == ("rate_limit_error", "c", "p")
