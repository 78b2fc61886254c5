"""A larger model at a node: it answers by the OpenAI API, and judges drafts by ``POST /verify``."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, cast

import aiohttp

from gainnet.errors import GainnetError
from gainnet.inference.request import Finish, Piece, Sampling
from gainnet.inference.speculate import Verdict
from gainnet.inference.work import Verified


class NodeFailed(GainnetError):
    """A node did not answer, or refused: the message says which and why."""


class HttpVerifier:
    """A model at a node of this project.

    Attributes:
        context: how many positions it has.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        model: str,
        context: int,
        *,
        token: str | None = None,
        tenant: str = "",
    ) -> None:
        """Say where it is.

        Args:
            http: by which it is asked; the caller's to close, and what bounds the time of each request.
            url: of the node, without ``/v1``.
            model: id that the node knows.
            context: how many positions it has.
            token: bearer token that the node asks for.
            tenant: whose the texts are.
        """
        self.context = context
        self._http, self._url, self._model = http, url, model
        self._salt = {"cache_salt": tenant} if tenant else {}
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    async def open(self, prompt: Sequence[int], sampling: Sampling) -> str:
        """See `gainnet.inference.speculate.Verifier`. NodeFailed where there is no session."""
        found, _ = await self._posted(self._asked(prompt, sampling))
        return str(found["session"])

    async def judge(self, session: str, draft: Sequence[int]) -> Verdict:
        """See `gainnet.inference.speculate.Verifier`; bits are those of the two bodies. NodeFailed without a verdict."""
        found, bit = await self._posted({"session": session, "draft": list(draft)} | self._salt)
        return Verdict(Verified(int(found["accepted"]), found["token"], finish=found["finish_reason"]), bit)

    async def close(self, session: str) -> None:
        """See `gainnet.inference.speculate.Verifier`. NodeFailed where it could not be."""
        await self._posted({"session": session, "close": True} | self._salt)

    async def whole(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """See `gainnet.inference.speculate.Larger`; pieces are text only, the last one stands for the tokens that had none.

        NodeFailed where it breaks off.
        """
        asked = self._asked(prompt, sampling) | {"stream": True, "stream_options": {"include_usage": True}}
        if sampling.stop:
            asked["stop"] = list(sampling.stop)
        if sampling.top_k:
            asked["top_k"] = sampling.top_k
        told, last = 0, None
        try:
            async with self._http.post(
                f"{self._url}/v1/completions", data=json.dumps(asked).encode(), headers=self._headers
            ) as response:
                if response.status != 200:
                    raise NodeFailed(_said(self._url, response.status, await response.read()))
                async for line in response.content:
                    event = _event(self._url, line)
                    if last is not None and event.get("usage"):
                        last = replace(last, tokens=max(event["usage"]["completion_tokens"] - told, 0))
                    for choice in event.get("choices", ()):
                        piece = _piece(choice)
                        if piece.finish is not None:
                            last = piece
                            continue
                        told += piece.tokens
                        yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeFailed(f"{self._url}: {error or 'no answer in time'}") from None
        if last is None:
            raise NodeFailed(f"{self._url}: the answer broke off")
        yield last

    def _asked(self, prompt: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._model, "prompt": list(prompt), "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
            "ignore_eos": sampling.ignore_eos,
        } | self._salt  # fmt: skip

    async def _posted(self, asked: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """What /verify answers, and the bits of both bodies."""
        body = json.dumps(asked, separators=(",", ":")).encode()
        try:
            async with self._http.post(f"{self._url}/verify", data=body, headers=self._headers) as response:
                answer = await response.read()
                if response.status != 200:
                    raise NodeFailed(_said(self._url, response.status, answer))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NodeFailed(f"{self._url}: {error or 'no answer in time'}") from None
        return cast("dict[str, Any]", json.loads(answer)), 8.0 * (len(body) + len(answer))


def _event(url: str, line: bytes) -> dict[str, Any]:
    """What a line of a stream says; empty where it says nothing."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return {}
    event: dict[str, Any] = json.loads(line[6:])
    if "error" in event:
        raise NodeFailed(f"{url}: {event['error'].get('message', 'the answer broke off')}")
    return event


def _piece(choice: dict[str, Any]) -> Piece:
    finish: Finish | None = choice["finish_reason"]
    return Piece(None, choice["text"], finish=finish, tokens=int(bool(choice["text"])))


def _said(url: str, status: int, answer: bytes) -> str:
    try:
        message = json.loads(answer)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "no reason given"
    return f"{url}: {status}: {message}"
