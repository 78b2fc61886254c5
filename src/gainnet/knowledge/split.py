"""Split training: an end keeps the first and the last layers, and its edge trains those between.

Neither texts nor labels are sent (U-shaped, arXiv 1812.00564; with LoRA in all parts, 2407.00952 and 2505.02795). That hides
them from the link, not from an edge that wants to know: it has the model's weights, and the gradient that it gets tells the
labels of small models all but surely (arXiv 2102.08504). Who must hide them trains locally, with `privacy` or `secure`.
In each step four things cross the link: activations up, the edge's output down, its gradient up, and the gradient of
the activations down. Of the adapter a round fetches and sends the end's own layers; the edge has the others. `choose`
says whether an end should do so at all, and where the model is cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from gainnet.errors import InputError
from gainnet.knowledge.batch import Batch, collate
from gainnet.knowledge.compress import Rows, pack_rows, unpack_rows
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.training_cost import NORM_BIT, Load, Shape, load_of
from gainnet.knowledge.tuning import GRADIENT_MAX, Diverged, Tuned, Tuner
from gainnet.models.cut import LAYERS, Cut, Part, uncut
from gainnet.models.hub import Language, weights
from gainnet.models.low_rank import Factors, LowRank
from gainnet.scenario.knowledge import Compression, Knowledge

_NUMBER = re.compile(rf"(?:^|\.)(?:{'|'.join(LAYERS)})\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Means:
    """What an end has: memory, its own and its edge's speed, and its link.

    Attributes:
        memory_byte, end_flop_per_s, edge_flop_per_s, uplink_bit_per_s, downlink_bit_per_s: as their names say.
    """

    memory_byte: float
    end_flop_per_s: float
    edge_flop_per_s: float
    uplink_bit_per_s: float
    downlink_bit_per_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where an end trains.

    Attributes:
        kind: ``none`` where nothing fits.
        cut: first layer of the edge and first layer back on the end; (0, 0) where it is not split.
        reason: why not, of ``none``; empty elsewhere.
        time_s: computing and, of a split, the link, one after the other.
        memory_byte: that the end needs; of ``none``, the least that would do.
        end_flop, edge_flop: of each side.
        end_token, edge_token: tokens that cost as much in training of the whole.
        uplink_bit, downlink_bit: what crosses the link, the adapter not counted.
    """

    kind: Literal["local", "split", "none"]
    cut: tuple[int, int]
    reason: str
    time_s: float
    memory_byte: float
    end_flop: float = 0.0
    edge_flop: float = 0.0
    end_token: float = 0.0
    edge_token: float = 0.0
    uplink_bit: float = 0.0
    downlink_bit: float = 0.0


def choose(shape: Shape, load: Load, means: Means, ways: Literal["auto", "never", "always"] = "auto") -> Place:
    """The fastest way to train that fits an end's memory; of equally fast ones, local training.

    More memory never loses a way, and a slower link never turns local training into a split. What a split costs depends
    on how many layers the edge takes. Those that stay lie around them evenly, one at least before: the further from
    texts and labels what crosses the link is, the less it tells.

    Args:
        shape, load, means: of model, texts, and end.
        ways: that are open: ``never`` split, ``always`` split, or both.

    Returns:
        that way, or ``none`` with the reason.
    """
    if not load.token:
        return Place("none", (0, 0), "it has nothing to learn from", math.inf, 0.0)
    open_ways = [] if ways == "always" else [_way(shape, load, means, 0)]
    open_ways += [] if ways == "never" else [_way(shape, load, means, taken) for taken in range(1, shape.layers)]
    if not open_ways:
        return Place("none", (0, 0), "a model of one layer cannot be split", math.inf, math.inf)
    least = min(way.memory_byte for way in open_ways)
    fitting = [way for way in open_ways if way.memory_byte <= means.memory_byte]
    if not fitting:
        reason = f"training takes {least:.3g} byte of memory at least, and it has {means.memory_byte:.3g}"
        return Place("none", (0, 0), reason, math.inf, least)
    best = min(fitting, key=lambda way: way.time_s)  # the first of equals: local training stands first
    if best.time_s == math.inf:
        return Place("none", (0, 0), "its machine or its link stands still", math.inf, least)
    return best


def _way(shape: Shape, load: Load, means: Means, taken: int) -> Place:
    """Training with so many layers on the edge; local training where that is none."""
    whole = shape.flop(load, shape.layers) + shape.head_flop(load)
    edge_flop = shape.flop(load, taken)
    end_flop, kept = whole - edge_flop, shape.layers - taken
    bit = load.bit(shape.width) if taken else 0.0
    times = [
        _time_s(end_flop, means.end_flop_per_s),
        _time_s(edge_flop, means.edge_flop_per_s),
        _time_s(bit, means.uplink_bit_per_s),
        _time_s(bit, means.downlink_bit_per_s),
    ]
    first = (kept + 1) // 2
    return Place(
        kind="split" if taken else "local",
        cut=(first, first + taken) if taken else (0, 0),
        reason="",
        time_s=sum(times),
        memory_byte=shape.memory_byte(load, kept),
        end_flop=end_flop,
        edge_flop=edge_flop,
        end_token=load.token * end_flop / whole,
        edge_token=load.token * edge_flop / whole,
        uplink_bit=bit,
        downlink_bit=bit,
    )


