"""LoRA adapters (arXiv 2106.09685) of a frozen model through PEFT: many share one base in memory, weights swapped.

On disk an adapter is what plain ``peft.PeftModel.from_pretrained`` loads: adapter_config.json and
adapter_model.safetensors, the latter with the digests of the adapter and of its base in its notes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, TaskType, get_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from transformers.pytorch_utils import Conv1D

from gainnet.errors import InputError
from gainnet.models.changed import Changed
from gainnet.models.hub import PICKLES, Language
from gainnet.models.low_rank import Factors, LowRank

SCALE = 2.0
"""lora_alpha over r, at every rank, so that products of different ranks add."""
MERGED_BYTE_MAX = 2**28
"""Weights of adapted layers up to which a second copy is made for as long as a model is only asked."""
CONFIG, WEIGHTS, NOTES = "adapter_config.json", "adapter_model.safetensors", "gainnet"
_PREFIX = "base_model.model."
_UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "modules_to_save",
    "layers_to_transform",
    "trainable_token_indices",
)


class Adapters:
    """A frozen model with LoRA modules of the given ranks on every linear layer but the head; one rank is active.

    The language's model is changed: what goes through it goes through whatever was `put` last. InputError where PEFT
    adapts no model of its type.

    Attributes:
        language: whose model it is.
        model: PEFT's, around the language's.
        ranks: that are built, rising.
        layers: (output, input) of each adapted layer, by its name in the base model.
    """

    def __init__(self, language: Language, ranks: Iterable[int]) -> None:
        if hasattr(language.model, "peft_config"):
            raise ValueError("this model has adapters already: one Adapters holds all that share it")
        self.language = language
        self.ranks = tuple(sorted(set(ranks)))
        if not self.ranks or self.ranks[0] < 1:
            raise InputError(f"ranks {list(self.ranks)}: at least one, each at least 1")
        targets, transposed = _targets(language)
        configs = {rank: _config(rank, targets, transposed) for rank in self.ranks}
        with warnings.catch_warnings():
            # PEFT still asks transformers by a name that was changed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            try:
                self.model = get_peft_model(language.model, configs[self.ranks[0]], _name(self.ranks[0]))
            except ValueError as error:
                kind, said = language.model.config.model_type, " ".join(str(error).split()).partition(". ")[0]
                raise InputError(f"model type {kind!r} cannot be adapted: {said}") from None
        for rank in self.ranks[1:]:
            self.model.add_adapter(_name(rank), configs[rank])
        self._lora: Any = self.model.base_model
        self._modules: dict[str, Any] = {
            name: module for name, module in language.model.named_modules() if hasattr(module, "lora_A")
        }
        self.layers: dict[str, tuple[int, int]] = {
            name: (module.out_features, module.in_features) for name, module in self._modules.items()
        }
        self._parents: dict[str, Any] = {
            name: language.model.get_submodule(name.rpartition(".")[0]) for name in self._modules
        }
        self.model.eval()
        self._active: int | None = self.ranks[0]
        self.put(None)

    def fresh(self, rank: int, rng: np.random.Generator) -> LowRank:
        """An adapter that changes nothing yet: A uniform as Kaiming's for linear layers, +-1/sqrt(input); B zero."""
        layers = {
            name: Factors(
                rng.uniform(-(inward**-0.5), inward**-0.5, (rank, inward)).astype(np.float32),
                np.zeros((outward, rank), np.float32),
            )
            for name, (outward, inward) in self.layers.items()
        }
        return LowRank(layers, SCALE, self.language.digest)

    def put(self, adapter: LowRank | None) -> None:
        """Make an adapter the one that is active; None is the plain base.

        A rank that is not built is padded with zeros to the next that is, and another scale goes into B: the product
        stays the same.

        InputError where the adapter is of another base, has other layers or shapes, a larger rank than any that is
        built, or values that are no finite numbers.
        """
        if adapter is None:
            if self._active is not None:
                self._lora.disable_adapter_layers()
                self._active = None
            return
        self.check(adapter)
        rank = next(built for built in self.ranks if built >= adapter.rank)
        if self._active is None:
            self._lora.enable_adapter_layers()
        if self._active != rank:
            self.model.set_adapter(_name(rank))
            self._active = rank
        factor = adapter.scale / SCALE
        with torch.no_grad():
            for (down, up), (a, b) in zip(self._tensors().values(), self._moved(adapter), strict=True):
                if len(a) < rank:
                    down.zero_()
                    up.zero_()
                down[: len(a)].copy_(a)
                up[:, : len(a)].copy_(b if factor == 1.0 else b * factor)

    def _moved(self, adapter: LowRank) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A and B of each layer where the model is, moved there in one piece: a GPU must be waited for."""
        numbers, at = torch.from_numpy(adapter.flattened()).to(self.language.device), 0
        found = {}
        for name in sorted(self.layers):
            output, rank, inward = adapter.shapes[name]
            middle, end = at + rank * inward, at + rank * (inward + output)
            found[name] = numbers[at:middle].view(rank, inward), numbers[middle:end].view(rank, output).T
            at = end
        yield from (found[name] for name in self.layers)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Meanwhile the active adapter is part of the weights, and plain layers stand where PEFT's did; then all is as it was.

        So a pass costs what that of the plain model does, and predicts the same but for rounding. Large models, and those
        in half precision, which would lose small changes, stay as they are.
        """
        layers = {name: module.base_layer for name, module in self._modules.items()}
        plain = {name: layer.weight.data for name, layer in layers.items()}
        size = sum(weight.numel() * weight.element_size() for weight in plain.values())
        if size > MERGED_BYTE_MAX or any(weight.dtype != torch.float32 for weight in plain.values()):
            yield
            return
        try:
            for name, (down, up) in self._tensors().items():
                turned = isinstance(layers[name], Conv1D)
                change = (down.T @ up.T if turned else up @ down).mul_(SCALE)
                layers[name].weight.data = change.add_(plain[name])
            with self._standing(layers):
                yield
        finally:
            for name, layer in layers.items():
                layer.weight.data = plain[name]

    @contextmanager
    def fused(self, half: bool = False) -> Iterator[None]:
        """Meanwhile layers that compute base and active adapter in one pass stand where PEFT's did.

        So they learn faster, and what is kept for the way back is less. Layers not in float32 stay as they are.

        Args:
            half: they multiply in bfloat16.
        """
        found: dict[str, torch.nn.Module] = {}
        for name, (down, up) in self.parameters().items():
            base = self._modules[name].base_layer
            if base.weight.dtype == torch.float32:
                weight = base.weight.T if isinstance(base, Conv1D) else base.weight
                found[name] = Changed(weight, base.bias, down, up, SCALE, half)
        with self._standing(found):
            yield

    @contextmanager
    def _standing(self, modules: Mapping[str, torch.nn.Module]) -> Iterator[None]:
        """Meanwhile these stand where PEFT's modules did, by the name of the layer."""
        try:
            for name, module in modules.items():
                setattr(self._parents[name], name.rpartition(".")[2], module)
            yield
        finally:
            for name in modules:
                setattr(self._parents[name], name.rpartition(".")[2], self._modules[name])

    def take(self, rank: int) -> LowRank:
        """A copy of the active adapter, which was put with this rank or a smaller one; it comes in one piece too."""
        if self._active is None or rank > self._active:
            raise ValueError(f"no adapter of rank {rank} is active")
        tensors = self._tensors()
        pairs = [tensors[name] for name in sorted(tensors)]
        if rank < self._active:
            rest = [part.flatten() for down, up in pairs for part in (down[rank:], up[:, rank:])]
            if torch.cat(rest).any():
                raise ValueError(f"the active adapter has a rank above {rank}")
        parts = [part.flatten() for down, up in pairs for part in (down[:rank], up[:, :rank].T)]
        numbers = torch.cat(parts).cpu().numpy()
        shapes = {name: (self.layers[name][0], rank, self.layers[name][1]) for name in tensors}
        return LowRank.of(numbers, shapes, SCALE, self.language.digest)

    def check(self, adapter: LowRank) -> None:
        """InputError where `put` would refuse it."""
        if adapter.base != self.language.digest:
            raise InputError(f"adapter: of the base {adapter.base[:12]}, but the model is {self.language.digest[:12]}")
        if adapter.layers.keys() != self.layers.keys():
            odd = sorted(adapter.layers.keys() ^ self.layers.keys())[0]
            raise InputError(f"adapter: its layers are not the model's: {odd} is in one of them only")
        for name, shape in self.layers.items():
            factors = adapter.layers[name]
            if (len(factors.b), factors.a.shape[1]) != shape or factors.b.shape[1] != factors.rank:
                raise InputError(
                    f"adapter: {name} has factors {factors.b.shape} x {factors.a.shape}: must make {shape}"
                )
            if not (np.isfinite(factors.a).all() and np.isfinite(factors.b).all()):
                raise InputError(f"adapter: {name} has values that are no finite numbers")
        if not 1 <= adapter.rank <= self.ranks[-1]:
            raise InputError(f"adapter: rank {adapter.rank}: must be from 1 to {self.ranks[-1]}")

    def parameters(self) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """A and B of each layer of the active adapter; none where the plain base is active."""
        if self._active is None:
            return {}
        key = _name(self._active)
        return {name: (module.lora_A[key].weight, module.lora_B[key].weight) for name, module in self._modules.items()}

    def _tensors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: (down.detach(), up.detach()) for name, (down, up) in self.parameters().items()}


