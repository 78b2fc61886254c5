"""Traces across hops: a span for each request at each process, and for each try, as OpenTelemetry has them.

Off, a request's traceparent and tracestate are passed on as they came. On, spans go to a collector by OTLP over HTTP, in
batches from a thread of their own, and each hop is the parent of the next (W3C Trace Context). The packages are an extra
(`gainnet[trace]`), imported only where tracing is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gainnet import __version__
from gainnet.errors import InputError
from gainnet.serving.settings import TracingSetting

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,511}")
_NOTHING = ("0" * 32, "0" * 16)


class Parent:
    """Whose span a request belongs to, as its headers say.

    Attributes:
        trace: its id, 32 hexadecimal digits.
        span: of who asks, 16 of them.
        flags: two; the last bit says that the trace is recorded.
        state: what vendors add, passed on; may be empty.
    """

    __slots__ = ("flags", "span", "state", "trace")

    def __init__(self, trace: str, span: str, flags: str, state: str = "") -> None:
        self.trace, self.span, self.flags, self.state = trace, span, flags, state

    def lines(self) -> str:
        """As headers of a request."""
        state = f"tracestate: {self.state}\r\n" if self.state else ""
        return f"traceparent: 00-{self.trace}-{self.span}-{self.flags}\r\n{state}"


def parent(headers: Mapping[str, str]) -> Parent | None:
    """Whose span the request with these headers belongs to; None where it is not traced."""
    text = headers.get("traceparent")
    found = None if text is None else _PARENT.fullmatch(text)
    if found is None or found[1] == _NOTHING[0] or found[2] == _NOTHING[1]:
        return None
    state = headers.get("tracestate", "")
    return Parent(found[1], found[2], found[3], state if _STATE.fullmatch(state) else "")


class Span:
    """One piece of work in a trace."""

    __slots__ = ("_span", "_tracing")

    def __init__(self, tracing: Tracing, span: Any) -> None:
        self._tracing, self._span = tracing, span

    def child(self, name: str, **attributes: str | int | float) -> Span:
        """A try at another process, which is a part of this."""
        return self._tracing.span(name, self._span, attributes, client=True)

    def note(self, **attributes: str | int | float) -> None:
        """Say more of it; in names ``__`` is a dot."""
        self._span.set_attributes(_dotted(attributes))

    def event(self, name: str) -> None:
        """Something happened now."""
        self._span.add_event(name)

    def end(self, trouble: str | None = None) -> None:
        """It is over: well, or with trouble."""
        if trouble is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, trouble))
        self._span.end()

    def as_parent(self) -> Parent:
        """What the next hop is told."""
        context = self._span.get_span_context()
        state = context.trace_state.to_header()
        return Parent(f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}", state)


class Tracing:
    """The spans of a process, and how they leave it."""

    def __init__(self, service: str, setting: TracingSetting) -> None:
        """Begin.

        Args:
            service: name of the process in traces.
            setting: where they go.

        Errors: InputError where the packages are missing.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

            made = exporter(setting)
        except ImportError as error:
            raise InputError(f"tracing: {error.name} is not installed: pip install 'gainnet[trace]'") from None
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(setting.ratio)),
            resource=Resource.create({"service.name": service, "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(made))
        self._tracer = self._provider.get_tracer("gainnet", __version__)

    def begin(self, name: str, of: Parent | None, **attributes: str | int | float) -> Span:
        """A request came: its span, a child of what its headers say, or the first of a trace."""
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

        if of is None:
            return self.span(name, None, attributes, client=False)
        state, flags = TraceState.from_header([of.state]), TraceFlags(int(of.flags, 16))
        context = SpanContext(int(of.trace, 16), int(of.span, 16), True, flags, state)
        return self.span(name, NonRecordingSpan(context), attributes, client=False)

    def span(self, name: str, of: Any, attributes: Mapping[str, str | int | float], *, client: bool) -> Span:
        """A span that begins now, of a parent or of none; of what is asked of another (client), or of this process."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        context = Context() if of is None else set_span_in_context(of, Context())
        kind = SpanKind.CLIENT if client else SpanKind.SERVER
        return Span(self, self._tracer.start_span(name, context, kind, _dotted(attributes)))

    def close(self) -> None:
        """Send what was not sent yet, and end; may take a while."""
        self._provider.shutdown()


def exporter(setting: TracingSetting) -> Any:
    """Who sends spans to the collector. ImportError where its package is missing."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    headers = {name: value.get_secret_value() for name, value in setting.headers.items()}
    return OTLPSpanExporter(endpoint=setting.endpoint, headers=headers, timeout=setting.timeout_s)


def _dotted(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
