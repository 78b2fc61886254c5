"""Low-rank adapters as plain arrays: what is sent, aggregated, judged and stored, without torch.

An adapter changes the weight of each of its layers by ``scale * b @ a`` (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Factors:
    """One layer's change of weight, without the scale: ``b @ a``.

    Attributes:
        a: the projection down, drawn at random at first.
        b: the projection up, zero at first.
    """

    a: Float[np.ndarray, "rank input"]
    b: Float[np.ndarray, "output rank"]

    @property
    def rank(self) -> int:
        """Its rank, at most."""
        return len(self.a)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LowRank:
    """An adapter of a base model: a value, whose arrays nobody writes to. Equal ones have one `digest`.

    Attributes:
        layers: factors (float32) by the name of the module they change, as the base model names it
            (``model.layers.0.self_attn.q_proj``).
        scale: PEFT's ``lora_alpha / r``.
        base: digest of the base model's weights (see `gainnet.models.hub.digest`).
    """

    layers: Mapping[str, Factors]
    scale: float
    base: str
    _digest: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _shapes: list[dict[str, tuple[int, int, int]]] = field(default_factory=list, init=False, repr=False, compare=False)
    _flat: list[Float[np.ndarray, " number"]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Output, rank and input of each layer, computed once."""
        if not self._shapes:
            self._shapes.append({name: (len(f.b), *f.a.shape) for name, f in self.layers.items()})
        return self._shapes[0]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(rank for _, rank, _ in self.shapes.values())

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return sum(rank * (outward + inward) for outward, rank, inward in self.shapes.values())

    def halved(self, factors: Literal["ab", "b"] = "ab") -> LowRank:
        """As 16 bits a number carry it (IEEE half precision): both factors or, where a stays where it is, b alone."""
        layers = {name: Factors(_half(f.a) if factors == "ab" else f.a, _half(f.b)) for name, f in self.layers.items()}
        return replace(self, layers=layers)

    def product(self, layer: str) -> Float[np.ndarray, "output input"]:
        """The change of a layer's weight, scale included."""
        factors = self.layers[layer]
        return np.asarray(self.scale * (factors.b @ factors.a))

    def flat(self) -> Float[np.ndarray, " number"]:
        """All its numbers (float32) in one piece: rows of a, then columns of b, of each layer, layers by name.

        Computed once and kept, so it is for adapters that many start from; nobody writes to it.
        """
        if not self._flat:
            self._flat.append(self.flattened())
        return self._flat[0]

    def made_of(self, numbers: Float[np.ndarray, " number"]) -> LowRank:
        """Itself, told that its factors are views of these numbers, in the order of `flat`."""
        self._flat[:] = [numbers]
        return self

    def flattened(self) -> Float[np.ndarray, " number"]:
        """What `flat` says, as an array of the caller's own."""
        found, at = np.empty(self.numbers, np.float32), 0
        for name in sorted(self.layers):
            factors = self.layers[name]
            for part in (factors.a, factors.b.T):
                found[at : at + part.size].reshape(part.shape)[...] = part
                at += part.size
        return found

    def digest(self) -> str:
        """SHA-256 of everything it is: equal adapters have equal digests, whatever order their layers are in.

        Computed once.
        """
        if self._digest:
            return self._digest[0]
        found = hashlib.sha256(f"{self.base} {self.scale!r}".encode())
        for name in sorted(self.layers):
            factors = self.layers[name]
            found.update(f"{name} {factors.a.shape} {factors.b.shape}".encode())
            found.update(np.ascontiguousarray(factors.a, np.float32).data)
            found.update(np.ascontiguousarray(factors.b, np.float32).data)
        self._digest.append(found.hexdigest())
        return self._digest[0]


def _half(part: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    return part.astype(np.float16).astype(np.float32)
