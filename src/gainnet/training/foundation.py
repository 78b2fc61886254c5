"""Pre-training of a small language model on text: the next token, in windows that the texts fill one after another.

AdamW (arXiv 1711.05101) with a rate that rises over the first steps and falls as a cosine; weights move by a clipped
gradient. The same seed, texts and number of threads give the same bytes, also where a training was stopped and gone
on with.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gainnet.errors import InputError
from gainnet.measurement.results import Writer
from gainnet.models import heap, hub, tokens
from gainnet.models.hub import Language
from gainnet.models.packed import packed, packs, positions
from gainnet.rng import stream
from gainnet.scenario.knowledge import SmallModel
from gainnet.training.training import Figures, Training
from gainnet.workers.workers import Workers

WARM_UP = 0.05
"""Part of the steps in which the rate rises."""
LOWEST = 0.1
"""Rate of the last step over the highest."""
DECAY, BETAS = 0.1, (0.9, 0.98)
GRADIENT_MAX = 1.0
EVALUATIONS = 12
"""How often held-out perplexity is in the curve, about."""
HELD_WINDOWS = 16
"""On how many windows it is measured, at most."""

Windows = Int[np.ndarray, "window position"]


def pack(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], context: int) -> Windows:
    """Texts one after another, cut into windows of ``context`` tokens and the one that follows; the rest is left out.

    InputError where they do not fill one window.
    """
    before, after = tokens.start(tokenizer), tokens.end(tokenizer)
    found = np.array([i for ids in tokens.several(tokenizer, texts) for i in (*before, *ids, after)], np.int64)
    count = (len(found) - 1) // context
    if count < 1:
        raise InputError(f"the text has {len(found)} tokens: it must fill at least one context of {context}")
    windows: Windows = found[np.arange(count)[:, None] * context + np.arange(context + 1)]
    return windows


class FoundationTraining(Training):
    """A model built here that learns to continue texts.

    Args:
        config: its shape, and how long and how fast it learns.
        texts: to learn from.
        held: held out; none leaves perplexity out of the curve.
        seed: of weights and order.
        bf16: multiply in bfloat16, which is faster only where the processor can.
        device: where it learns, see `gainnet.models.hub.device`; on a GPU the last bits are not always the same.
        compiled: passes are compiled by torch first (Inductor), which takes a minute and pays in long trainings on a GPU; on
            CPUs in bfloat16 the attention of `gainnet.models.attention`, which is not compiled, does as much.
        tokenizer: trained on the texts where none is given.
        start: a model to go on from, with its own shape and tokenizer, instead of new weights.
        described: text files that tell how the training was begun.
    """

    kind = "foundation"

    def __init__(
        self,
        config: SmallModel,
        texts: Sequence[str],
        held: Sequence[str],
        seed: int,
        *,
        bf16: bool = False,
        device: str = "cpu",
        compiled: bool = False,
        tokenizer: PreTrainedTokenizerFast | None = None,
        start: Language | None = None,
        described: Mapping[str, str] | None = None,
    ) -> None:
        self.steps = config.steps
        self._config, self._seed, self._bf16 = config, seed, bf16
        own = start.tokenizer if start is not None else tokenizer
        self._tokenizer = own or hub.tokenizer(texts, config.vocabulary, config.context)
        self._described = dict(described or {})
        self._windows = pack(self._tokenizer, texts, config.context)
        self._held = pack(self._tokenizer, held, config.context)[:HELD_WINDOWS] if held else None
        self.module: PreTrainedModel = (
            hub.build(config, self._tokenizer, seed).model if start is None else copy.deepcopy(start.model)
        )
        self._device = hub.device(device)
        self._passed: Callable[..., torch.Tensor] = self._mean_loss
        if compiled:
            self._passed = torch.compile(self._mean_loss, dynamic=False)
        self.module.to(self._device)  # type: ignore[arg-type]
        on_cpu = self._device.type == "cpu"
        self._packs = on_cpu and bf16 and not compiled and packs(self.module)
        if on_cpu:
            heap.keep()
        self.module.requires_grad_(True)
        matrices = [weight for weight in self.module.parameters() if weight.dim() > 1]
        vectors = [weight for weight in self.module.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, config.learning_rate, betas=BETAS, fused=True)
        self._epoch: tuple[int, Int[np.ndarray, " window"]] | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the model has; tied ones count once."""
        return sum(weight.numel() for weight in self.module.parameters())

    @property
    def windows(self) -> int:
        """How many windows the texts fill."""
        return len(self._windows)

    def prepare(self, workers: Workers) -> None:
        """See Training: all is there already."""

    def step(self, number: int, workers: Workers) -> Figures:  # noqa: ARG002
        """See Training."""
        rate = self._rate(number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(self._windows[self._drawn(number)])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), GRADIENT_MAX)
        self.optimiser.step()
        self.optimiser.zero_grad()
        figures = {"loss": float(loss.detach()), "learning_rate": rate}
        every = max(1, self.steps // EVALUATIONS)
        if self._held is not None and ((number + 1) % every == 0 or number in (0, self.steps - 1)):
            figures["held_out_perplexity"] = self.perplexity()
        return figures

    def perplexity(self) -> float:
        """Of the held-out windows."""
        assert self._held is not None
        with torch.inference_mode():
            return math.exp(float(np.mean([float(self._loss(window[None])) for window in self._held])))

    def begun(self) -> Mapping[str, str]:
        """See Training: what it was given, and the tokenizer."""
        return self._described | {"tokenizer.json": self._tokenizer.backend_tokenizer.to_str(pretty=True)}

    def learnt(self, notes: Mapping[str, str]) -> Mapping[str, Writer]:  # noqa: ARG002  the format has no place for them
        """See Training: the files of Hugging Face's format."""
        with tempfile.TemporaryDirectory() as folder:
            hub.save(self.language(), Path(folder))
            content = {name: (Path(folder) / name).read_bytes() for name in hub.FILES}
        return {name: _writer(content[name]) for name in content}

    def language(self) -> Language:
        """The model as of now, frozen."""
        return hub.as_language(self.module, self._tokenizer, self._config.context)

    def _rate(self, number: int) -> float:
        """The rate of a step: rising over the first ones, then falling as a cosine to `LOWEST` of the highest."""
        warm = max(1, round(WARM_UP * self.steps))
        if number < warm:
            return self._config.learning_rate * (number + 1) / warm
        part = (number - warm) / max(1, self.steps - 1 - warm)
        return self._config.learning_rate * (LOWEST + (1.0 - LOWEST) * 0.5 * (1.0 + math.cos(math.pi * part)))

    def _drawn(self, number: int) -> list[int]:
        """The windows of a step: each epoch has all of them in an order of its own."""
        drawn, size = [], len(self._windows)
        for place in range(number * self._config.batch, (number + 1) * self._config.batch):
            epoch, within = divmod(place, size)
            if self._epoch is None or self._epoch[0] != epoch:
                self._epoch = epoch, stream(self._seed, f"foundation.epoch{epoch}").permutation(size)
            drawn.append(int(self._epoch[1][within]))
        return drawn

    def _loss(self, windows: Windows) -> torch.Tensor:
        """Mean loss of the windows' tokens but their first (nat)."""
        return self._passed(torch.from_numpy(windows).to(self._device))

    def _mean_loss(self, window: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = {"input_ids": window[:, :-1], "use_cache": False}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            if self._packs:  # for its attention, which is faster there
                lengths = (window.shape[1] - 1,) * len(window)
                given |= {
                    "input_ids": window[:, :-1].reshape(1, -1),
                    "position_ids": positions(lengths),
                    "lengths": lengths,
                }
                with packed(self.module.config):
                    logits = self.module(**given).logits
            else:
                logits = self.module(**given).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


def _writer(content: bytes) -> Writer:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write
