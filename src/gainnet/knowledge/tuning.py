"""Adapters learn from texts, are judged on them, and answer: the arithmetic of every end, edge and cloud.

One frozen model is in memory; whose adapter is in it changes from call to call. The same generator state and the same
inputs give the same bytes, on one machine with one number of threads; on a GPU they may differ in the last bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gainnet.errors import GainnetError, InputError
from gainnet.knowledge.batch import Batch, alike, collate
from gainnet.knowledge.text import Encoded
from gainnet.models import half, heap
from gainnet.models.adapter import Adapters
from gainnet.models.continuation import Tokens, continued
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank
from gainnet.models.packed import packed, packs

GRADIENT_MAX = 1.0
LOSS_MAX = 4.0
"""A training loss above so many times that of a uniform guess is exploding."""
TOKENS_AT_ONCE = 4096
PROMPT_TOKENS_AT_ONCE = 8192
ATTENTIONS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which plans anew for each length that it meets: 6 ms a call on an H200, twelve calls in a step of six
layers that takes 38 ms without."""
ON_A_GPU = 8
"""So many times as many tokens go through a model at once on a GPU."""


class Diverged(GainnetError):
    """A training's loss is no finite number, or exploded."""


@runtime_checkable
class ExampleNoise(Protocol):
    """DP-SGD (arXiv 1607.00133): each example's gradient is clipped, and Gaussian noise added to their sum."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over ``clip``."""

    @property
    def clip(self) -> float:
        """Largest L2 norm of an example's gradient."""


