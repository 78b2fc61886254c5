"""One trace over client, gateway and node, each hop the parent of the next."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from fakes import CHAT, network
from nodes import run, served
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gainnet.errors import InputError
from gainnet.serving import tracing
from gainnet.serving.gateway import Gateway
from gainnet.serving.settings import GatewaySettings, TracingSetting
from gainnet.serving.tracing import Parent, Tracing, parent

SETTING = {"endpoint": "http://127.0.0.1:1/v1/traces"}
CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[InMemorySpanExporter]:
    """What each process sent, in order of their start."""
    made: list[InMemorySpanExporter] = []

    def exporter(setting: TracingSetting) -> InMemorySpanExporter:
        made.append(InMemorySpanExporter())
        return made[-1]

    monkeypatch.setattr(tracing, "exporter", exporter)
    return made


def _attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_trace_goes_from_hop_to_hop(kept: list[InMemorySpanExporter]) -> None:
    async def main() -> None:
        async with served(tracing=SETTING) as at:
            node = {"name": "edge", "tier": "edge", "url": at.node.url, "models": ["m"]}
            gateway = Gateway(
                GatewaySettings(listen={"port": 0}, admin={"port": 0}, nodes=[node], tracing=SETTING)  # type: ignore[arg-type]
            )
            await gateway.start()
            try:
                async with aiohttp.ClientSession(headers={"traceparent": CLIENT, "tracestate": "vendor=1"}) as client:
                    body = CHAT | {"stream": True, "max_tokens": 3}
                    async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                        assert (await response.text()).endswith("data: [DONE]\n\n")
            finally:
                await gateway.close()

    run(main())
    spans = [span for one in kept for span in one.get_finished_spans()]
    found = {(span.resource.attributes["service.name"], span.kind.name): span for span in spans}
    assert len(spans) == 3
    asked, tried, answered = (
        found[key]
        for key in (("gainnet-gateway", "SERVER"), ("gainnet-gateway", "CLIENT"), ("gainnet-node node", "SERVER"))
    )
    assert {span.context.trace_id for span in found.values() if span.context is not None} == {int("ab" * 16, 16)}
    assert asked.parent is not None
    assert asked.parent.span_id == int("cd" * 8, 16)
    assert tried.parent == asked.context
    assert answered.parent is not None
    assert tried.context is not None
    assert answered.parent.span_id == tried.context.span_id
    assert answered.context is not None
    assert answered.context.trace_state.get("vendor") == "1"
    assert _attributes(asked)["http.response.status_code"] == 200
    assert _attributes(asked)["gainnet.node"] == "edge"
    assert _attributes(answered)["gen_ai.usage.output_tokens"] == 3
    assert [event.name for event in answered.events] == ["gen_ai.first_token"]
    assert all(span.status.is_ok or span.status.is_unset for span in found.values())


def test_trouble_is_told_and_what_is_not_sampled_is_passed_on(kept: list[InMemorySpanExporter]) -> None:
    async def main() -> None:
        async with network("edge cloud", tracing=SETTING | {"ratio": 0.0}, breaker={"failures": 9}) as place:
            place.nodes[0].how = "500"
            assert (await place.post(headers={"traceparent": CLIENT}))[0] == 200
            sent = place.nodes[1].asked[0][1]["traceparent"]
            assert sent.startswith(f"00-{'ab' * 16}-")
            assert sent != CLIENT
            assert (await place.post())[0] == 200  # no trace comes with it, and none of a hundred is begun
            assert not int(place.nodes[1].asked[1][1]["traceparent"][-2:], 16) & 1

    run(main())
    asked, failed, answered = sorted(kept[0].get_finished_spans(), key=lambda span: span.start_time or 0)
    assert failed.parent == answered.parent == asked.context
    assert [span.status.is_ok or span.status.is_unset for span in (asked, failed, answered)] == [True, False, True]


@pytest.mark.parametrize(
    "text", ["", "00", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'0' * 16}-01", f"ff-{'ab' * 16}-{'cd' * 8}-01"]
)
def test_headers_that_name_no_parent(text: str) -> None:
    assert parent({"traceparent": text}) is None


def test_parents_as_headers() -> None:
    found = parent({"traceparent": CLIENT, "tracestate": "a=b\x01"})
    assert isinstance(found, Parent)
    assert found.lines() == f"traceparent: {CLIENT}\r\n"
    assert parent({}) is None


def test_without_its_packages_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(setting: TracingSetting) -> Any:
        raise ImportError(name="opentelemetry.exporter")

    monkeypatch.setattr(tracing, "exporter", missing)
    with pytest.raises(InputError, match=r"tracing: opentelemetry.exporter is not installed: pip install"):
        Tracing("x", TracingSetting(**SETTING))  # type: ignore[arg-type]
