"""Another machine's time: an engine's steps last as long as that machine would take for its own, larger model.

So several nodes on one computer behave as the machines of a network would, as long as all of them together compute less
than the computer can. Times are the roofline of `gainnet.network.compute_kernel`, for the tokens of prompts and answers
that really are in a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

IDLE_S = 0.005
"""A machine that begins a step later than this after the one before was idle; one that begins sooner was only woken late."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine and the model that it runs, in the terms of `gainnet.network.compute.Nodes` and `gainnet.models.card.Cards`.

    Attributes:
        count: accelerators, which share a step's texts and each read all weights.
        flop_per_s: of one accelerator, effective.
        byte_per_s: of its memory, effective.
        size_byte: of the weights.
        flop_per_token: 2 P.
        attention_flop_per_token2: 2 L d.
        kv_byte_per_token: of the cache.
    """

    count: float
    flop_per_s: float
    byte_per_s: float
    size_byte: float
    flop_per_token: float
    attention_flop_per_token2: float
    kv_byte_per_token: float

    def step_s(self, parts: Sequence[tuple[int, int]]) -> float:
        """Time of a step; its parts are tokens that it computes, and those of the same text that came before them."""
        flop = byte = 0.0
        for token, before in parts:
            flop += token * (self.flop_per_token + self.attention_flop_per_token2 * (2.0 * before + token))
            byte += (before + token) * self.kv_byte_per_token
        return max(flop / self.count / self.flop_per_s, (self.size_byte + byte / self.count) / self.byte_per_s)


class Beat:
    """Keeps steps as long as a machine takes for them.

    Attributes:
        behind_s: by how much steps ended too late in all, because this computer was slower than the machine.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.behind_s = 0.0
        self._clock, self._sleep, self._free_at = clock, sleep, 0.0

    def last(self, step_s: float, begun_s: float) -> None:
        """Wait until the machine would be through with a step of that length that began, by the clock, at a time."""
        began_s = self._free_at if 0.0 <= begun_s - self._free_at < IDLE_S else begun_s
        self._free_at = began_s + step_s
        left_s = self._free_at - self._clock()
        if left_s > 0.0:
            self._sleep(left_s)
        else:
            self.behind_s -= left_s


class Tempo(Beat):
    """Keeps an engine in step with a machine.

    Attributes:
        machine: whose time it is.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(clock, sleep)
        self.machine = machine

    def keep(self, parts: Sequence[tuple[int, int]], begun_s: float) -> None:
        """Wait as `Beat.last` does, for a step of these parts, as in `Machine.step_s`."""
        self.last(self.machine.step_s(parts), begun_s)
