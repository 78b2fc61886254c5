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

from gainnet.models import low_rank_kernel as kernel


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
        numbers = self.flattened()
        kernel.halve(numbers, numbers.view(np.uint32))
        found = LowRank.of(numbers, self.shapes, self.scale, self.base)
        if factors == "ab":
            return found
        return replace(self, layers={name: Factors(f.a, found.layers[name].b) for name, f in self.layers.items()})

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

    @classmethod
    def of(
        cls, numbers: Float[np.ndarray, " number"], shapes: Mapping[str, tuple[int, int, int]], scale: float, base: str
    ) -> LowRank:
        """An adapter of these shapes, as in `shapes`, whose factors are views of these numbers, in the order of `flat`."""
        found, at = {}, 0
        for name in sorted(shapes):
            outward, rank, inward = shapes[name]
            middle, end = at + rank * inward, at + rank * (inward + outward)
            found[name] = Factors(
                numbers[at:middle].reshape(rank, inward), numbers[middle:end].reshape(rank, outward).T
            )
            at = end
        made = cls({name: found[name] for name in shapes}, scale, base)
        made._flat.append(numbers)
        made._shapes.append(dict(shapes))
        return made

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
