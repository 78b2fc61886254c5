"""Prompts continued side by side: each different prompt is read once, and what has ended takes no further steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from transformers import DynamicCache, PreTrainedModel

ENDED_MAX = 0.125
"""Part of the rows that may have ended before they are taken out of the cache."""

Tokens = Int[np.ndarray, " _"]


def side_by_side(
    prompts: Sequence[Tokens], pad: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, so that all end together, and their mask; both (prompt, position)."""
    longest = max(map(len, prompts))
    token = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for index, prompt in enumerate(prompts):
        token[index, longest - len(prompt) :] = prompt
        mask[index, longest - len(prompt) :] = 1
    return torch.from_numpy(token).to(device), torch.from_numpy(mask).to(device)


def continued(
    model: PreTrainedModel,
    predict: Callable[..., torch.Tensor],
    prompts: Sequence[Tokens],
    room: Sequence[int],
    choose: Callable[[torch.Tensor], torch.Tensor],
    *,
    pad: int,
    end: int,
) -> list[Tokens]:
    """Continuations, with the token that ends them where they came to that. Under the caller's inference mode.

    Args:
        model: that predicts.
        predict: called as a model is, the logits that follow each row's last position, (row, vocabulary).
        prompts: equal ones are read once.
        room: tokens that may follow each, at least one.
        choose: the next token (row) by the logits.
        pad: token that pads.
        end: token that ends.
    """
    known: dict[bytes, int] = {}
    reads = [known.setdefault(np.asarray(prompt, np.int64).tobytes(), len(known)) for prompt in prompts]
    first = [reads.index(which) for which in range(len(known))]
    token, mask = side_by_side([prompts[index] for index in first], pad, model.device)
    cache = DynamicCache(config=model.config)
    position = (mask.cumsum(1) - 1).clamp_(min=0)
    logits = predict(input_ids=token, attention_mask=mask, position_ids=position, cache=cache)
    row = torch.tensor(reads, device=model.device)
    if len(known) < len(prompts):
        cache.batch_select_indices(row)
    logits, mask, position = logits[row], mask[row], position[row, -1:]
    found: list[list[int]] = [[] for _ in prompts]
    place = list(range(len(prompts)))  # which prompt a row continues
    alive = [True] * len(place)
    while True:
        chosen = choose(logits)
        for index, (which, word) in enumerate(zip(place, chosen.tolist(), strict=True)):
            if alive[index]:
                found[which].append(word)
                alive[index] = word != end and len(found[which]) < room[which]
        left = [index for index, on in enumerate(alive) if on]
        if not left:
            return [np.array(words, np.int64) for words in found]
        if len(place) - len(left) > ENDED_MAX * len(place):
            kept = torch.tensor(left, device=model.device)
            cache.batch_select_indices(kept)
            chosen, mask, position = chosen[kept], mask[kept], position[kept]
            place, alive = [place[index] for index in left], [True] * len(left)
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
        position = position + torch.tensor(alive, device=model.device)[:, None]  # what has ended stays where it is
        logits = predict(input_ids=chosen[:, None], attention_mask=mask, position_ids=position, cache=cache)
