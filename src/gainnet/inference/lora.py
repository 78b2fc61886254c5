"""Different LoRA adapters in one batch: the factors of all that take part stand in one matrix, and a mask picks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gainnet.errors import InputError
from gainnet.models.low_rank import LowRank

_STACKS_MAX = 4


@dataclass(frozen=True, slots=True)
class Site:
    """Linear layers that are computed as one, since they have the same input.

    Attributes:
        inward: width of the input.
        parts: name of each layer and width of its output, in order.
    """

    inward: int
    parts: tuple[tuple[str, int], ...]


@dataclass(slots=True, eq=False)
class Resident:
    """One version of an adapter, ready to be used.

    Attributes:
        name: by which requests ask for it.
        digest: what it is: equal digests, equal answers.
        factors: at each site that it changes: down (rank, input), and up (rank, output) with the scale in it.
        pins: requests and sessions that hold it.
    """

    name: str
    digest: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    pins: int = field(default=0)


def resident(name: str, adapter: LowRank, sites: Mapping[str, Site], base: str) -> Resident:
    """Make an adapter ready.

    Raises:
        InputError: it is of another base, changes layers that the model lacks, has other shapes, or values that are no
            finite numbers.
    """
    if adapter.base != base:
        raise InputError(f"adapter {name}: of the base {adapter.base[:12]}, but the model is {base[:12]}")
    known = {part for site in sites.values() for part, _ in site.parts}
    odd = sorted(adapter.layers.keys() - known)
    if odd or not adapter.layers:
        raise InputError(f"adapter {name}: " + (f"the model has no layer {odd[0]}" if odd else "has no layers"))
    factors = {}
    for key, site in sites.items():
        pair = _at(name, adapter, site)
        if pair is not None:
            factors[key] = pair
    return Resident(name, adapter.digest(), factors)


def _at(name: str, adapter: LowRank, site: Site) -> tuple[Tensor, Tensor] | None:
    """Its factors at a site: below one another, each with outputs of its own layer only."""
    present = [part for part, _ in site.parts if part in adapter.layers]
    if not present:
        return None
    rank = sum(adapter.layers[part].rank for part in present)
    down = np.zeros((rank, site.inward), np.float32)
    up = np.zeros((rank, sum(width for _, width in site.parts)), np.float32)
    above, left = 0, 0
    for part, width in site.parts:
        if part in adapter.layers:
            one = adapter.layers[part]
            if one.a.shape[1:] != (site.inward,) or one.b.shape != (width, one.rank):
                raise InputError(
                    f"adapter {name}: {part} has factors {one.b.shape} x {one.a.shape}: must make {(width, site.inward)}"
                )
            if not (np.isfinite(one.a).all() and np.isfinite(one.b).all()):
                raise InputError(f"adapter {name}: {part} has values that are no finite numbers")
            down[above : above + one.rank] = one.a
            up[above : above + one.rank, left : left + width] = adapter.scale * one.b.T
            above += one.rank
        left += width
    return torch.from_numpy(down), torch.from_numpy(up)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Factors of several adapters at one site, and whose each rank is."""

    down: Tensor
    up: Tensor
    owners: tuple[int, ...]


class Stacks:
    """Factors of adapters that run together, kept for the last few such sets."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], dict[str, _Stack]] = OrderedDict()

    def mix(self, residents: Sequence[Resident | None], sizes: Sequence[int]) -> Mix | None:
        """What packed tokens need: of each segment its adapter, and how many tokens it has. None where nobody has one."""
        distinct = {one.digest: one for one in residents if one is not None}
        if not distinct:
            return None
        digests = tuple(sorted(distinct))
        stacks = self._kept.get(digests)
        if stacks is None:
            stacks = self._kept[digests] = _stacked([distinct[digest] for digest in digests])
            if len(self._kept) > _STACKS_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(digests)
        number = {digest: index for index, digest in enumerate(digests)}
        whose = np.repeat([-1 if one is None else number[one.digest] for one in residents], sizes)
        return Mix(stacks, whose)

    def forget(self, digest: str) -> None:
        """Keep nothing of an adapter."""
        for digests in [digests for digests in self._kept if digest in digests]:
            del self._kept[digests]


def _stacked(residents: Sequence[Resident]) -> dict[str, _Stack]:
    found = {}
    for key in dict.fromkeys(key for one in residents for key in one.factors):
        pairs = [(index, one.factors[key]) for index, one in enumerate(residents) if key in one.factors]
        owners = tuple(index for index, (down, _) in pairs for _ in range(len(down)))
        # Transposed and contiguous as the products need them.
        down = torch.cat([down for _, (down, _) in pairs]).T.contiguous()
        found[key] = _Stack(down, torch.cat([up for _, (_, up) in pairs]), owners)
    return found


class Mix:
    """The adapters of one batch."""

    def __init__(self, stacks: Mapping[str, _Stack], whose: np.ndarray) -> None:
        self._stacks, self._whose = stacks, whose
        self._masks: dict[tuple[int, ...], Tensor | None] = {}

    def add(self, site: str, given: Float[Tensor, "token input"], out: Float[Tensor, "token output"]) -> None:
        """Add to a site's output what each token's adapter changes of it."""
        stack = self._stacks.get(site)
        if stack is None:
            return
        inner = given @ stack.down
        mask = self._mask(stack.owners)
        if mask is not None:
            inner *= mask
        out.addmm_(inner, stack.up)

    def _mask(self, owners: tuple[int, ...]) -> Tensor | None:
        if owners not in self._masks:
            same = self._whose[:, None] == np.array(owners)
            self._masks[owners] = None if same.all() else torch.from_numpy(same.astype(np.float32))
        return self._masks[owners]
