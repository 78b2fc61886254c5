"""What a node says of itself: rates, /node/state, and metrics with vLLM's names."""

from __future__ import annotations

import time

from gainnet.inference.engine import Engine
from gainnet.inference.request import Sampling
from gainnet.inference.stats import Stats
from gainnet.serving.metrics import Labels, Metrics

REHEARSED_PROMPT, REHEARSED_TOKENS = 64, 8
GAIN = 0.3
BUSY_LEAST_S = 0.05
Figures = tuple[dict[tuple[str, Labels], float], dict[tuple[str, Labels], float]]
"""Gauges and counters of an image engine."""
_DRAFTS = {
    "vllm:spec_decode_num_drafts": "drafts",
    "vllm:spec_decode_num_draft_tokens": "drafted_tokens",
    "vllm:spec_decode_num_accepted_tokens": "accepted_tokens",
}


class Rates:
    """How fast an engine is, from a rehearsal, then from what it did since.

    Attributes:
        prompt_token_per_s: prefilled while it prefills.
        decode_token_per_s: decoded while it decodes, over all running texts.
        decode_batch: mean number of texts that got a token in a step meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        """Rehearse on an engine that works; it takes as long as a short answer, twice, as the first pays for warming up."""
        for _ in range(2):
            self.prompt_token_per_s, self.decode_token_per_s = _rehearsed(engine)
        counters = engine.stats().counters
        self.decode_batch = 1.0
        self._seen = counters.prompt_tokens, counters.generated_tokens, counters.busy_s, counters.steps

    def update(self, stats: Stats) -> None:
        """Take in what the engine did since the last call."""
        counters = stats.counters
        now = counters.prompt_tokens, counters.generated_tokens, counters.busy_s, counters.steps
        prompt, output, busy_s, steps = (new - old for new, old in zip(now, self._seen, strict=True))
        decoding_s = busy_s - prompt / self.prompt_token_per_s
        if busy_s < BUSY_LEAST_S:
            return
        self._seen = now
        if output and decoding_s > busy_s / 2.0:
            self.decode_token_per_s += GAIN * (output / decoding_s - self.decode_token_per_s)
            self.decode_batch += GAIN * (output / steps - self.decode_batch)


def _rehearsed(engine: Engine) -> tuple[float, float]:
    length = max(min(REHEARSED_PROMPT, engine.language.context - REHEARSED_TOKENS), 1)
    how = Sampling(max_tokens=REHEARSED_TOKENS, temperature=0.0, ignore_eos=True)
    began = time.monotonic()
    before = engine.stats().counters.first_token_s
    engine.submit([1] * length, how, tenant="\0rehearsal").wait()
    whole_s = time.monotonic() - began
    first_s = max(engine.stats().counters.first_token_s - before, 1e-6)
    return length / first_s, (REHEARSED_TOKENS - 1) / max(whole_s - first_s, 1e-6)


def text(metrics: Metrics, stats: Stats, model: str, images: Figures | None = None) -> str:
    """All of a node's metrics in Prometheus' text format; those of images by labels, where it draws some."""
    label = (("model_name", model),)
    adapters = (
        ("running_lora_adapters", ",".join(stats.resident)), ("max_lora", "0"), ("waiting_lora_adapters", ""),
    )  # fmt: skip
    gauges = {
        ("vllm:num_requests_running", label): float(stats.running),
        ("vllm:num_requests_waiting", label): float(stats.waiting),
        ("vllm:kv_cache_usage_perc", label): stats.kv_use,
        ("gainnet:sessions", label): float(stats.sessions),
        ("gainnet:prefix_cache_byte", label): float(stats.prefix_byte),
        ("vllm:lora_requests_info", adapters): float(sum(stats.pins.values())),
    }
    counters = {
        "vllm:prefix_cache_queries_total": stats.prefix_queries,
        "vllm:prefix_cache_hits_total": stats.prefix_hits,
        "gainnet:requests_refused_total": stats.counters.refused,
        "gainnet:requests_cancelled_total": stats.counters.cancelled,
        "gainnet:engine_busy_seconds_total": stats.counters.busy_s,
        "gainnet:engine_behind_seconds_total": stats.behind_s,
    } | {f"{name}_total": getattr(stats.counters, field) for name, field in _DRAFTS.items()}
    counted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        (name, label): float(value) for name, value in counters.items()
    }
    if images is not None:
        gauges, counted = gauges | images[0], counted | images[1]
    return metrics.text(gauges, counted)
