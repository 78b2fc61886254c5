"""Answers of two models as the gateway carries them out: what a small model said is weighed, shown or not, and learned from.

A small model of a cascade is asked for a whole answer with log-probabilities, whatever the client asked for. Where its
router is sure of that answer the client gets it in the form that it asked for; where not, the next target is asked as
if nothing had been. Some answers are given by both, after the client has the larger model's, so that routers learn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from gainnet.serving.answers import DONE
from gainnet.serving.attempt import Attempt
from gainnet.serving.call import Call
from gainnet.serving.router import Refused, Router, Target
from gainnet.serving.settings import Limits
from gainnet.serving.upstream import Expired, Failed, Upstream

AUDITS = 8
"""At once at most; what is more is not learned from."""


class Deferred(Failed):
    """A small model's answer that its router is not sure enough of."""


def kept(call: Call, target: Target, body: bytes) -> bytes:
    """What the client gets of a small model's answer.

    Raises:
        Deferred: it is not to be shown.
        Failed: it is no answer with log-probabilities.
    """
    tree = _tree(body)
    assert target.sure is not None, "only answers of cascades are weighed"
    if not target.sure(_logprobs(call, tree)):
        raise Deferred("the small model is not sure")
    choice = tree["choices"][0]
    choice["logprobs"] = None
    return _stream(call, tree) if call.stream else to_json(tree)


def _tree(body: bytes) -> dict[str, Any]:
    try:
        tree = from_json(body)
    except ValueError:
        raise Failed("the answer is not JSON") from None
    if not isinstance(tree, dict) or not tree.get("choices"):
        raise Failed("the answer has no choices")
    return tree


def _logprobs(call: Call, tree: Mapping[str, Any]) -> list[float]:
    try:
        said = tree["choices"][0]["logprobs"]
        found = said["token_logprobs"] if call.kind == "completion" else [one["logprob"] for one in said["content"]]
        return [float(one) for one in found]
    except (KeyError, TypeError, ValueError):
        raise Failed("the answer has no log-probabilities") from None


def _text(call: Call, choice: Mapping[str, Any], part: str) -> str:
    """The text of a choice, or of a chunk's (``part`` is message or delta)."""
    said = choice.get("text") if call.kind == "completion" else (choice.get(part) or {}).get("content")
    return said if isinstance(said, str) else ""


def _stream(call: Call, tree: dict[str, Any]) -> bytes:
    """An answer as the events of a stream."""
    choice, chat = tree["choices"][0], call.kind == "chat"
    head: dict[str, Any] = {key: tree[key] for key in ("id", "created", "model") if key in tree}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    text = _text(call, choice, "message")

    def event(said: Mapping[str, Any], finish: str | None) -> bytes:
        own = {"delta": said} if chat else {"text": said.get("content", ""), "logprobs": None}
        return b"data: " + to_json(head | {"choices": [{"index": 0, **own, "finish_reason": finish}]}) + b"\n\n"

    events = [event({"role": "assistant", "content": ""}, None)] if chat else []
    events += [event({"content": text}, None), event({}, choice.get("finish_reason") or "stop")]
    if call.counted:
        events.append(b"data: " + to_json(head | {"choices": [], "usage": tree.get("usage")}) + b"\n\n")
    return b"".join(events) + DONE


def shown(call: Call, heard: bytes) -> str:
    """The text of what the client got from a node, streamed or not; empty where it cannot be read."""
    if not call.stream:
        with contextlib.suppress(Failed):
            return _text(call, _tree(heard)["choices"][0], "message")
        return ""
    found = []
    for event in heard.split(b"\n\n"):
        if event.startswith(b"data: {"):
            choices = from_json(event[6:]).get("choices") or [{}]
            found.append(_text(call, choices[0], "delta"))
    return "".join(found)


class Audits:
    """Small models that are asked what others have answered, so that routers learn how often they are right."""

    def __init__(self, router: Router, upstreams: Mapping[str, Upstream], limits: Limits) -> None:
        self._router, self._upstreams, self._limits = router, upstreams, limits
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, call: Call, small: Target, text: str) -> None:
        """Ask a small model what was answered by this text, beside everything else."""
        upstream, now = self._upstreams[small.node], asyncio.get_running_loop().time()
        if not text or len(self._tasks) >= AUDITS or not upstream.allows(now):
            return
        task = asyncio.create_task(self._ask(call, small, upstream, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, call: Call, small: Target, upstream: Upstream, text: str) -> None:
        attempt = Attempt(call, small, upstream, self._router, self._limits)
        ok = False
        try:
            tree = _tree((await attempt.whole()).body)
            said = _text(call, tree["choices"][0], "message")
            self._router.judged(small, _logprobs(call, tree), said, text)
            ok = True
        except (Failed, Expired, Refused):
            return  # nothing was learned, and nobody waits for it
        finally:
            attempt.end(ok)
