"""Requests as they come: long lists are checked at once, and what is too long is refused before it is parsed."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import Any

import pytest

from gainnet.serving import wire
from gainnet.serving.router import Kind, Refused
from gainnet.serving.settings import Limits

TOKENS = list(range(131_000))


def _read(kind: Kind, **fields: Any) -> Any:
    body = json.dumps({"model": "m"} | fields).encode()
    wire.weigh(kind, body, Limits())
    return wire.parse(wire.REQUESTS[kind], body)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a", "a"), (["a", ""], ["a", ""]), ([1, 2], [1, 2]), ([1.0, 2], [1, 2]), ([[1], [2.0, 3]], [[1], [2, 3]]),
    ],
)  # fmt: skip
def test_inputs_of_every_form(given: Any, read: Any) -> None:
    assert _read("completion", prompt=given).prompt == read
    assert _read("embedding", input=given).input == read


@pytest.mark.parametrize(
    "given", [None, 1, {}, [], [[]], ["a", 1], [1, "a"], [True], [-1], [1.5], [[1], "a"], [[1], ["a"]], [[1], 2]]
)
def test_inputs_of_no_form(given: Any) -> None:
    with pytest.raises(Refused, match="prompt: should be a text, texts, token numbers") as found:
        _read("completion", prompt=given)
    assert (found.value.status, found.value.param) == (400, "prompt")


@pytest.mark.parametrize(
    ("kind", "fields", "refused"),
    [
        ("completion", {"prompt": TOKENS}, False),
        ("completion", {"prompt": [*TOKENS, "x"]}, True),
        ("completion", {"prompt": [1] * 1_300_000}, True),
        ("chat", {"messages": [1] * 130_000}, True),
        ("chat", {"messages": [{"role": "user", "content": "x"}] * 14_000}, True),
        ("chat", {"messages": [{"role": "user", "content": [1] * 200_000}]}, True),
    ],
    ids=["tokens", "no tokens", "too many", "no messages", "many messages", "no parts"],
)
def test_long_lists_hold_up_nobody(kind: Kind, fields: dict[str, Any], refused: bool) -> None:
    body = json.dumps({"model": "m"} | fields).encode()
    took_s = []
    for _ in range(3):
        began_s = time.process_time()
        with pytest.raises(Refused) if refused else nullcontext():
            wire.weigh(kind, body, Limits())
            wire.parse(wire.REQUESTS[kind], body)
        took_s.append(time.process_time() - began_s)
    assert min(took_s) < 0.3  # a list with a wrong entry once took five seconds
