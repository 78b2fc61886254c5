"""Texts side by side: one after another in a row, with which tokens count; and which to put side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from gainnet.knowledge.text import Encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts one after another.

    Attributes:
        token: of all of them.
        position: of each token in its text.
        lengths: of the texts.
        row, at: of each counted token, its text, and where among all tokens it is predicted: one before its own place.
        target: the counted tokens.
        weight: of each in the loss where they differ: then tokens of prompts are counted too.
        answers: how many of them are tokens of answers.
    """

    token: torch.Tensor
    position: torch.Tensor
    lengths: tuple[int, ...]
    row: torch.Tensor
    at: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None
    answers: int

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean loss (nat) of the answers' tokens, and that of the prompts' at its weight; ``logits`` as `target`."""
        if self.weight is None:
            return functional.cross_entropy(logits, self.target)
        return functional.cross_entropy(logits, self.target, reduction="none") @ self.weight

    def rectangle(self, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The texts as rows, padded on the right, and where their tokens are; both (text, position)."""
        token = pad_sequence(list(torch.split(self.token, list(self.lengths))), batch_first=True, padding_value=pad)
        length = torch.tensor(self.lengths, device=token.device)
        return token, (torch.arange(token.shape[1], device=token.device) < length[:, None]).long()


def collate(texts: Sequence[Encoded], device: torch.device | str = "cpu", prompt_weight: float = 0.0) -> Batch:
    """Put texts side by side, on a device; with a weight for prompts their tokens count in the loss too."""
    lengths = np.array([len(text.token) for text in texts])
    begins = np.cumsum(lengths) - lengths
    token = np.concatenate([text.token for text in texts])
    text_of = np.repeat(np.arange(len(texts)), lengths)
    position = np.arange(len(token)) - begins[text_of]
    answer = np.array([text.answer for text in texts])
    own = np.flatnonzero(position >= (1 if prompt_weight else answer[text_of]))
    row = text_of[own]
    answers = sum(text.counted for text in texts)
    weight = None
    if answers < len(row):
        of_answer = position[own] >= answer[row]
        each = np.where(of_answer, 1.0 / max(answers, 1), prompt_weight / (len(row) - answers))
        weight = torch.from_numpy(each.astype(np.float32)).to(device)
    parts = (token, position, row, own - 1, token[own])
    moved = torch.from_numpy(np.concatenate(parts)).to(device)  # in one piece: a GPU must be waited for
    there = torch.split(moved, [len(part) for part in parts])
    return Batch(there[0], there[1], tuple(lengths.tolist()), there[2], there[3], there[4], weight, answers)


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
