"""A causal language model run as parts that lie between its layers, each on a machine of its own.

Cut at ``(a,)`` it has two parts: embedding and layers ``[0, a)``; the other layers, the last norm and the head. Cut at
``(a, b)`` it has three (U-shaped split learning, arXiv 1812.00564): an end has the first and the last, and an edge
layers ``[a, b)`` between them, so that neither texts nor labels leave the end. What crosses a cut is the activation, and
on the way back its gradient: each part differentiates by itself, and holds nothing of the graphs of others.

The parts share modules with the model they were cut from (weights are in memory once), so adapters that PEFT puts into
its layers, before or after the cut, act in the parts too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int, Integer
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from gainnet.errors import InputError
from gainnet.models.packed import packed

TYPES = ("gpt2", "llama", "mistral", "olmo2", "qwen2", "qwen3")
"""Model types whose parts are tested against the whole. Others may scale embeddings or logits where a cut would miss it."""
LAYERS = ("layers", "h")
NORMS = ("norm", "ln_f")


class PartCache(DynamicCache):
    """Keys and values of one part's layers, which are numbered within the whole model."""

    def __init__(self, config: Any, first: int) -> None:
        super().__init__(config=config)
        self._first = first

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends the keys and values of a layer and gives all it has of that layer."""
        joined: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx - self._first, *args, **kwargs
        )
        return joined


class _NoPositions(nn.Module):
    """Learned positions of a part that is not the first: they are in its input already, so it adds zeros."""

    def forward(self, position: Tensor) -> Tensor:
        return torch.zeros((*position.shape, 1), device=position.device)


@dataclass(frozen=True, slots=True)
class Passed:
    """One forward pass of one part.

    Attributes:
        output: what it sends on, outside any graph: activations, or the last part's logits.
    """

    output: Float[Tensor, "*row width"]
    _input: Tensor | None
    _kept: Tensor

    def backward(self, gradient: Float[Tensor, "*row width"]) -> Float[Tensor, "text position input"] | None:
        """Takes the gradient of `output`, adds to those of the part's parameters and gives that of the part's input.

        The graph is freed: a pass goes back once. The first part, whose input are tokens, gives None.
        """
        if self._kept.requires_grad:
            torch.autograd.backward(self._kept, gradient)
        return None if self._input is None else self._input.grad


ONLY_FIRST: dict[str, Callable[[], nn.Module]] = {"wpe": _NoPositions, "drop": nn.Identity}
"""What acts between embedding and layers, and what stands in its place in later parts."""


class Part:
    """Layers of a model in a row; with the embedding before them in the first part, with norm and head in the last.

    Attributes:
        first: number of its first layer.
        stop: number of the layer after its last.
        starts: its input are tokens.
        ends: its output are logits.
    """

    def __init__(self, model: PreTrainedModel, first: int, stop: int, starts: bool, ends: bool) -> None:
        inner: Any = model.base_model
        names, self._head = _names(model), _head(model) if ends else None
        self.first, self.stop, self.starts, self.ends = first, stop, starts, ends
        self._inner = copy.copy(inner)
        self._config = inner.config  # by which its layers attend
        self._inner.config = _between(inner.config, first, stop)
        modules = dict(inner._modules)
        modules[names.layers] = nn.ModuleList(list(getattr(inner, names.layers))[first:stop])
        if not ends:
            modules[names.norm] = nn.Identity()
        if not starts:
            modules |= {names.embedding: nn.Identity()}
            modules |= {name: kind() for name, kind in ONLY_FIRST.items() if name in modules}
        self._inner.__dict__["_modules"] = modules

    def parameters(self) -> Iterator[nn.Parameter]:
        """What it trains, each once, in the order of the model."""
        seen: set[int] = set()
        for module in (self._inner, self._head):
            for parameter in () if module is None else module.parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def cache(self) -> PartCache:
        """An empty cache for its layers."""
        return PartCache(self._inner.config, self.first)

    def run(
        self,
        given: Int[Tensor, "text position"] | Float[Tensor, "text position width"],
        mask: Integer[Tensor, "text seen"] | Bool[Tensor, "text seen"] | None = None,
        position: Int[Tensor, "text position"] | Int[Tensor, "1 position"] | None = None,
        cache: PartCache | None = None,
        keep: Bool[Tensor, "text position"] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Passed:
        """Runs it forward, under the caller's grad mode.

        Args:
            given: tokens for the first part, else the activations that the part before sent.
            mask: 0 where there is padding, for all positions so far; None: none is.
            position: number of each position; by default they count on from what the cache holds.
            cache: keys and values of positions before these, which are added to it.
            keep: the positions whose logits are wanted (the last part; then its output is "kept vocabulary").
            lengths: of texts that stand one after another in the one row given, each attending to itself only; their
                positions are ``position``.
        """
        if position is None:
            past = 0 if cache is None else cache.get_seq_length()
            position = torch.arange(past, past + given.shape[1], device=given.device)[None]
        source = None if self.starts else given.detach().requires_grad_(torch.is_grad_enabled())
        layers = self.stop > self.first
        with nullcontext() if lengths is None else packed(self._inner.config, self._config):
            output = self._inner(
                **({"input_ids": given} if source is None else {"inputs_embeds": source}),
                attention_mask=mask if layers else None,
                position_ids=position,
                cache=cache if layers else None,
                use_cache=cache is not None and layers,
                **({} if lengths is None else {"lengths": lengths}),
            ).last_hidden_state
        if self._head is not None:
            output = self._head(output if keep is None else output[keep])
        return Passed(output.detach(), source, output)


def uncut(model: PreTrainedModel) -> str:
    """Why a model cannot be cut, in one line; empty where its parts are known to equal the whole."""
    kind = model.config.model_type
    return "" if kind in TYPES else f"model type {kind!r} cannot be cut: one of {', '.join(TYPES)}"


class Cut:
    """A causal language model (or PEFT's wrapping of one) as parts.

    Attributes:
        parts: in their order; their layers are those of the model.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, at: tuple[int, ...]) -> None:
        """Cuts before the layers `at`: one or two numbers that rise, from 0 to the number of layers.

        Raises:
            InputError: a place that is none, or a model of a type whose parts are not known to equal the whole.
        """
        whole = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
        count = whole.config.num_hidden_layers
        if why := uncut(whole):
            raise InputError(why)
        if len(at) not in (1, 2) or list(at) != sorted(set(at)) or not all(0 <= layer <= count for layer in at):
            raise InputError(f"cut at {at}: give one or two rising numbers of layers, from 0 to {count}")
        places = (0, *at, count)
        last = len(at)
        self.parts = tuple(
            Part(whole, first, stop, starts=index == 0, ends=index == last)
            for index, (first, stop) in enumerate(pairwise(places))
        )

    def caches(self) -> tuple[PartCache, ...]:
        """Empty caches, one for each part."""
        return tuple(part.cache() for part in self.parts)

    @torch.no_grad()
    def logits(
        self,
        token: Int[Tensor, "text position"],
        mask: Integer[Tensor, "text seen"] | Bool[Tensor, "text seen"] | None = None,
        position: Int[Tensor, "text position"] | Int[Tensor, "1 position"] | None = None,
        caches: Sequence[PartCache] | None = None,
    ) -> Float[Tensor, "text position vocabulary"]:
        """What the whole answers, part after part; with caches, for the positions after those they hold."""
        if position is None:
            past = 0 if caches is None else max(cache.get_seq_length() for cache in caches)
            position = torch.arange(past, past + token.shape[1], device=token.device)[None]
        value = token
        for part, cache in zip(self.parts, caches or repeat(None, len(self.parts)), strict=True):
            value = part.run(value, mask, position, cache).output
        return value


@dataclass(frozen=True, slots=True)
class _Names:
    layers: str
    norm: str
    embedding: str


def _head(model: PreTrainedModel) -> nn.Module:
    return cast(nn.Module, model.get_output_embeddings())  # type: ignore[no-untyped-call]  # transformers leaves it bare


def _names(model: PreTrainedModel) -> _Names:
    """What a model calls its decoder layers, its last norm and its embedding of tokens."""
    inner: Any = model.base_model
    table = inner.get_input_embeddings()
    return _Names(
        layers=next(name for name in LAYERS if name in inner._modules),
        norm=next(name for name in NORMS if name in inner._modules),
        embedding=next(name for name, module in inner.named_children() if module is table),
    )


def _between(config: PreTrainedConfig, first: int, stop: int) -> PreTrainedConfig:
    """The configuration of layers [first, stop): it says how each attends, and which cache each needs."""
    part = copy.deepcopy(config)
    types = getattr(config, "layer_types", None)
    part.num_hidden_layers = stop - first
    if types is not None:
        part.layer_types = types[first:stop]
    return part
