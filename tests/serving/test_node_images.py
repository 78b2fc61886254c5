"""Images from a node and through a gateway, by the openai client and by hand."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from nodes import Served, run, served
from PIL import Image
from pydantic import ValidationError

from gainnet.serving.gateway import Gateway
from gainnet.serving.node_settings import NodeSettings
from gainnet.serving.settings import GatewaySettings
from painted import pipeline

ASK: Any = {"model": "pictures", "prompt": "a two", "seed": 1, "steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    pipeline().save_pretrained(made)
    return made


@asynccontextmanager
async def drawing(folder: Path, **more: Any) -> AsyncIterator[Served]:
    images: Any = {"model": str(folder), "ids": ["pictures"], "width": 2, "steps": 3} | more
    async with served(images=images, limits={"steps": 50, "choices": 4, "side_pixel": 64}) as at:
        yield at


def opened(coded: str | None) -> np.ndarray:
    assert coded is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))


def test_a_node_draws_for_the_openai_client(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder) as at:
            extra = {"seed": 1, "steps": 4}
            found = await at.client.images.generate(
                model="pictures", prompt="a two", n=2, size="16x16", response_format="b64_json", extra_body=extra
            )  # type: ignore[call-overload]
            assert found.data is not None
            first, second = (opened(one.b64_json) for one in found.data)
            assert first.shape == (16, 16)
            assert not np.array_equal(first, second)
            assert np.array_equal(first, np.kron(first[::4, ::4], np.ones((4, 4), np.uint8)))
            again = await at.client.images.generate(model="pictures", prompt="TWO", extra_body=extra)
            assert again.data is not None
            assert np.array_equal(opened(again.data[0].b64_json), first[::4, ::4])
            listed = await at.client.models.list()
            assert [model.id for model in listed.data] == ["m", "pictures"]
            status, said, _ = await at.post("/v1/images/generations", ASK)
            assert (status, said["evaluations"], said["shared_steps"]) == (200, 4, 0)
            assert said["usage"]["output_tokens"] == 256
            state = at.node.state()
            assert state["models"] == ["m", "pictures"]
            assert (state["running"], state["waiting"]) == (0, 0)
            _, page = await at.get("/metrics")
            assert 'gainnet:images_total{model_name="pictures"} 4' in page

    run(main())


WRONG: Any = [
    ({"response_format": "url"}, 400, "response_format"),
    ({"output_format": "webp"}, 400, "output_format"),
    ({"stream": True}, 400, "stream"),
    ({"size": "6x6"}, 400, "size"),
    ({"size": "8x4"}, 400, "size"),
    ({"size": "128x128"}, 400, "size"),
    ({"n": 5}, 400, "n"),
    ({"n": 0}, 400, "n"),
    ({"steps": 51}, 400, "steps"),
    ({"prompt": 7}, 400, "prompt"),
    ({"prompt": "one and two"}, 400, None),
    ({"model": "m"}, 404, "model"),
]


def test_what_a_node_does_not_draw(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder, queue=2) as at:
            for change, status, param in WRONG:
                found, answer, _ = await at.post("/v1/images/generations", ASK | change)
                assert (found, answer["error"]["param"]) == (status, param), change
            assert at.node.images is not None
            assert at.node.images.engine.stats().counters.passes == 0
            many = {"n": 2, "steps": 50}
            found, answer, _ = await at.post("/v1/images/generations", ASK | many, x_gainnet_deadline_ms="1")
            assert found in (408, 504)
            chat = {"model": "pictures", "messages": [{"role": "user", "content": "a"}]}
            assert (await at.post("/v1/chat/completions", chat))[0] == 404
        async with served() as at:
            assert (await at.post("/v1/images/generations", ASK))[0] == 404

    run(main())


def test_steps_are_taken_on_two_nodes(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder) as edge, drawing(folder) as end:
            _, whole, _ = await edge.post("/denoise", ASK)
            status, begun, _ = await edge.post("/denoise", ASK | {"until": 2})
            assert (status, begun["evaluations"], begun["half"]["shape"]) == (200, 2, [1, 1, 4, 4])
            status, ended, _ = await end.post("/denoise", ASK | {"half": begun["half"]})
            assert (status, ended["evaluations"]) == (200, 2)
            mine, theirs = (opened(one["data"][0]["b64_json"]).astype(int) for one in (ended, whole))
            assert np.abs(mine - theirs).max() <= 2  # what passes the link is at half precision
            for half in ({"done": 2, "shape": [1, 1, 4, 4], "latent": "AAAA"}, {"done": 2, "shape": [1], "latent": ""}):
                assert (await end.post("/denoise", ASK | {"half": half}))[0] == 400
            assert (await end.post("/denoise", ASK | {"until": 4}))[0] == 400

    run(main())


def test_alike_requests_share_steps_where_the_node_does(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder, share={"part": 0.5}, slots=1, width=1) as at:
            body = ASK | {"n": 3}
            _, said, _ = await at.post("/v1/images/generations", body)
            assert (said["evaluations"], said["shared_steps"]) == (8, 4)
            _, said, _ = await at.post("/v1/images/generations", body | {"share": False})
            assert (said["evaluations"], said["shared_steps"]) == (12, 0)
            _, page = await at.get("/metrics")
            assert 'gainnet:denoise_steps_shared_total{model_name="pictures"} 4' in page

    run(main())


def test_another_node_begins_alike_images_once(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder, share={"part": 0.5}, step_s=0.25) as above:
            setting = {"url": above.node.url, "model": "pictures"}
            async with (
                drawing(folder, share={"part": 0.5}, above=setting) as one,
                drawing(folder, share={"part": 0.5}, above=setting) as two,
            ):
                body = ASK | {"share": True}
                found = await asyncio.gather(
                    one.post("/v1/images/generations", body),
                    two.post("/v1/images/generations", body | {"seed": 2, "n": 2}),
                )
                assert [status for status, _, _ in found] == [200, 200]
                assert [(said["evaluations"], said["steps_begun_above"]) for _, said, _ in found] == [(2, 2), (4, 2)]
                images = [file["b64_json"] for _, said, _ in found for file in said["data"]]
                assert len(set(images)) == 3
                assert above.node.images is not None
                assert above.node.images.engine.stats().counters.evaluations == 2
                _, page = await one.get("/metrics")
                assert 'gainnet:images_begun_above_total{model_name="pictures"} 1' in page
                # A step there takes many times one here: what is left to the node is drawn here.
                _, said, _ = await one.post("/v1/images/generations", ASK)
                assert (said["evaluations"], said["steps_begun_above"]) == (4, 0)
                assert (await one.post("/v1/images/generations", body | {"prompt": "one and two"}))[0] == 400
                assert one.node.images is not None
                assert one.node.images.above is not None
                assert one.node.images.above.failed == 0

    run(main())


def test_a_node_above_that_fails_is_left_alone(folder: Path) -> None:
    async def main() -> None:
        setting = {"url": "http://127.0.0.1:9", "model": "pictures", "token": "t"}
        async with drawing(folder, share={"part": 0.5}, above=setting) as at:
            for failed in (1, 1):
                _, said, _ = await at.post("/v1/images/generations", ASK)
                assert (said["evaluations"], said["steps_begun_above"]) == (4, 0)
                assert at.node.images is not None
                assert at.node.images.above is not None
                assert at.node.images.above.failed == failed
        async with drawing(folder) as other:  # which knows no such model
            setting = {"url": other.node.url, "model": "none"}
            async with drawing(folder, share={"part": 0.5}, above=setting) as at:
                assert (await at.post("/v1/images/generations", ASK))[0] == 200

    run(main())


def test_a_node_that_draws_no_more_says_so(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder) as at:
            assert at.node.images is not None
            assert (await at.get("/ready"))[0] == 200
            at.node.images.engine._passed = None  # type: ignore[assignment, method-assign]
            assert (await at.post("/v1/images/generations", ASK))[0] == 503
            assert (await at.get("/ready"))[0] == (await at.get("/health"))[0] == 503

    run(main())


def test_settings_of_images(folder: Path) -> None:
    for images, said in (
        ({"model": "nowhere"}, "must be digits"),
        ({"ids": ["m"]}, "also the name of a model for text"),
        ({"share": {"part": 1.0}}, "less than 1"),
        ({"above": {"url": "http://a", "model": "b"}}, "needs share"),
        ({"step_s": 0.0}, "greater than 0"),
    ):
        with pytest.raises(ValidationError, match=said):
            NodeSettings(ids=("m",), images=images)  # type: ignore[arg-type]


@pytest.mark.untraced
def test_images_through_a_gateway(folder: Path) -> None:
    async def main() -> None:
        async with drawing(folder) as at:
            nodes: Any = [
                {"name": "edge-0", "tier": "edge", "url": at.node.url, "models": {"pictures": "pictures", "m": "m"}},
                {"name": "end-0", "tier": "end", "url": "http://127.0.0.1:9", "models": {"m": "m"}},
            ]
            models: Any = {"pictures": {"kinds": ["image"]}, "m": {"kinds": ["chat"]}}
            listen: Any = {"port": 0}
            gateway = Gateway(GatewaySettings(listen=listen, admin=listen, nodes=nodes, models=models, page=True))
            await gateway.start()
            try:
                async with (
                    aiohttp.ClientSession() as http,
                    openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
                ):
                    await asked(at, http, client, gateway)
            finally:
                await gateway.close()

    run(main())


async def asked(at: Served, http: aiohttp.ClientSession, client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    raw = await client.images.with_raw_response.generate(model="pictures", prompt="a two", extra_body={"seed": 1})
    found = raw.parse()
    assert found.data is not None
    assert opened(found.data[0].b64_json).shape == (4, 4)
    assert raw.headers["x-gainnet-node"] == "edge-0"
    with pytest.raises(openai.NotFoundError):
        await client.images.generate(model="none", prompt="a two")
    with pytest.raises(openai.NotFoundError, match="answers no image requests"):
        await client.images.generate(model="m", prompt="a two")
    with pytest.raises(openai.BadRequestError, match="response_format"):
        await client.images.generate(model="pictures", prompt="a two", response_format="url")
    with pytest.raises(openai.BadRequestError, match="of them"):
        await client.images.generate(model="pictures", prompt="one and two")
    with pytest.raises(openai.BadRequestError, match="above the limit"):
        await client.images.generate(model="pictures", prompt="a two", n=100)
    async with http.get(f"{gateway.url}/live/state") as response:
        state = await response.json()
    assert state["models"] == ["m"]  # the page's box is for those that talk
    assert state["recent"][-1]["model"] == "pictures"
    async with http.get(f"{gateway.url}/openapi.json") as response:
        schema = (await response.json())["components"]["schemas"]["ImageRequest"]["properties"]
    assert "url" not in str(schema["response_format"])
    async with http.get(f"{gateway.admin_url}/metrics") as response:
        page = await response.text()
    assert 'vllm:generation_tokens_total{model_name="pictures"} 256' in page
    assert at.node.images is not None
    assert at.node.images.engine.stats().counters.images == 1
    leaving = asyncio.create_task(
        client.images.generate(model="pictures", prompt="a two", n=4, extra_body={"steps": 50})
    )
    engine = at.node.images.engine
    async with asyncio.timeout(60.0):
        while not leaving.done() and not engine.stats().running:
            await asyncio.sleep(0.001)
        leaving.cancel()
        while engine.stats().running or engine.stats().waiting:
            await asyncio.sleep(0.001)