def save(adapter: LowRank, folder: Path) -> None:
    """Write an adapter; the same adapter gives the same bytes. OSError where that can't be."""
    ranks = {name: factors.rank for name, factors in sorted(adapter.layers.items())}
    odd = {name: rank for name, rank in ranks.items() if rank != adapter.rank}
    config = _config(adapter.rank, list(ranks), transposed=False, scale=adapter.scale)
    config.inference_mode = True
    config.rank_pattern = dict(odd)
    config.alpha_pattern = {name: _alpha(rank, adapter.scale) for name, rank in odd.items()}
    described: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    tree = {key: sorted(value) if isinstance(value, set) else value for key, value in described.items()}
    tensors: dict[str, NDArray[np.float32]] = {}
    for name in ranks:
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(adapter.layers[name].a, np.float32)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(adapter.layers[name].b, np.float32)
    # One entry, since safetensors writes several in any order.
    notes = json.dumps({"base": adapter.base, "digest": adapter.digest(), "scale": adapter.scale}, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / CONFIG, (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode())
    _replace(folder / WEIGHTS, to_bytes(tensors, metadata={NOTES: notes}))


def load(folder: Path, base: str) -> LowRank:
    """The adapter in a folder.

    Args:
        folder: as `save` writes it.
        base: digest of the model that it must be of.

    Raises:
        InputError: there is none, it is pickled, truncated or of another base, its numbers are not what they were, or
            not finite, or its config is not of its weights.
    """
    where = f"adapter {folder}"
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickled:
            raise InputError(f"{where}: {pickled[0]} is pickled code, which is never run: give {WEIGHTS}")
        raise InputError(f"{where}: holds no {WEIGHTS}")
    tensors, notes = _read(where, folder / WEIGHTS)
    if notes.get("base") != base:
        named = str(notes.get("base", "no base"))[:12]
        raise InputError(f"{where}: is of {named}, but the model is {base[:12]}")
    config = _read_config(where, folder / CONFIG)
    layers = _layers(where, tensors, config)
    found = LowRank(layers, float(notes.get("scale", SCALE)), base)
    alpha = float(config["lora_alpha"]) / float(config["r"])
    if abs(alpha - found.scale) > 1e-6 * abs(found.scale):
        raise InputError(f"{where}: {CONFIG} has lora_alpha / r {alpha:g}: must be {found.scale:g}, as in {WEIGHTS}")
    if found.digest() != notes.get("digest"):
        raise InputError(f"{where}: its numbers are not those of its digest: the file is damaged")
    return found


def _read(where: str, path: Path) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as opened:
            notes = json.loads((opened.metadata() or {}).get(NOTES, "{}"))
            return {name: opened.get_tensor(name) for name in opened.keys()}, notes  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or 'cannot be read'}") from None
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{where}: {WEIGHTS} is no complete safetensors file ({error})") from None


