"""POST /verify: sessions whose text is drafted elsewhere, and judged by the engine here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gainnet.errors import InputError
from gainnet.inference.request import Sampling
from gainnet.serving.node_answer import TOP_P_LEAST
from gainnet.serving.node_wire import VerifyRequest
from gainnet.serving.router import Refused
from gainnet.serving.wire import parse

if TYPE_CHECKING:
    from gainnet.serving.node import Asked, Node


@dataclass(slots=True)
class _Open:
    tenant: str
    model: str
    used_at: float
    judging: int = 0


class Sessions:
    """The sessions that are open."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open: dict[str, _Open] = {}

    async def answer(self, asked: Asked) -> dict[str, Any]:
        """What a request about a session is answered."""
        request = parse(VerifyRequest, asked.raw)
        self.sweep(asked.came_at)
        if request.session is None:
            return await self._begin(request, asked.came_at)
        found = self._open.get(request.session)
        if found is None or found.tenant != (request.cache_salt or ""):
            said = "there is no such session: it was closed, or left alone too long"
            raise Refused(404, said, code="not_found", param="session")
        if request.close:
            self._close(request.session)
            return {"session": request.session, "closed": True}
        return await self._judge(request.session, found, request.draft, asked)

    async def _begin(self, request: VerifyRequest, now: float) -> dict[str, Any]:
        node = self._node
        if request.model is None or request.prompt is None:
            raise Refused(400, "model and prompt are needed to open a session", code="missing_field", param="model")
        if len(self._open) >= node.settings.sessions_open:
            raise Refused(
                429, f"{len(self._open)} sessions are open", node.settings.timeouts.retry_s, code="overloaded"
            )
        adapter = node.adapter(request.model)
        prompt = await node.prompts.either(request.prompt)
        room = node.engine.language.context - len(prompt)
        how = Sampling(
            max_tokens=min(request.max_tokens or room, room),
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else max(request.top_p, TOP_P_LEAST),
            seed=request.seed,
            ignore_eos=request.ignore_eos is True,
        )
        tenant = request.cache_salt or ""
        name = node.engine.open_session(prompt, how, adapter=adapter, tenant=tenant)
        self._open[name] = _Open(tenant, request.model, now)
        node.counted(request.model, len(prompt), 0)
        return {"session": name, "prompt_tokens": len(prompt)}

    async def _judge(self, name: str, found: _Open, draft: list[int], asked: Asked) -> dict[str, Any]:
        node, loop = self._node, asyncio.get_running_loop()
        future = node.engine.verify(name, draft)
        found.judging += 1
        try:
            async with asyncio.timeout_at(asked.deadline):
                judged = await asyncio.shield(asyncio.wrap_future(future))
        except (TimeoutError, asyncio.CancelledError):
            self._close(name)  # a draft that is given up ends its session: what it would have become is unknown
            raise
        finally:
            found.judging -= 1
            found.used_at = loop.time()
        output = judged.accepted + (judged.token is not None)
        node.counted(found.model, 0, output)
        return {
            "session": name, "accepted": judged.accepted, "token": judged.token, "finish_reason": judged.finish,
        }  # fmt: skip

    def _close(self, name: str) -> None:
        self._open.pop(name, None)
        try:
            self._node.engine.close_session(name)
        except InputError:
            return  # it is closed already

    def sweep(self, now: float) -> None:
        """Close what nobody asked for too long."""
        before = now - self._node.settings.timeouts.session_s
        for name in [name for name, one in self._open.items() if one.used_at < before and not one.judging]:
            self._close(name)