def _time_s(amount: float, rate: float) -> float:
    if not amount:
        return 0.0
    return amount / rate if rate > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Figures(Shape):
    """A model's figures.

    Attributes:
        uncut: why it cannot be split at all, empty where it can (see `gainnet.models.cut.uncut`).
    """

    uncut: str = ""


def place(
    shape: Figures,
    texts: Sequence[Encoded],
    *,
    rank: int,
    config: Knowledge,
    memory_byte: float,
    end_flop_per_s: float,
    edge_flop_per_s: float,
    uplink_bit_per_s: float,
    downlink_bit_per_s: float,
) -> Place:
    """Where an end trains its texts, see `choose`; never split where the model cannot be, nor where the edge must not see
    what one end's examples do: under per-example DP, and where it sees only sums of updates.
    """
    bits = config.compression.activation_bits
    load = load_of(texts, config.local_epochs, config.batch, rank, bits, config.prompt_weight)
    means = Means(memory_byte, end_flop_per_s, edge_flop_per_s, uplink_bit_per_s, downlink_bit_per_s)
    hidden = config.secure or config.privacy.kind == "example"
    return choose(shape, load, means, "never" if hidden or shape.uncut else config.split)


def check(config: Knowledge, language: Language) -> None:
    """InputError where ends are always to split a model that cannot be cut."""
    if config.split == "always" and (why := uncut(language.model)):
        raise InputError(f"knowledge.split: always: {why}")


def at_edge(names: Iterable[str], cut: tuple[int, int]) -> tuple[str, ...]:
    """Of an adapter's layers, by the names of the modules that they change, those that a cut leaves to the edge."""
    found = ((name, _NUMBER.search(name)) for name in names)
    return tuple(name for name, number in found if number is not None and cut[0] <= int(number[1]) < cut[1])


def told(before: LowRank, trained: LowRank, edge: Iterable[str]) -> LowRank:
    """What an end has to tell its edge of a training: its own layers. Those of the ``edge`` stand as they were before."""
    return replace(trained, layers={**trained.layers, **{name: before.layers[name] for name in edge}})


def joined(before: LowRank, arrived: LowRank, trained: LowRank, edge: Iterable[str]) -> LowRank:
    """The whole at the edge: layers that arrived from the end, and those it trained itself.

    What arrives for a layer of the ``edge`` is what compression owed it from earlier rounds; it is added.
    """
    own = dict(arrived.layers)
    for name in edge:
        made, came, was = trained.layers[name], arrived.layers[name], before.layers[name]
        own[name] = Factors(made.a + (came.a - was.a), made.b + (came.b - was.b))
    return replace(arrived, layers=own)


def shape_of(language: Language) -> Figures:
    """The figures of a model, adapters left out."""
    model: Any = language.model
    layers, width = int(model.config.num_hidden_layers), int(model.config.hidden_size)
    inner = {name: tensor for name, tensor in weights(model) if ".layers." in name or ".h." in name}
    outer = {tensor.data_ptr(): tensor.numel() for name, tensor in weights(model) if name not in inner}
    head = model.get_output_embeddings().weight
    return Figures(
        layers=layers,
        width=width,
        layer_weights=sum(tensor.numel() for tensor in inner.values()) / layers,
        layer_lora=sum(sum(tensor.shape) for tensor in inner.values() if tensor.ndim == 2) / layers,
        outer_weights=float(sum(outer.values())),
        head_weights=float(head.numel()),
        vocabulary=len(head),
        weight_byte=float(head.element_size()),
        uncut=uncut(model),
    )


@dataclass(frozen=True, slots=True)
class Split:
    """What a split training made, and what it took.

    Attributes:
        tuned: as local training would return it.
        uplink_bit, downlink_bit: what crossed the link, to the byte.
        end_flop, edge_flop: of each side.
    """

    tuned: Tuned
    uplink_bit: int
    downlink_bit: int
    end_flop: float
    edge_flop: float


class _Direction:
    """One direction of the link: what is sent is really packed, and what arrives is what was unpacked."""

    def __init__(self, compression: Compression) -> None:
        self.bit = 0
        self._bits = compression.activation_bits
        self._rows = Rows(self._bits, compression.activation_change)

    def activation(self, value: torch.Tensor, lengths: Sequence[int], keys: Sequence[int]) -> torch.Tensor:
        """Activations (1, token, width) of the texts of these keys, one after another, as they arrive."""
        arrived = []
        for key, text in zip(keys, torch.split(value[0], list(lengths)), strict=True):
            data, rows = self._rows.send(key, text.cpu().numpy())
            self.bit += 8 * len(data)
            arrived.append(torch.from_numpy(rows))
        return torch.cat(arrived)[None].to(value.device)

    def gradient(self, value: torch.Tensor | None) -> torch.Tensor:
        """A gradient as it arrives."""
        assert value is not None  # no part that gives one is the first
        data = pack_rows(value[0].cpu().numpy(), self._bits)
        self.bit += 8 * len(data)
        return torch.from_numpy(unpack_rows(data))[None].to(value.device)