class Top(NamedTuple):
    """The likeliest next tokens at each position of a text, the last one excepted, likeliest first.

    Attributes:
        value: their log-probabilities (nat).
        token: which they are.
    """

    value: Float[np.ndarray, "position k"]
    token: Int[np.ndarray, "position k"]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a training made.

    Attributes:
        adapter: of the rank that it started with.
        steps: of the optimiser.
        token: that went through the model, padding left out.
        loss: mean over the last epoch (nat a counted token, with that of prompts at its weight; of soft targets, KL
            divergence a position).
    """

    adapter: LowRank
    steps: int
    token: int
    loss: float


class Tuner:
    """Trains, judges and runs adapters of one model.

    Args:
        language: the model, which gets the adapters' modules (see `Adapters`).
        ranks: that are trained.
        bf16: multiply in bfloat16 where it learns and is judged; adapters stay float32.

    Attributes:
        adapters: the model with whichever adapter is in it.
        packs: whether texts go through it one after another in one row, without padding.

    Raises:
        InputError: a model of a type that cannot be adapted.
    """

    def __init__(self, language: Language, ranks: Iterable[int], bf16: bool = False) -> None:
        self.language = language
        self.adapters = Adapters(language, ranks)
        self._pad = int(language.tokenizer.pad_token_id)
        self._end = int(language.tokenizer.eos_token_id)
        self._device = language.device
        self._at_once = ON_A_GPU if language.device.type == "cuda" else 1
        self._body: Any = language.model.base_model
        self._head: Any = language.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._tokens = len(language.tokenizer)
        self._loss_max = LOSS_MAX * float(np.log(self._tokens))
        self._plain_head = self._head_is_plain()
        self.packs = self._plain_head and packs(language.model)
        self._bf16 = bf16
        if bf16:
            half.keep_few()
        if self._device.type == "cpu":
            heap.keep()

    def tune(
        self,
        start: LowRank,
        texts: Sequence[Encoded],
        *,
        epochs: int,
        batch: int,
        learning_rate: float,
        rng: np.random.Generator,
        factors: Literal["ab", "b"] = "ab",
        private: ExampleNoise | None = None,
        soft: Sequence[Top] | None = None,
        prompt_weight: float = 0.0,
    ) -> Tuned:
        """Train an adapter with AdamW (no decay), fresh moments and a constant rate, on batches in random order.

        Args:
            start: is left as it is.
            texts: those that count no token are left out.
            epochs: how often each text is seen; under DP, in expectation.
            batch: texts a step; under DP each text is in it with probability batch / texts (Poisson sampling).
            learning_rate: of AdamW.
            rng: order, and under DP samples and noise.
            factors: ``b`` leaves A as it is (FFA-LoRA).
            private: DP-SGD, each example's loss being the mean over its counted tokens. What it spends is that of
                ``steps`` steps of the Gaussian mechanism at that sampling rate; the loss returned is not private.
            soft: for each text, what a teacher predicts at its positions (see `top`): the loss is the KL divergence
                of the prediction from the teacher's, as far as the tokens go that it names.
            prompt_weight: of the mean loss of the tokens before answers, beside that of the answers' (arXiv 2405.14394);
                not with ``private`` or ``soft``.

        Raises:
            Diverged: the loss or the weights are no finite numbers, or the loss is exploding.
            InputError: nothing to learn from, or the adapter is none of this model.
        """
        kept = [index for index, text in enumerate(texts) if text.counted]
        if not kept:
            raise InputError("there is nothing to learn from: no text has a token that counts")
        chosen = [texts[index] for index in kept]
        taught = None if soft is None else [soft[index] for index in kept]
        with self._learning(start, factors, fused=private is None) as weights:
            optimiser = torch.optim.AdamW(weights, learning_rate, weight_decay=0.0, fused=True)
            if private is None:
                steps, token, loss = self._descend(
                    chosen, taught, weights, optimiser, epochs, batch, rng, prompt_weight
                )
            else:
                if start.rank not in self.adapters.ranks:
                    raise InputError(
                        f"rank {start.rank}: under DP one of {list(self.adapters.ranks)}: padding has noise"
                    )
                steps, token, loss = self._descend_private(chosen, optimiser, epochs, batch, rng, private)
            if not all(bool(torch.isfinite(weight).all()) for weight in weights):
                raise Diverged(f"training diverged: after step {steps} its weights are no finite numbers")
            return Tuned(self.adapters.take(start.rank), steps, token, loss)

    def losses(
        self, adapter: LowRank | None, texts: Sequence[Encoded]
    ) -> tuple[Float[np.ndarray, " text"], Int[np.ndarray, " text"]]:
        """Summed loss (nat) and counted tokens of each text; None is the plain base."""
        nat, counted = np.zeros(len(texts)), np.array([text.counted for text in texts], np.int64)
        self.adapters.put(adapter)
        with self.adapters.merged(), torch.inference_mode():
            for group in alike([len(text.token) for text in texts], self._at_once * TOKENS_AT_ONCE):
                batch = collate([texts[index] for index in group], self._device)
                each = functional.cross_entropy(self._logits(batch), batch.target, reduction="none").double().cpu()
                nat[group] = torch.zeros(len(group), dtype=torch.float64).index_add(0, batch.row.cpu(), each).numpy()
        return nat, counted

    def answer(self, adapter: LowRank | None, prompts: Sequence[Tokens], token_max: int) -> list[Tokens]:
        """The likeliest continuation, token by token, of each prompt, until <eos> (left out) or ``token_max``.

        A prompt and its answer take at most the model's context. InputError where a prompt leaves no room.
        """
        made = self._generated(adapter, prompts, token_max, lambda logits: logits.argmax(-1))
        return [token[: -1 if len(token) and token[-1] == self._end else None] for token in made]

    def sample(
        self,
        adapter: LowRank | None,
        prompts: Sequence[Tokens],
        token_max: int,
        temperature: float,
        rng: np.random.Generator,
    ) -> list[Tokens]:
        """A random continuation of each prompt, as `answer`, but with <eos> where it came to that."""
        if temperature <= 0.0:
            raise InputError(f"temperature {temperature}: must be above 0")
        generator = torch.Generator(self._device).manual_seed(int(rng.integers(2**63)))

        def draw(logits: torch.Tensor) -> torch.Tensor:
            return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]

        return self._generated(adapter, prompts, token_max, draw)

    def top(self, adapter: LowRank | None, texts: Sequence[Encoded], k: int) -> list[Top]:
        """What the model expects after each position of each text, the last one excepted: the k likeliest tokens."""
        found: list[Top] = [Top(np.zeros((0, k), np.float32), np.zeros((0, k), np.int64))] * len(texts)
        self.adapters.put(adapter)
        with self.adapters.merged(), torch.inference_mode():
            for group in alike([len(text.token) for text in texts], self._at_once * TOKENS_AT_ONCE):
                whole = [Encoded(texts[index].token, 1) for index in group]
                batch = collate(whole, self._device)
                value, index = self._known(self._logits(batch)).log_softmax(-1).topk(k, -1)
                ends = np.cumsum([text.counted for text in whole])[:-1]
                parts = zip(np.split(value.cpu().numpy(), ends), np.split(index.cpu().numpy(), ends), strict=True)
                for place, (values, indices) in zip(group, parts, strict=True):
                    found[place] = Top(values, indices)
        return found

    @contextmanager
    def multiplying(self) -> Iterator[None]:
        """Meanwhile what the model multiplies is in bfloat16, if it was asked for, and it attends by one of `ATTENTIONS`."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16), sdpa_kernel(ATTENTIONS):
            yield

    @contextmanager
    def _learning(
        self, start: LowRank, factors: Literal["ab", "b"], fused: bool = True
    ) -> Iterator[list[torch.nn.Parameter]]:
        """The adapter is in the model, the factors yielded can learn; afterwards all is as it was.

        What is not ``fused`` runs PEFT's own layers, as Opacus needs it.
        """
        self.adapters.put(start)
        pairs = self.adapters.parameters().values()
        for down, up in pairs:
            down.requires_grad_(factors == "ab")
            up.requires_grad_(True)
        try:
            with self.adapters.fused(self._bf16) if fused else nullcontext():
                yield [weight for pair in pairs for weight in pair if weight.requires_grad]
        finally:
            for pair in pairs:
                for weight in pair:
                    weight.grad = None
                    weight.requires_grad_(True)

    def _descend(
        self,
        texts: Sequence[Encoded],
        soft: Sequence[Top] | None,
        weights: list[torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
        epochs: int,
        size: int,
        rng: np.random.Generator,
        prompt_weight: float,
    ) -> tuple[int, int, float]:
        """Steps, tokens, and mean loss of the last epoch."""
        steps, token, mean = 0, 0, float("nan")
        for _ in range(epochs):
            order, total, counted = rng.permutation(len(texts)), 0.0, 0
            for first in range(0, len(order), size):
                drawn = order[first : first + size].tolist()
                batch = collate([texts[index] for index in drawn], self._device, prompt_weight)
                logits = self._logits(batch)
                if soft is None:
                    loss = batch.loss(logits)
                else:
                    loss = divergence(logits, [texts[index] for index in drawn], [soft[index] for index in drawn])
                now = float(loss.detach())
                self._check(now, steps)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(weights, GRADIENT_MAX)
                optimiser.step()
                optimiser.zero_grad()
                steps += 1
                token += sum(len(texts[index].token) for index in drawn)
                total += now * batch.answers
                counted += batch.answers
            mean = total / counted
        return steps, token, mean

    def _descend_private(
        self,
        texts: Sequence[Encoded],
        optimiser: torch.optim.Optimizer,
        epochs: int,
        size: int,
        rng: np.random.Generator,
        private: ExampleNoise,
    ) -> tuple[int, int, float]:
        """As `_descend`, with Opacus's gradient of each example, clipping and noise."""
        from opacus.grad_sample.grad_sample_module import GradSampleHooks  # type: ignore[import-untyped]
        from opacus.optimizers import DPOptimizer  # type: ignore[import-untyped]

        rate, token, losses = min(1.0, size / len(texts)), 0, []
        steps = epochs * -(-len(texts) // size)
        noisy = DPOptimizer(
            optimiser,
            noise_multiplier=private.noise_multiplier,
            max_grad_norm=private.clip,
            expected_batch_size=max(1, round(rate * len(texts))),
            generator=torch.Generator(self._device).manual_seed(int(rng.integers(2**63))),
        )
        before = [weight.detach().clone() for weight in noisy.params]
        with self._watched(GradSampleHooks):
            for step in range(steps):
                drawn = np.flatnonzero(rng.random(len(texts)) < rate).tolist()
                if drawn:
                    batch = collate([texts[index] for index in drawn], self._device)
                    loss = self._mean_of_examples(batch)
                    self._check(float(loss.detach()), step)
                    loss.backward()  # type: ignore[no-untyped-call]
                    token += sum(batch.lengths)
                    losses.append(float(loss.detach()))
                else:  # an empty sample still gets its noise
                    for weight in noisy.params:
                        weight.grad_sample = torch.zeros((0, *weight.shape), device=self._device)
                noisy.step()
                noisy.zero_grad(set_to_none=True)
        moved = any(not torch.equal(weight, old) for weight, old in zip(noisy.params, before, strict=True))
        assert moved or not steps, "Opacus's steps reached no weight"  # opacus #820: weights apart from those that run
        return steps, token, float(np.mean(losses[-(steps // max(epochs, 1)) :])) if losses else float("nan")

    @contextmanager
    def _watched(self, hooks: Any) -> Iterator[None]:
        """Opacus's hooks are on the factors that learn, and off afterwards."""
        model: Any = self.adapters.model
        factors = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.weight.requires_grad]
        for module in factors:
            module.train()  # the hooks look at nothing else; a linear layer computes the same
        watching = hooks(model, loss_reduction="mean")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                yield
        finally:
            watching.cleanup()
            for module in factors:
                module.eval()
                for weight in module.parameters():
                    for left in ("summed_grad", "grad_sample", "_forward_counter"):
                        weight.__dict__.pop(left, None)

    def _mean_of_examples(self, batch: Batch) -> torch.Tensor:
        """Mean over texts of the mean loss of their counted tokens; Opacus wants a row for each text."""
        each = functional.cross_entropy(self._logits(batch, packs=False), batch.target, reduction="none")
        texts = len(batch.lengths)
        count = torch.bincount(batch.row, minlength=texts).to(each.dtype)
        return (each.new_zeros(texts).index_add(0, batch.row, each) / count).mean()

    def _check(self, loss: float, steps: int) -> None:
        if not loss <= self._loss_max:
            raise Diverged(f"training diverged: loss {loss:.4g} in step {steps + 1}: at most {self._loss_max:.4g}")

    def _logits(self, batch: Batch, packs: bool = True) -> torch.Tensor:
        """(counted token, vocabulary): the head runs only where a token counts."""
        with self.multiplying():
            if self.packs and packs:
                with packed(self.language.model.config):
                    hidden = self._body(
                        input_ids=batch.token[None],
                        position_ids=batch.position[None],
                        use_cache=False,
                        lengths=batch.lengths,
                    ).last_hidden_state
                return self._head(hidden[0, batch.at]).float()  # type: ignore[no-any-return]
            token, mask = batch.rectangle(self._pad)
            given = {"input_ids": token, "attention_mask": mask, "use_cache": False}
            place = batch.row, batch.position[batch.at]
            if self._plain_head:
                return self._head(self._body(**given).last_hidden_state[place]).float()  # type: ignore[no-any-return]
            return self.language.model(**given).logits[place].float()  # type: ignore[no-any-return]

    def _head_is_plain(self) -> bool:
        """Whether logits are the head's output as it is: some models scale or cap it."""
        token = torch.arange(min(8, self._tokens), device=self._device)[None]
        with torch.inference_mode():
            hidden = getattr(self._body(input_ids=token, use_cache=False), "last_hidden_state", None)
            if hidden is None:
                kind = self.language.model.config.model_type
                raise InputError(f"model type {kind!r} cannot be adapted: it has no body apart from its head")
            return torch.allclose(self._head(hidden), self.language.model(token, use_cache=False).logits)

    def _generated(
        self,
        adapter: LowRank | None,
        prompts: Sequence[Tokens],
        token_max: int,
        choose: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[Tokens]:
        """Continuations, with <eos> where they came to that."""
        found: list[Tokens] = [np.zeros(0, np.int64)] * len(prompts)
        room = [min(token_max, self.language.context - len(prompt)) for prompt in prompts]
        for prompt, left in zip(prompts, room, strict=True):
            if not len(prompt) or left < 1:
                raise InputError(f"a prompt of {len(prompt)} tokens: from 1 to {self.language.context - 1} leave room")
        self.adapters.put(adapter)
        with self.adapters.merged(), torch.inference_mode():
            for group in alike([len(prompt) + token_max for prompt in prompts], self._at_once * PROMPT_TOKENS_AT_ONCE):
                made = continued(
                    self.language.model,
                    self._next,
                    [prompts[index] for index in group],
                    [room[index] for index in group],
                    lambda logits: choose(self._known(logits)),
                    pad=self._pad,
                    end=self._end,
                )
                for index, token in zip(group, made, strict=True):
                    found[index] = token
        return found

    def _known(self, logits: torch.Tensor) -> torch.Tensor:
        """Those of the tokenizer's tokens: some models have rows beyond, which stand for nothing."""
        return logits if logits.shape[-1] == self._tokens else logits[..., : self._tokens]

    def _next(self, **given: Any) -> torch.Tensor:
        """Logits after the last position of each row."""
        if self._plain_head:
            return self._head(self._body(**given, use_cache=True).last_hidden_state[:, -1])  # type: ignore[no-any-return]
        return self.language.model(**given, use_cache=True).logits[:, -1]  # type: ignore[no-any-return]


def divergence(logits: torch.Tensor, texts: Sequence[Encoded], soft: Sequence[Top]) -> torch.Tensor:
    """Mean KL divergence (nat) of predictions from a teacher's, over the tokens that it names, at counted positions.

    Args:
        logits: (counted token, vocabulary), text by text.
        texts: what is predicted.
        soft: what the teacher predicts.
    """
    parts = [slice(text.answer - 1, text.answer - 1 + text.counted) for text in texts]
    value = torch.from_numpy(np.concatenate([top.value[part] for top, part in zip(soft, parts, strict=True)]))
    index = torch.from_numpy(np.concatenate([top.token[part] for top, part in zip(soft, parts, strict=True)]))
    taught = value.to(logits.device).log_softmax(-1)
    learnt = logits.log_softmax(-1).gather(1, index.to(logits.device))
    return (taught.exp() * (taught - learnt)).sum(-1).mean()
