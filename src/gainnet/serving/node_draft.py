"""A node that drafts: it answers as a larger model at another node, which judges its drafts (`gainnet.inference.speculate`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import aiohttp

from gainnet.execution.telemetry import Drafting
from gainnet.inference.engine import Engine
from gainnet.inference.pace import Pace
from gainnet.inference.remote import HttpVerifier, NodeFailed
from gainnet.inference.request import Piece, Sampling
from gainnet.inference.speculate import EngineDrafter, Speculation
from gainnet.serving.router import Refused
from gainnet.serving.settings import VerifierSetting

HEADER = "x-gainnet-verifier"
LEFT = 64
"""Tokens of the answer that figures of a pace are told for."""


def measured(pace: Pace) -> Drafting:
    """What routers are told of a pace."""
    chosen = pace.choose(LEFT)
    if not pace.known or chosen.drafted_s == float("inf"):
        return Drafting(*((pace.acceptance, pace.rtt_s) if pace.known else (None, None)))
    return Drafting(pace.acceptance, pace.rtt_s, chosen.drafted_s / max(chosen.whole_s, 1e-9))


class Drafted:
    """An answer as the engine's own are read: its pieces, which may be cancelled.

    Attributes:
        cached_tokens: nothing is known of the prompt's at the other node.
    """

    cached_tokens = 0

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        try:
            return await anext(self._pieces)
        except NodeFailed as error:
            raise Refused(502, f"the verifying node failed: {error}", code="upstream_failed") from None

    def cancel(self) -> None:
        """Give it up; its session at the other node is closed."""
        closing = asyncio.ensure_future(self._pieces.aclose())
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)


_CLOSING: set[asyncio.Future[None]] = set()


class Drafts:
    """What a node has for drafting: the nodes that verify, and what was measured with each."""

    def __init__(self, engine: Engine, verifiers: Mapping[str, VerifierSetting], timeout_s: float) -> None:
        self._engine, self._verifiers, self._timeout_s = engine, verifiers, timeout_s
        self._paces = {name: Pace() for name in verifiers}
        self._made: dict[tuple[str, str | None, str], Speculation] = {}
        self._http: aiohttp.ClientSession | None = None

    def answer(self, verifier: str, prompt: Sequence[int], how: Sampling, adapter: str | None, tenant: str) -> Drafted:
        """The verifying model's answer. Refused: 400 where there is no such verifier."""
        if verifier not in self._verifiers:
            raise Refused(400, f"there is no verifier {verifier!r}", code="unknown_verifier", param=HEADER)
        key = verifier, adapter, tenant
        if key not in self._made:
            while len(self._made) >= 64:
                del self._made[next(iter(self._made))]
            self._made[key] = self._speculation(*key)
        return Drafted(self._made[key].answer(prompt, how))

    def state(self) -> dict[str, Any]:
        """What was measured with each verifier, for those who choose: see `gainnet.execution.telemetry.Drafting`."""
        return {name: asdict(measured(pace)) for name, pace in self._paces.items()}

    async def close(self) -> None:
        """Close sessions and connections."""
        for made in self._made.values():
            await made.close()
        if self._http is not None:
            await self._http.close()

    def _speculation(self, name: str, adapter: str | None, tenant: str) -> Speculation:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s), trust_env=False)
        setting, language = self._verifiers[name], self._engine.language
        token = None if setting.token is None else setting.token.get_secret_value()
        context = min(setting.context or language.context, language.context)
        verifier = HttpVerifier(self._http, setting.url, setting.model, context, token=token, tenant=tenant)
        return Speculation(
            EngineDrafter(self._engine, adapter, tenant), verifier, language.tokenizer, self._paces[name]
        )
