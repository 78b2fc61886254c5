"""The gateway's metrics as Prometheus text; names as engines have them where they mean the same."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
Labels = tuple[tuple[str, str], ...]

_HELP = {
    "gainnet:requests_total": "Requests by kind, model, node and HTTP status.",
    "gainnet:tries_failed_total": "Tries at a node that failed.",
    "gainnet:deferred_total": "Answers of a small model that was not sure enough.",
    "gainnet:ways_total": "Answers by how models gave them: whole, cascade, speculation or sharing.",
    "gainnet:streams_lost_total": "Streams that ended in an error event.",
    "vllm:prompt_tokens_total": "Prompt tokens, as nodes counted them, else estimated.",
    "vllm:generation_tokens_total": "Generated tokens, as nodes counted them, else chunks.",
    "vllm:time_to_first_token_seconds": "From a request's arrival to the first byte of its answer.",
    "vllm:inter_token_latency_seconds": "Between chunks of a stream.",
    "vllm:e2e_request_latency_seconds": "From a request's arrival to the last byte of its answer.",
    "gen_ai_server_request_duration_seconds": "The same by operation, as OpenTelemetry names it.",
    "vllm:num_requests_running": "Requests that wait for their answer or are streamed.",
    "vllm:num_requests_waiting": "Those of them that wait for their first byte.",
    "gainnet:queued_prompt_tokens": "Prompt tokens that wait for their first byte, estimated.",
    "gainnet:node_up": "Whether requests may go to a node.",
    "gainnet:node_requests_running": "Requests that a node has.",
    "vllm:lora_requests_info": "Requests that use a version now.",
}


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Counters and histograms by name and labels."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}

    def add(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Raise a counter."""
        self._counters[name, labels] = self._counters.get((name, labels), 0.0) + amount

    def histogram(self, name: str, labels: Labels = ()) -> Histogram:
        """A histogram, made at its first use."""
        found = self._histograms.get((name, labels))
        if found is None:
            found = self._histograms[name, labels] = Histogram()
        return found

    def text(
        self, gauges: Mapping[tuple[str, Labels], float], counters: Mapping[tuple[str, Labels], float] | None = None
    ) -> str:
        """All of it, and gauges and counters that are kept elsewhere, in Prometheus' text format.

        Any name will do; those known here are explained.
        """
        families: dict[str, list[str]] = {}
        for (name, labels), value in sorted((self._counters | dict(counters or {})).items()):
            families.setdefault(f"{name} counter", []).append(_line(name, labels, value))
        for (name, labels), value in sorted(gauges.items()):
            families.setdefault(f"{name} gauge", []).append(_line(name, labels, value))
        for (name, labels), histogram in sorted(self._histograms.items(), key=lambda item: item[0]):
            families.setdefault(f"{name} histogram", []).extend(_lines(name, labels, histogram))
        out = []
        for family, lines in families.items():
            if (said := _HELP.get(family.split()[0])) is not None:
                out.append(f"# HELP {family.split()[0]} {said}")
            out += [f"# TYPE {family}", *lines]
        return "\n".join(out) + "\n"


def _lines(name: str, labels: Labels, histogram: Histogram) -> Iterable[str]:
    below = 0
    for bound, count in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
        below += count
        yield _line(f"{name}_bucket", (*labels, ("le", bound)), float(below))
    yield _line(f"{name}_sum", labels, histogram.total)
    yield _line(f"{name}_count", labels, float(below))


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {value:g}" if inside else f"{name} {value:g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