def _read_config(where: str, path: Path) -> Mapping[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        kind, rank = config["peft_type"], int(config["r"])
        float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{where}: {CONFIG} is missing or no LoRA config") from None
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if kind != "LORA" or odd or config.get("bias", "none") != "none" or rank < 1:
        raise InputError(f"{where}: {CONFIG} is of {odd[0] if odd else kind}: must be plain LoRA of rank 1 or more")
    return config


def _layers(where: str, tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> dict[str, Factors]:
    """The factors by layer, each of the rank that the config gives it."""
    layers = {}
    for key in tensors:
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")
        a, b = (tensors.get(f"{_PREFIX}{name}.lora_{part}.weight") for part in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2:
            raise InputError(f"{where}: {key} is no lora_A or lora_B of a linear layer with both")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise InputError(f"{where}: {name} has values that are no finite numbers")
        rank = int((config.get("rank_pattern") or {}).get(name, config["r"]))
        if (len(a), b.shape[1]) != (rank, rank):
            raise InputError(f"{where}: {name} has rank {len(a)} and {b.shape[1]}: must be {rank}, as in {CONFIG}")
        layers[name] = Factors(np.asarray(a, np.float32), np.asarray(b, np.float32))
    if not layers:
        raise InputError(f"{where}: {WEIGHTS} holds no layer")
    return layers


def _targets(language: Language) -> tuple[list[str], bool]:
    """Last parts of the names of all linear layers but the head, and whether their weights lie transposed (GPT-2)."""
    head = language.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = {
        name.rpartition(".")[2]: isinstance(module, Conv1D)
        for name, module in language.model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    if not linear:
        raise InputError("the model has no linear layers to adapt")
    return sorted(linear), any(linear.values())


def _config(rank: int, targets: list[str], transposed: bool, scale: float = SCALE) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=_alpha(rank, scale),
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=transposed,
        task_type=TaskType.CAUSAL_LM,
    )


def _alpha(rank: int, scale: float) -> Any:
    """PEFT takes fractions too, whatever its annotation says."""
    alpha = scale * rank
    return int(alpha) if float(alpha).is_integer() else alpha


def _name(rank: int) -> str:
    return f"rank{rank}"


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its name first, so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(content)
    os.replace(temporary, path)
