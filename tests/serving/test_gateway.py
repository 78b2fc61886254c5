"""What a gateway answers when all is well, and what it refuses before any work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import CHAT, USAGE, Place, network, run, scene, until


@scene(tiers="edge cloud", models={"m": "inner"})
async def test_an_answer_is_passed_on_and_says_who_gave_it(place: Place) -> None:
    status, headers, body = await place.post(headers={"x-request-id": "mine-1"})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "one two"
    assert headers["x-request-id"] == "mine-1"
    assert (headers["x-gainnet-node"], headers["x-gainnet-tier"]) == ("edge-0", "edge")
    assert headers["x-gainnet-why"].startswith("nearest")
    assert int(headers["openai-processing-ms"]) >= 0
    path, sent, asked = place.nodes[0].asked[0]
    assert path == "/v1/chat/completions"
    assert sent["x-request-id"] == "mine-1"
    assert asked == CHAT | {"model": "inner"}
    assert not place.nodes[1].asked


@scene()
async def test_a_stream_is_passed_on_to_its_end(place: Place) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    status, headers, text = await place.post(body=body)
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    events = text.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][6:])["usage"] == USAGE
    assert place.nodes[0].asked[0][2] == body
    idle = place.state.upstreams["edge-0"]._pool._idle
    await until(lambda: len(idle) == 1)
    assert (await place.post(body=body))[2] == text  # over the same connection
    await until(lambda: [connection.used for connection in idle] == [2])


@scene()
async def test_other_kinds(place: Place) -> None:
    assert (await place.post("/v1/completions", {"model": "m", "prompt": "a"}))[2]["choices"][0]["text"] == "one two"
    assert (await place.post("/v1/embeddings", {"model": "m", "input": ["a"]}))[2]["data"][0]["embedding"] == [
        0.5,
        -0.5,
    ]
    for prompt in ([1, 2.0], [[3.0], [4]]):
        status, _, body = await place.post("/v1/completions", {"model": "m", "prompt": prompt})
        assert (status, body["object"]) == (200, "text_completion")
    assert (await place.post("/v1/images/generations", {"model": "m", "prompt": "a"}))[2]["data"][0]["b64_json"]


@scene(models={"m": "m", "other": "o"}, aliases={"now": "other"})
async def test_pages(place: Place) -> None:
    assert await place.get("/health") == (200, b"")
    assert await place.get("/ready") == (200, b"")
    status, body = await place.get("/v1/models")
    cards = json.loads(body)["data"]
    assert (status, [card["id"] for card in cards], cards[0]["root"]) == (200, ["now", "m", "other"], "other")
    for card in cards:
        assert (await place.get(f"/v1/models/{card['id']}")) == (200, json.dumps(card, separators=(",", ":")).encode())
    status, body = await place.get("/v1/models/no%20such")
    assert (status, json.loads(body)["error"]["message"]) == (404, "the model 'no such' does not exist")
    assert "version" in json.loads((await place.get("/version"))[1])
    assert "/v1/embeddings" in json.loads((await place.get("/openapi.json"))[1])["paths"]
    status, body = await place.get("/nowhere")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    assert (await place.get("/v1/chat/completions"))[0] == 405


WRONG: list[tuple[str, Any, int, str]] = [
    ("chat/completions", b"{", 400, "invalid_json"),
    ("chat/completions", b"\xff\xfe", 400, "invalid_json"),
    ("chat/completions", b'{"a":' * 5_000, 400, "invalid_json"),
    ("chat/completions", [], 400, "invalid_value"),
    ("chat/completions", {"model": "m"}, 400, "missing_field"),
    ("chat/completions", CHAT | {"model": "none"}, 404, "model_not_found"),
    ("chat/completions", CHAT | {"messages": []}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"max_tokens": "5"}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"max_tokens": 0}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"max_tokens": 10**9}, 400, "limit_exceeded"),
    ("chat/completions", CHAT | {"max_completion_tokens": 10**9}, 400, "limit_exceeded"),
    ("chat/completions", CHAT | {"max_tokens": 10**30}, 400, "limit_exceeded"),
    ("chat/completions", CHAT | {"n": 9}, 400, "limit_exceeded"),
    ("chat/completions", CHAT | {"n": True}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"temperature": 3}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"stop": 3}, 400, "invalid_value"),
    (
        "chat/completions",
        CHAT | {"messages": [{"role": "user", "content": "x" * 4_100}]},
        400,
        "context_length_exceeded",
    ),
    ("chat/completions", CHAT | {"messages": [{"role": "root", "content": ""}]}, 400, "invalid_value"),
    ("chat/completions", CHAT | {"messages": [{"role": "user", "content": "x" * 30_000}]}, 413, "body_too_large"),
    ("completions", {"model": "m", "prompt": []}, 400, "invalid_value"),
    ("completions", {"model": "m", "prompt": ["a", 1]}, 400, "invalid_value"),
    ("completions", {"model": "m", "prompt": [1.5]}, 400, "invalid_value"),
    ("completions", {"model": "m", "prompt": [True]}, 400, "invalid_value"),
    ("completions", {"model": "m", "prompt": [1] * 1_001}, 400, "context_length_exceeded"),
    ("completions", {"model": "m", "prompt": ["a"] * 9}, 400, "limit_exceeded"),
    ("completions", {"model": "m", "prompt": "a", "best_of": 9}, 400, "limit_exceeded"),
    ("completions", {"model": "short", "prompt": [1] * 50, "max_tokens": 60}, 400, "context_length_exceeded"),
    ("embeddings", {"model": "m", "input": [[1], []]}, 400, "invalid_value"),
    ("embeddings", {"model": "m", "input": ["a"] * 9}, 400, "limit_exceeded"),
    ("embeddings", {"model": "short", "input": "a"}, 404, "model_not_found"),
    ("images/generations", {"model": "m", "prompt": "a", "steps": 101}, 400, "limit_exceeded"),
    ("images/generations", {"model": "m", "prompt": "a", "num_inference_steps": 101}, 400, "limit_exceeded"),
    ("images/generations", {"model": "m", "prompt": "a", "size": "4096x64"}, 400, "limit_exceeded"),
    ("images/generations", {"model": "m", "prompt": "a", "size": "big"}, 400, "invalid_value"),
    ("images/generations", {"model": "m", "prompt": "a", "n": 9}, 400, "limit_exceeded"),
]
REMOTE = [
    {"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}},
    {"type": "image_url", "image_url": "https://example.org/x.png"},
    {"type": "text", "text": "a", "audio_url": {"url": "file:///etc/passwd"}},
    {"type": "video_url", "video_url": {"url": "//x"}},
]


def test_what_is_wrong_is_refused_before_any_work() -> None:
    async def main() -> None:
        limits = {"prompt_token": 1_000, "inputs": 8, "body_byte": 25_000}
        known = {"short": {"context_token": 100, "kinds": ["completion"]}}
        async with network(models=["m", "short"], limits=limits, known=known) as place:
            for path, body, status, code in WRONG:
                found = await place.post(f"/v1/{path}", body)
                assert (found[0], found[2]["error"]["code"]) == (status, code), (body, found)
                assert set(found[2]["error"]) == {"message", "type", "param", "code"}
                assert found[1]["x-request-id"]
            for part in REMOTE:
                message = {"role": "user", "content": [part]}
                status, _, said = await place.post(body=CHAT | {"messages": [message]})
                assert (status, said["error"]["code"]) == (400, "remote_media")
            assert not place.nodes[0].asked

    run(main())


@scene()
async def test_headers_are_held_to_their_form(place: Place) -> None:
    for name, value, status in (
        ("x-gainnet-deadline-ms", "soon", 400),
        ("x-gainnet-deadline-ms", "nan", 400),
        ("x-gainnet-deadline-ms", "0", 408),
        ("x-gainnet-deadline-ms", "-5", 408),
        ("x-gainnet-quality-min", "2", 400),
        ("x-gainnet-end", "1.5", 400),
        ("x-gainnet-session", "a b", 400),
        ("content-type", "text/plain", 415),
    ):
        found, _, said = await place.post(headers={name: value})
        assert found == status, name
        assert said["error"]["message"]
    assert not place.nodes[0].asked


@scene()
async def test_what_is_sent_on(place: Place) -> None:
    headers = {
        "x-gainnet-deadline-ms": "5000", "x-gainnet-quality-min": "0.5", "x-gainnet-end": "3", "x-gainnet-session": "s",
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "vendor=1", "authorization": "Bearer secret",
        "x-request-id": "bad id",
    }  # fmt: skip
    body = CHAT | {"kv_transfer_params": {"remote": 1}, "chat_template": "{{ 1 }}", "something": 10**30}
    status, answered, _ = await place.post(body=body, headers=headers)
    assert status == 200
    assert answered["x-request-id"].startswith("req-")
    _, sent, asked = place.nodes[0].asked[0]
    assert asked == CHAT | {"something": 10**30}
    assert "authorization" not in sent
    assert 0.0 < float(sent["x-gainnet-deadline-ms"]) <= 5_000.0
    assert (sent["x-gainnet-quality-min"], sent["x-gainnet-end"]) == ("0.5", "3")
    assert sent["x-gainnet-session"] not in ("s", "")
    assert sent["traceparent"] == f"00-{'ab' * 16}-{'cd' * 8}-01"  # nothing here is a hop of the trace: it is passed on
    assert sent["tracestate"] == "vendor=1"


def test_it_says_what_it_cannot_listen_on() -> None:
    from gainnet.errors import InputError

    async def main() -> None:
        async with network() as place:
            port = int(place.gateway.url.rsplit(":", 1)[1])
            with pytest.raises(InputError, match=r"listen: cannot listen on 127.0.0.1"):
                async with network(listen={"port": port}):
                    pass

    run(main())
