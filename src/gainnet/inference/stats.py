"""What an engine is doing, and has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Sums since the engine started.

    Attributes:
        prompt_tokens: of all requests that got a slot.
        generated_tokens: given out.
        finished: answers that ended by themselves.
        cancelled: answers that were given up.
        refused: requests that found the queue full.
        steps: forward passes.
        step_tokens: tokens in them.
        first_token_s: sum of the times from asking to the first token, s.
        first_tokens: how many such times.
        inter_token_s: sum of the times between tokens of one answer, s.
        inter_tokens: how many such times.
        drafts: drafts that were judged.
        drafted_tokens: tokens in them.
        accepted_tokens: those that stayed.
        embedded: texts that were embedded.
        busy_s: time in steps, s.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    refused: int = 0
    steps: int = 0
    step_tokens: int = 0
    first_token_s: float = 0.0
    first_tokens: int = 0
    inter_token_s: float = 0.0
    inter_tokens: int = 0
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    embedded: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """An engine at one moment.

    Attributes:
        running: texts that have a slot.
        waiting: texts that wait for one.
        slots: how many texts may run at once.
        sessions: open sessions.
        kv_use: part of the slots' keys and values that is in use.
        resident: names of the adapters that may be asked for.
        pins: requests and sessions that hold each adapter version, those unloaded too while they are held.
        prefix_queries: prompts that were looked up in the prefix cache.
        prefix_hits: those that began like a text that was kept.
        prefix_hit_tokens: tokens that need not be computed again.
        prefix_byte: what the prefix cache holds.
        behind_s: by how much steps ended later than on the machine whose time they take, in all.
        counters: sums since the start.
    """

    running: int
    waiting: int
    slots: int
    sessions: int
    kv_use: float
    resident: tuple[str, ...]
    pins: dict[str, int]
    prefix_queries: int
    prefix_hits: int
    prefix_hit_tokens: int
    prefix_byte: int
    behind_s: float
    counters: Counters
