"""The forward pass of a causal language model over a packed batch: one written for Llama's shape, and transformers' own.

The own pass computes layers with the same input as one, keeps weights in the order that oneDNN's matrix products want,
and issues few operations; it makes the same numbers as transformers but for rounding.
"""

from __future__ import annotations

import copy
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gainnet.errors import InputError
from gainnet.inference.batch import Batch, Rows
from gainnet.inference.lora import Mix, Site
from gainnet.models import hub
from gainnet.models.hub import Language

OWN = ("llama", "mistral", "qwen2")
"""Model types that the own pass computes."""
THROUGH = ("gpt2", "olmo2", "qwen3")
"""Model types that go through transformers' modules, tested against `generate`."""
_STATIC = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions that don't depend on how long a text is."""
_INTERFACE = "gainnet_rows"
_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
EXACT_ROWS = 8
"""Up to so many rows none are added: as many texts decode together in small servers."""
WARM_S = 0.5
"""What warming may take: of large models the smaller numbers of rows."""


class Forward(ABC):
    """A model's pass over packed batches.

    Attributes:
        rows: its keys and values.
        sites: where adapters may change it.
    """

    rows: Rows
    sites: Mapping[str, Site]

    @abstractmethod
    def hidden(self, batch: Batch) -> Float[Tensor, "wanted width"]:
        """Last hidden states (after the last norm) of the tokens that are wanted; keys and values of all are kept."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "wanted width"]) -> Float[Tensor, "wanted vocabulary"]:
        """What hidden states say about the next token."""

    def warm(self, rows: int) -> None:  # noqa: B027  most have nothing to do
        """Have made now what is made once for each number of rows, up to this one."""


def forward(language: Language, rows: int) -> Forward:
    """The fastest pass that computes a model.

    InputError where none does: its type is not known to work here, it attends to a window only, or adapters were put
    into its modules.
    """
    config = language.model.config
    kind = config.model_type
    if kind not in (*OWN, *THROUGH):
        raise InputError(f"model type {kind!r} cannot be served: one of {', '.join(sorted((*OWN, *THROUGH)))}")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < language.context:
        raise InputError(f"the model attends to {window} positions only: give a context of at most that")
    if hasattr(language.model, "peft_config"):
        raise InputError(
            "the model has adapters in its modules: give the engine one without, and load adapters into it"
        )
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in _STATIC:
        raise InputError(f"rotary positions {rotary!r} cannot be served: one of {', '.join(_STATIC)}")
    own = kind in OWN and config.hidden_act == "silu"
    return LlamaForward(language, rows) if own else ModuleForward(language, rows)


class Linear:
    """A linear layer, its weights packed for oneDNN where this build of torch can.

    Attributes:
        width: of what it takes.
    """

    def __init__(self, weight: Float[Tensor, "output input"], bias: Float[Tensor, " output"] | None = None) -> None:
        self.width = weight.shape[1]
        self._bias = bias
        self._weight = weight
        self._product: Any = None
        if _HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
            self._product = torch.ops.mkldnn._linear_pointwise

    def __call__(self, given: Float[Tensor, "token input"]) -> Float[Tensor, "token output"]:
        """The product, and the bias."""
        if self._product is None:
            return functional.linear(given, self._weight, self._bias)
        rows = len(given)
        more = rounded(rows) - rows
        if more:
            given = functional.pad(given, (0, 0, 0, more))
        found: Tensor = self._product(given, self._weight, self._bias, "none", [], "")
        return found[:rows] if more else found


def rounded(rows: int) -> int:
    """So many rows, or a few more: one of at most four numbers between powers of two.

    oneDNN makes and keeps machine code for every number of rows that it meets, half a megabyte for each kind of layer:
    without this a node grows by hundreds of megabytes, and takes the time to make it.
    """
    if rows <= EXACT_ROWS:
        return rows
    step = max(4, 1 << ((rows - 1).bit_length() - 3))
    return -(-rows // step) * step


class _Layer:
    """The weights of one decoder layer of Llama's shape."""

    def __init__(self, weight: Mapping[str, Tensor], name: str) -> None:
        def joined(*parts: str) -> Linear:
            names = [f"{name}.{part}" for part in parts]
            bias = [weight[f"{one}.bias"] for one in names if f"{one}.bias" in weight]
            return Linear(torch.cat([weight[f"{one}.weight"] for one in names]), torch.cat(bias) if bias else None)

        self.before = weight[f"{name}.input_layernorm.weight"]
        self.qkv = joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = joined("self_attn.o_proj")
        self.between = weight[f"{name}.post_attention_layernorm.weight"]
        self.gate_up = joined("mlp.gate_proj", "mlp.up_proj")
        self.down = joined("mlp.down_proj")


