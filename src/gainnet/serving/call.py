"""One request on its way: what it asks, read from its headers and body, and what is sent on for it."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from gainnet.serving import wire
from gainnet.serving.keys import Tenant
from gainnet.serving.router import Ask, Kind, Refused, Target
from gainnet.serving.settings import Limits, ModelSetting
from gainnet.serving.tracing import Parent, Span, parent
from gainnet.serving.upstream import Posted

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}", re.ASCII)
_SESSION = re.compile(r"[\x21-\x7e]{1,256}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
_NEVER_SENT_ON = ("kv_transfer_params", "chat_template")
_DAY_MS = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Given:
    """What a request's headers say.

    Attributes:
        request_id: the client's, or a new one.
        deadline: on the loop's clock.
        quality_min: least quality.
        end: number of the end that asks.
        session: of a conversation.
        trace: whose span the request belongs to, None where it is not traced.
        idempotency_key: None without.
    """

    request_id: str
    deadline: float | None
    quality_min: float | None
    end: int | None
    session: str | None
    trace: Parent | None
    idempotency_key: str | None


def request_id(headers: Mapping[str, str]) -> str:
    """The client's id of a request where it has one that can be passed on, else a new one."""
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"req-{os.urandom(12).hex()}"


def given(headers: Mapping[str, str], name: str, now: float) -> Given:
    """What the headers say; ``name`` is the request's id. Refused: 400 where one is wrong, 408 where time is over."""
    deadline_ms = _number(headers, "x-gainnet-deadline-ms", -_DAY_MS, _DAY_MS)
    if deadline_ms is not None and deadline_ms <= 0.0:
        raise Refused(408, "the deadline had passed when the request came", code="deadline_exceeded")
    end = _number(headers, "x-gainnet-end", 0.0, 1e9)
    if end is not None and not end.is_integer():
        raise Refused(400, "x-gainnet-end: is no whole number", code="invalid_header", param="x-gainnet-end")
    key = _text(headers, "idempotency-key")
    return Given(
        name,
        None if deadline_ms is None else now + deadline_ms / 1_000.0,
        _number(headers, "x-gainnet-quality-min", 0.0, 1.0),
        None if end is None else int(end),
        _text(headers, "x-gainnet-session"),
        parent(headers),
        key,
    )


def _number(headers: Mapping[str, str], name: str, least: float, most: float) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not least <= value <= most:
        raise Refused(400, f"{name}: is no number from {least:g} to {most:g}", code="invalid_header", param=name)
    return value


def _text(headers: Mapping[str, str], name: str) -> str | None:
    text = headers.get(name)
    if text is not None and not _SESSION.fullmatch(text):
        raise Refused(400, f"{name}: is not 1 to 256 visible characters", code="invalid_header", param=name)
    return text


class Call:
    """A request that was found in order.

    Attributes:
        kind: of request.
        path: that it came to.
        given: what its headers say.
        tenant: who asks.
        model: public id that it names.
        version: that it is answered by; pinned.
        ask: for the router.
        stream: whether the answer is streamed.
        raw: its body.
        span: where it is traced here, else None.
        parent: whose span a node is told that the request belongs to.
    """

    __slots__ = (
        "_request", "ask", "given", "kind", "model", "parent", "path", "raw", "span", "stream", "tenant", "version",
    )  # fmt: skip

    def __init__(self, kind: Kind, path: str, given: Given, tenant: Tenant, raw: bytes, limits: Limits) -> None:
        self.kind, self.path, self.given, self.tenant, self.raw = kind, path, given, tenant, raw
        self.span: Span | None = None
        self.parent = given.trace
        wire.weigh(kind, raw, limits)
        self._request = wire.parse(wire.REQUESTS[kind], raw)
        self.model = self.version = self._request.model
        self.stream = bool(getattr(self._request, "stream", False))
        self.ask = Ask(
            kind, self.model, given.end, wire.prompt_tokens(self._request, raw),
            wire.output_tokens(self._request, limits), None, given.quality_min, tenant.name, given.session,
            wire.together(self._request), *wire.drawn(self._request),
        )  # fmt: skip

    def check(self, limits: Limits, known: ModelSetting | None) -> None:
        """Hold it to the limits. Refused: 400 or 404."""
        wire.check(self._request, self.kind, self.ask.prompt_token, limits, known)

    def pinned(self, version: str, now: float) -> None:
        """It is answered by this version; the time left is that of now."""
        deadline, ask = self.given.deadline, self.ask
        if deadline is None and version == self.version:
            return
        left_s = None if deadline is None else deadline - now
        self.version = version
        self.ask = Ask(
            ask.kind, version, ask.end, ask.prompt_token, ask.output_token, left_s, ask.quality_min, ask.tenant,
            ask.session, ask.together, ask.step, ask.image,
        )  # fmt: skip

    @property
    def counted(self) -> bool:
        """Whether a stream is to end with the tokens used."""
        options = getattr(self._request, "stream_options", None)
        return options is not None and options.include_usage is True

    def posted(self, target: Target, now: float) -> Posted:
        """What is sent to a node, with the time that is left now."""
        headers = self._headers(now)
        if target.verifier is not None:
            headers += b"x-gainnet-verifier: %b\r\n" % target.verifier.encode("latin-1")
        if target.begun_by is not None:
            headers += b"x-gainnet-begun-by: %b\r\n" % (target.begun_by or wire.HERE).encode("latin-1")
        body = self._body(target.model) if target.sure is None else self._weighed(target.model)
        return Posted(self.path, headers, body, self.given.deadline)

    def digest(self) -> bytes:
        """Of what is asked: path and body."""
        return hashlib.sha256(self.path.encode() + b"\0" + self.raw).digest()

    def _headers(self, now: float) -> bytes:
        given = self.given
        lines = f"x-request-id: {given.request_id}\r\n"
        if given.deadline is not None:
            lines += f"x-gainnet-deadline-ms: {max((given.deadline - now) * 1_000.0, 0.0):.3f}\r\n"
        if given.quality_min is not None:
            lines += f"x-gainnet-quality-min: {given.quality_min:g}\r\n"
        if given.end is not None:
            lines += f"x-gainnet-end: {given.end}\r\n"
        if given.session is not None:
            own = f"{self.tenant.salt or ''}\0{given.session}".encode()
            lines += f"x-gainnet-session: {hashlib.sha256(own).hexdigest()[:32]}\r\n"
        if self.parent is not None:
            lines += self.parent.lines()
        return lines.encode("latin-1")

    def _body(self, model: str) -> bytes:
        """The body as the node is to have it; the very bytes that came where nothing need be changed."""
        forbidden = self._request.kv_transfer_params is not None or self._request.chat_template is not None
        if model == self.model and self.tenant.salt is None and not forbidden:
            return self.raw
        return to_json(self._fields(model))

    def _weighed(self, model: str) -> bytes:
        """The body that asks for a whole answer with log-probabilities."""
        fields = self._fields(model)
        fields.pop("stream_options", None)
        return to_json(fields | {"stream": False, "logprobs": True if self.kind == "chat" else 0})

    def _fields(self, model: str) -> dict[str, Any]:
        fields: dict[str, Any] = from_json(self.raw)
        for name in _NEVER_SENT_ON:
            fields.pop(name, None)
        fields["model"] = model
        if self.tenant.salt is not None:
            fields["cache_salt"] = self.tenant.salt
        return fields