class SplitTuner:
    """Trains adapters split between an end and its edge.

    It makes what the tuner would make of the same generator state, but for what compression loses.

    Args:
        tuner: whose model and adapters it uses.

    Attributes:
        shape: the model's figures.
    """

    def __init__(self, tuner: Tuner) -> None:
        self._tuner = tuner
        self.shape = shape_of(tuner.language)

    def tune(
        self,
        start: LowRank,
        texts: Sequence[Encoded],
        *,
        epochs: int,
        batch: int,
        learning_rate: float,
        rng: np.random.Generator,
        cut: tuple[int, int],
        compression: Compression,
        factors: Literal["ab", "b"] = "ab",
        prompt_weight: float = 0.0,
    ) -> Split:
        """Train an adapter as `Tuner.tune` does, the layers from ``cut[0]`` to before ``cut[1]`` on the edge.

        Each side keeps the optimiser's moments of its own layers. A text's activations are sent anew where they moved
        since an earlier epoch, as `compression` says.

        Raises:
            Diverged: the loss, a gradient or the weights are no finite numbers, or the loss is exploding.
            InputError: nothing to learn from, an adapter of another model, or a cut where it has no layer.
        """
        if cut[0] < 1:
            raise InputError(f"cut at {cut}: an end keeps layer 0 at least, else what it sends would tell its texts")
        kept = [text for text in texts if text.counted]
        if not kept:
            raise InputError("there is nothing to learn from: no text has a token that counts")
        sides = _Sides(Cut(self._tuner.language.model, cut).parts, compression, self._tuner.multiplying)
        with self._tuner._learning(start, factors) as learning:
            optimiser = torch.optim.AdamW(learning, learning_rate, weight_decay=0.0, fused=True)
            steps, total = 0, 0.0
            for _ in range(epochs):
                order, total = rng.permutation(len(kept)), 0.0
                for first in range(0, len(order), batch):
                    drawn = order[first : first + batch].tolist()
                    together = collate([kept[index] for index in drawn], self._tuner.language.device, prompt_weight)
                    loss = sides.descend(together, drawn)
                    self._tuner._check(loss, steps)
                    torch.nn.utils.clip_grad_norm_(learning, GRADIENT_MAX)
                    optimiser.step()
                    optimiser.zero_grad()
                    steps += 1
                    total += loss * together.answers
            if not all(bool(torch.isfinite(weight).all()) for weight in learning):
                raise Diverged(f"training diverged: after step {steps} its weights are no finite numbers")
            adapter = self._tuner.adapters.take(start.rank)
        load = load_of(kept, epochs, batch, start.rank, compression.activation_bits, prompt_weight)
        edge_flop = self.shape.flop(load, cut[1] - cut[0])
        end_flop = self.shape.flop(load, self.shape.layers) + self.shape.head_flop(load) - edge_flop
        tuned = Tuned(adapter, steps, load.token, total / sum(text.counted for text in kept))
        return Split(tuned, sides.up.bit, sides.down.bit, end_flop, edge_flop)


class _Sides:
    """The parts of a model on end and edge, and the link between them."""

    def __init__(
        self, parts: Sequence[Part], compression: Compression, multiplying: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._multiplying = multiplying
        self.up, self.down = _Direction(compression), _Direction(compression)
        self._begin, self._middle, self._end = parts

    def descend(self, batch: Batch, keys: Sequence[int]) -> float:
        """Runs a batch forth and back over the link: gradients are at the weights. The mean loss.

        Diverged where what is to be sent are no finite numbers.
        """
        try:
            return self._descend(batch, keys)
        except InputError as error:
            raise Diverged(f"training diverged: {error}") from error

    def _descend(self, batch: Batch, keys: Sequence[int]) -> float:
        counts = torch.zeros_like(batch.token, dtype=torch.bool)
        counts[batch.at] = True
        place, lengths = batch.position[None], batch.lengths
        with self._multiplying():
            begin = self._begin.run(batch.token[None], position=place, lengths=lengths)
            above = self.up.activation(begin.output, lengths, keys)
            middle = self._middle.run(above, position=place, lengths=lengths)
            back = self.down.activation(middle.output, lengths, keys)
            end = self._end.run(back, position=place, lengths=lengths, keep=counts[None])
        logits = end.output.float().requires_grad_()
        loss = batch.loss(logits)
        (gradient,) = torch.autograd.grad(loss, logits)
        last = end.backward(gradient.to(end.output.dtype))
        begin.backward(self.down.gradient(middle.backward(self.up.gradient(last))))
        self.up.bit += NORM_BIT
        self.down.bit += NORM_BIT
        return float(loss.detach())
