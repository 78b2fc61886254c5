"""Texts side by side: padded to the longest, with which tokens count; and which to put side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional

from gainnet.knowledge.text import Encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts as one rectangle, padded on the right.

    Attributes:
        token: (text, position).
        mask: 1 where there is a token, 0 where padding.
        row, position: where each counted token is predicted: one position before its own.
        target: the counted tokens.
        weight: of each in the loss where they differ: then tokens of prompts are counted too.
        answers: how many of them are tokens of answers.
    """

    token: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None
    answers: int

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean loss (nat) of the answers' tokens, and that of the prompts' at its weight; ``logits`` as `target`."""
        if self.weight is None:
            return functional.cross_entropy(logits, self.target)
        return functional.cross_entropy(logits, self.target, reduction="none") @ self.weight


def collate(
    texts: Sequence[Encoded], pad: int, device: torch.device | str = "cpu", prompt_weight: float = 0.0
) -> Batch:
    """Put texts side by side, on a device; with a weight for prompts their tokens count in the loss too."""
    longest = max(len(text.token) for text in texts)
    token = np.full((len(texts), longest), pad, np.int64)
    mask = np.zeros((len(texts), longest), np.int64)
    for index, text in enumerate(texts):
        token[index, : len(text.token)] = text.token
        mask[index, : len(text.token)] = 1
    firsts = [1 if prompt_weight else text.answer for text in texts]
    row = np.repeat(np.arange(len(texts)), [len(t.token) - first for t, first in zip(texts, firsts, strict=True)])
    position = np.concatenate([np.arange(first - 1, len(t.token) - 1) for t, first in zip(texts, firsts, strict=True)])
    target = token[row, position + 1]
    answers = sum(text.counted for text in texts)
    weight = None
    if answers < len(row):
        of_answer = position + 1 >= np.array([text.answer for text in texts])[row]
        each = np.where(of_answer, 1.0 / max(answers, 1), prompt_weight / (len(row) - answers))
        weight = torch.from_numpy(each.astype(np.float32)).to(device)
    parts = [torch.from_numpy(part).to(device) for part in (token, mask, row, position, target)]
    return Batch(parts[0], parts[1], parts[2], parts[3], parts[4], weight, answers)


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
