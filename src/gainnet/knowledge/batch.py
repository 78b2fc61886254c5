"""Texts side by side: padded to the longest, with which tokens count; and which to put side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from gainnet.knowledge.text import Encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts as one rectangle, padded on the right.

    Attributes:
        token: (text, position).
        mask: 1 where there is a token, 0 where padding.
        row, position: where each counted token is predicted: one position before its own.
        target: the counted tokens.
    """

    token: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor


def collate(texts: Sequence[Encoded], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Put texts side by side, on a device."""
    longest = max(len(text.token) for text in texts)
    token = np.full((len(texts), longest), pad, np.int64)
    mask = np.zeros((len(texts), longest), np.int64)
    for index, text in enumerate(texts):
        token[index, : len(text.token)] = text.token
        mask[index, : len(text.token)] = 1
    counts = [text.counted for text in texts]
    row = np.repeat(np.arange(len(texts)), counts)
    position = np.concatenate([np.arange(t.answer - 1, t.answer - 1 + t.counted) for t in texts])
    target = token[row, position + 1]
    return Batch(*(torch.from_numpy(part).to(device) for part in (token, mask, row, position, target)))


def prompts_side_by_side(
    prompts: Sequence[Int[np.ndarray, " _"]], pad: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, so that all end together, and their mask; both (prompt, position)."""
    longest = max(map(len, prompts))
    token = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for index, prompt in enumerate(prompts):
        token[index, longest - len(prompt) :] = prompt
        mask[index, longest - len(prompt) :] = 1
    return torch.from_numpy(token).to(device), torch.from_numpy(mask).to(device)


def alike(lengths: Sequence[int], token_max: int) -> Iterator[list[int]]:
    """Indices in groups of similar length, of at most so many positions each (or of one text), longest first."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if group and (len(group) + 1) * lengths[group[0]] > token_max:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
