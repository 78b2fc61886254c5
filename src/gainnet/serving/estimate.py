"""How large requests are, as tasks of the scenario: what they don't say is a median, what they overstate is learned."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
from jaxtyping import Float

from gainnet.demand.task import Tasks
from gainnet.serving.fleet import Catalogue, Fleet, Wish
from gainnet.serving.router import Ask

OUTPUT_MEMORY = 0.05
_WHOLE = ("task_id", "service", "user", "adapter")
_REAL = (
    "arrival_s", "deadline_s", "quality_min", "value", "prompt_token", "output_token", "step", "image", "uplink_bit",
    "downlink_bit", "target_range_m",
)  # fmt: skip


class Estimates:
    """Makes tasks of requests, and learns from answers.

    Requests name the most tokens that they take, and mostly get fewer: the part that they get is learned for each service.

    Args:
        catalogue: of services and cards.
        fleet: the real nodes.
        ends: how many ends there are.
        quality: of each artifact, as it is now: not copied.
    """

    def __init__(self, catalogue: Catalogue, fleet: Fleet, ends: int, quality: Float[np.ndarray, " artifact"]) -> None:
        self._sizes, self._quality = catalogue.sizes, quality
        self._stand_ins = [user for user in range(ends) if user not in fleet.ends] or list(range(ends))
        self._turn, self._task = itertools.count(), itertools.count()
        self._output = [1.0] * len(self._sizes)
        self._took_s = [sizes.deadline_s / 4.0 for sizes in self._sizes]
        self._answers = [0] * len(self._sizes)

    def tasks(self, wishes: list[Wish], now_s: float) -> Tasks:
        """The requests as tasks that arrived now."""
        whole, real = [], []
        for wish in wishes:
            ask, sizes, card = wish.ask, self._sizes[wish.service], wish.card
            prompt = output = 0.0
            step, image = (ask.step or sizes.step, ask.image or sizes.image) if sizes.image else (0.0, 0.0)
            if not sizes.image:
                prompt, output = max(ask.prompt_token, 1.0), max(ask.output_token * self._output[wish.service], 1.0)
            allowed_s, quality = ask.deadline_s, ask.quality_min
            if allowed_s is None:
                allowed_s = sizes.deadline_s + sizes.per_token_s * output + sizes.per_step_s * (step - sizes.step)
            if quality is None:
                given = sizes.image and (ask.step or card >= 0)  # whoever names the steps takes what they give
                quality = 0.0 if given else sizes.quality if card < 0 else self._quality[card]
            whole.append((next(self._task), wish.service, self._user(ask), -1))
            real.append((
                now_s, now_s + allowed_s, quality, sizes.value, prompt, output, float(step), float(image),
                sizes.prompt_bit + sizes.token_bit * prompt, sizes.token_bit * output, 0.0,
            ))  # fmt: skip
        integers = dict(zip(_WHOLE, np.ascontiguousarray(np.array(whole, np.int64).T), strict=True))
        numbers = dict(zip(_REAL, np.ascontiguousarray(np.array(real, np.float64).T), strict=True))
        return Tasks(**integers, **numbers)

    def answered(self, service: int, asked: int, output_token: int, latency_s: float) -> None:
        """A request that asked for at most so many tokens got an answer of so many, after so long."""
        self._answers[service] += 1
        rate = max(OUTPUT_MEMORY, 1.0 / self._answers[service])
        part = min(max(output_token / max(asked, 1), 0.01), 1.0)
        self._output[service] += rate * (part - self._output[service])
        self._took_s[service] += rate * (latency_s - self._took_s[service])

    def took_s(self, service: int) -> float:
        """How long answers of a service took, running mean."""
        return self._took_s[service]

    def _user(self, ask: Ask) -> int:
        """The end that asks; of what is asked at the gateway, one that stands in for it, the same for a whole session."""
        if ask.end is not None:
            return ask.end
        key = ask.session or ask.tenant
        turn = zlib.crc32(key.encode()) if key else next(self._turn)
        return self._stand_ins[turn % len(self._stand_ins)]