class LlamaForward(Forward):
    """The own pass."""

    def __init__(self, language: Language, rows: int) -> None:
        config: Any = language.model.config
        weight = {key: tensor.detach() for key, tensor in hub.weights(language.model)}
        self._heads, self._kept = config.num_attention_heads, config.num_key_value_heads
        self._width = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._scale, self._epsilon = self._width**-0.5, config.rms_norm_eps
        self._embedding, self._norm = weight["model.embed_tokens.weight"], weight["model.norm.weight"]
        self._head = Linear(weight["lm_head.weight"])
        names = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers)]
        self._layers = [(name, _Layer(weight, name)) for name in names]
        self.rows = Rows(len(names), rows, language.context, self._kept, self._width)
        self.sites = {key: site for name in names for key, site in self._sites(weight, name).items()}
        self._cosine, self._sine = _rotary(language.model, language.context)

    def _sites(self, weight: Mapping[str, Tensor], name: str) -> dict[str, Site]:
        groups = {
            f"{name}.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            f"{name}.out": ("self_attn.o_proj",),
            f"{name}.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            f"{name}.down": ("mlp.down_proj",),
        }
        shapes = {key: [weight[f"{name}.{part}.weight"].shape for part in parts] for key, parts in groups.items()}
        return {
            key: Site(shapes[key][0][1], tuple((f"{name}.{p}", s[0]) for p, s in zip(parts, shapes[key], strict=True)))
            for key, parts in groups.items()
        }

    def hidden(self, batch: Batch) -> Float[Tensor, "wanted width"]:
        """As of `Forward`."""
        x = self._embedding[batch.token]
        shape, mix = (len(x), -1, self._width), batch.mix
        cosine, sine = self._cosine[batch.position][:, None], self._sine[batch.position][:, None]
        for number, (name, layer) in enumerate(self._layers):
            normed = self._normed(x, layer.before)
            joined = _with(layer.qkv(normed), mix, f"{name}.qkv", normed).view(shape)
            turned, value = joined[:, : -self._kept], joined[:, -self._kept :]
            turned = torch.addcmul(turned * cosine, turned.roll(self._width // 2, -1), sine)
            query, key = turned[:, : self._heads], turned[:, self._heads :]
            seen = self.rows.attend(number, query, key, value, batch, self._scale)
            x += _with(layer.out(seen), mix, f"{name}.out", seen)
            normed = self._normed(x, layer.between)
            both = _with(layer.gate_up(normed), mix, f"{name}.gate_up", normed)
            half = both.shape[1] // 2
            inner = functional.silu(both[:, :half]).mul_(both[:, half:])
            x += _with(layer.down(inner), mix, f"{name}.down", inner)
        return self._normed(x[batch.want], self._norm)

    def logits(self, hidden: Float[Tensor, "wanted width"]) -> Float[Tensor, "wanted vocabulary"]:
        """As of `Forward`."""
        return self._head(hidden)

    def warm(self, rows: int) -> None:
        """As of `Forward`; memory then stays as it is, and nobody waits for it later."""
        layer, until = self._layers[0][1], time.monotonic() + WARM_S
        for number in sorted({rounded(number) for number in range(1, rows + 1)}):
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down, self._head):
                if time.monotonic() > until:
                    return
                linear(self._embedding.new_zeros(number, linear.width))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True).add_(self._epsilon)) * weight


def _with(out: Tensor, mix: Mix | None, site: str, given: Tensor) -> Tensor:
    if mix is not None:
        mix.add(site, given, out)
    return out


def _rotary(model: PreTrainedModel, context: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, the sines with the sign that turning by halves needs."""
    inner: Any = model.base_model
    with torch.no_grad():
        cosine, sine = inner.rotary_emb(torch.zeros(1), torch.arange(context)[None])
    cosine, sine = cosine[0].contiguous(), sine[0].clone()
    sine[:, : sine.shape[1] // 2].neg_()
    return cosine, sine


_running = threading.local()


class _Step:
    """What the attention of transformers' modules needs to know of the batch that is being computed."""

    def __init__(self, rows: Rows, batch: Batch) -> None:
        self.rows, self.batch = rows, batch


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, on one text that is all packed tokens; it masks by rows, not as asked."""
    step: _Step = _running.step
    scale = given.get("scaling")
    packed = [part[0].transpose(0, 1) for part in (query, key, value)]
    layer: int = module.layer_idx  # type: ignore[assignment]
    width = query.shape[-1]
    seen = step.rows.attend(
        layer, packed[0].contiguous(), packed[1], packed[2], step.batch, width**-0.5 if scale is None else scale
    )
    return seen.view(1, len(seen), -1, width), None


class ModuleForward(Forward):
    """transformers' modules, with attention to rows in the place of theirs. The weights are the model's own."""

    def __init__(self, language: Language, rows: int) -> None:
        AttentionInterface.register(_INTERFACE, _attention)
        own: dict[int, Any] = {
            id(tensor): tensor for tensor in (*language.model.parameters(), *language.model.buffers())
        }
        self._model: Any = copy.deepcopy(language.model, own)  # modules of its own, which share all weights
        self._model.config._attn_implementation = _INTERFACE
        config: Any = self._model.config
        heads = config.num_attention_heads
        kept = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.rows = Rows(config.num_hidden_layers, rows, language.context, kept, width)
        self._mix: Mix | None = None
        self._head: nn.Module = self._model.get_output_embeddings()  # type: ignore[no-untyped-call]
        sites = {}
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and module is not self._head:
                outward, inward = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
                sites[name] = Site(inward, ((name, outward),))
                module.register_forward_hook(self._hook(name))
        self.sites = sites

    def _hook(self, site: str) -> Any:
        def changed(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            if self._mix is not None:
                self._mix.add(site, given[0].reshape(-1, given[0].shape[-1]), out.view(-1, out.shape[-1]))

        return changed

    def hidden(self, batch: Batch) -> Float[Tensor, "wanted width"]:
        """As of `Forward`."""
        _running.step, self._mix = _Step(self.rows, batch), batch.mix
        try:
            found = self._model.base_model(
                input_ids=batch.token[None], position_ids=batch.position[None], use_cache=False
            )
        finally:
            _running.step, self._mix = None, None
        states: Tensor = found.last_hidden_state[0]
        return states[batch.want]

    def logits(self, hidden: Float[Tensor, "wanted width"]) -> Float[Tensor, "wanted vocabulary"]:
        """As of `Forward`."""
        found: Tensor = self._head(hidden)
        return found
