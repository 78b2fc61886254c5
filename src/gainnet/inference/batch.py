"""The tokens of one step, packed one after the other, and the attention of each to those before it in its own row.

Linear layers see all tokens as one matrix, without padding. Attention sees them in three kinds: rows that decode, one
token each, all at once; prompts from their start, those of one length at once; and parts of rows that follow others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gainnet.inference.lora import Mix


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one row that are computed in one step.

    Attributes:
        row: where its keys and values are.
        start: how many tokens the row has before them.
        token: they.
        want: of how many of them, at the end, the hidden states are wanted.
    """

    row: int
    start: int
    token: Sequence[int]
    want: int

    @property
    def decodes(self) -> bool:
        """One token after others."""
        return len(self.token) == 1 and self.start > 0


@dataclass(frozen=True, slots=True)
class _Part:
    """Packed tokens [first, stop) that attend together: `count` rows of as many tokens each."""

    first: int
    stop: int
    count: int
    row: int
    seen: int
    mask: Tensor | None


class Batch:
    """Segments as one step computes them. Segments that decode come first, by row; then whole beginnings, by length.

    Attributes:
        segments: in the order of their packed tokens.
        token: of all segments.
        position: of each token in its row.
        index: of each token's keys and values in the flattened rows.
        want: packed tokens whose hidden states are wanted, segment by segment.
        mix: the adapters, if any row has one.
    """

    def __init__(self, segments: Sequence[Segment], context: int, mix: Mix | None = None) -> None:
        self.segments = sorted(segments, key=_order)
        self.mix = mix
        sizes = np.array([len(segment.token) for segment in self.segments])
        starts = np.array([segment.start for segment in self.segments])
        rows = np.array([segment.row for segment in self.segments])
        ends = np.cumsum(sizes)
        position = np.arange(ends[-1]) - np.repeat(ends - sizes - starts, sizes)
        self.token = torch.tensor([token for segment in self.segments for token in segment.token])
        self.position = torch.from_numpy(position)
        self.index = torch.from_numpy(np.repeat(rows, sizes) * context + position)
        wanted = [np.arange(end - segment.want, end) for segment, end in zip(self.segments, ends, strict=True)]
        self.want = torch.from_numpy(np.concatenate(wanted))
        self.decoding = sum(segment.decodes for segment in self.segments)
        """How many segments decode."""
        self.rows: slice | Tensor = slice(0, self.decoding)
        """Their rows."""
        self.seen = 0
        """The most tokens that any of them attends to."""
        self.mask: Tensor | None = None
        if self.decoding:
            self._decode(rows[: self.decoding], starts[: self.decoding] + 1)
        self.parts = tuple(self._parts())

    def _decode(self, rows: Int[np.ndarray, " row"], seen: Int[np.ndarray, " row"]) -> None:
        self.seen = int(seen.max())
        if rows[-1] != len(rows) - 1:  # else they are the first ones, and their keys and values need no copy
            self.rows = torch.from_numpy(rows)
        if seen.min() < self.seen:
            hidden = np.where(np.arange(self.seen) < seen[:, None], np.float32(0.0), np.float32(-np.inf))
            self.mask = torch.from_numpy(hidden)[:, None, None]

    def _parts(self) -> list[_Part]:
        found: list[_Part] = []
        first = self.decoding
        for segment in self.segments[self.decoding :]:
            size = len(segment.token)
            stop = first + size
            last = found[-1] if found else None
            if segment.start == 0 and last and last.row < 0 and last.stop - last.first == size * last.count:
                found[-1] = _Part(last.first, stop, last.count + 1, -1, size, None)
            elif segment.start == 0:
                found.append(_Part(first, stop, 1, -1, size, None))
            else:
                seen = segment.start + size
                hidden = torch.full((size, seen), -torch.inf).triu_(segment.start + 1)
                found.append(_Part(first, stop, 1, segment.row, seen, hidden))
            first = stop
        return found


def _order(segment: Segment) -> tuple[int, int, int]:
    if segment.decodes:
        return 0, segment.row, 0
    return (1, len(segment.token), segment.row) if segment.start == 0 else (2, segment.row, 0)


class Rows:
    """Keys and values of every layer, row by row, in memory that is there from the start.

    Attributes:
        key: of each token.
        value: of each token.
        context: tokens that a row holds.
    """

    key: Float[Tensor, "layer row position head width"]
    value: Float[Tensor, "layer row position head width"]

    def __init__(self, layers: int, rows: int, context: int, heads: int, width: int) -> None:
        # Zero and not just empty: what is masked is multiplied by 0, and garbage may be no number.
        self.key = torch.zeros((layers, rows, context, heads, width))
        self.value = torch.zeros((layers, rows, context, heads, width))
        self.context = context
        self._flat = [
            (key.view(rows * context, heads, width), value.view(rows * context, heads, width))
            for key, value in zip(self.key, self.value, strict=True)
        ]

    @property
    def byte_token(self) -> int:
        """What the keys and values of one token take."""
        layers, _, _, heads, width = self.key.shape
        return 2 * layers * heads * width * self.key.element_size()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a row into another."""
        self.key[:, target, :length] = self.key[:, source, :length]
        self.value[:, target, :length] = self.value[:, source, :length]

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "token head width"],
        key: Float[Tensor, "token kept width"],
        value: Float[Tensor, "token kept width"],
        batch: Batch,
        scale: float,
    ) -> Float[Tensor, "token both"]:
        """Keep keys and values of a step's tokens, and give what each token attends to."""
        flat_key, flat_value = self._flat[layer]
        flat_key.index_copy_(0, batch.index, key)
        flat_value.index_copy_(0, batch.index, value)
        found = []
        if batch.decoding:
            found.append(self._decode(layer, query[: batch.decoding], batch, scale))
        for part in batch.parts:
            asked = query[part.first : part.stop]
            if part.row < 0:
                found.append(_from_start(asked, key, value, part, scale))
            else:
                seen = slice(0, part.seen)
                keys, values = self.key[layer, part.row, seen], self.value[layer, part.row, seen]
                found.append(_attended(asked[None], keys[None], values[None], part.mask, scale))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _decode(self, layer: int, query: Tensor, batch: Batch, scale: float) -> Tensor:
        """Query heads that share keys stand where several positions would, so that nothing is repeated."""
        keys = self.key[layer][batch.rows, : batch.seen].transpose(1, 2)
        values = self.value[layer][batch.rows, : batch.seen].transpose(1, 2)
        rows, heads, width = query.shape
        grouped = query.view(rows, keys.shape[1], heads // keys.shape[1], width)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=batch.mask, scale=scale)
        return out.reshape(rows, heads * width)


def _from_start(query: Tensor, key: Tensor, value: Tensor, part: _Part, scale: float) -> Tensor:
    """Beginnings of rows attend to themselves only."""
    shape = (part.count, part.seen)
    fresh = slice(part.first, part.stop)
    return _attended(
        query.view(*shape, *query.shape[1:]),
        key[fresh].view(*shape, *key.shape[1:]),
        value[fresh].view(*shape, *value.shape[1:]),
        None,
        scale,
        causal=part.seen > 1,
    )


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool = False
) -> Tensor:
    out = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2).reshape(query.shape[0] * query.shape[1], -1)
