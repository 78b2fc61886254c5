"""Which token comes next, for many rows at once; and which tokens of a draft may stay.

A token is drawn by an exponential race: the largest of ``log p - log e`` with e exponential, one for each token of the
vocabulary. The race's numbers depend on the seed and the position only, so an answer does not depend on what else is
computed with it, but for rounding: a tie within 1e-6 may fall either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gainnet.inference.request import Sampling

RACE, ACCEPT, RESIDUAL = 0, 1, 2
"""What random numbers are for: no two uses share any."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One row that needs a token.

    Attributes:
        sampling: how.
        seed: of its random numbers.
        position: how many tokens come before it.
    """

    sampling: Sampling
    seed: int
    position: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and where asked for its log-probability and the likeliest ones'."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Float[Tensor, "row vocabulary"], draws: Sequence[Draw]) -> list[Chosen]:
    """The next token of each row."""
    token: list[int] = logits.argmax(-1).tolist()
    drawn = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0.0]
    if drawn:
        raced = cut(logits[drawn], [draws[row].sampling for row in drawn])
        raced += torch.from_numpy(np.stack([_race(draws[row], logits.shape[1]) for row in drawn]))
        for row, best in zip(drawn, raced.argmax(-1).tolist(), strict=True):
            token[row] = best
    wanted = {row: draw.sampling.logprobs for row, draw in enumerate(draws) if draw.sampling.logprobs is not None}
    if not wanted:
        return [Chosen(number) for number in token]
    logs = torch.log_softmax(logits[list(wanted)].float(), -1)
    described = {row: _described(logs[index], token[row], count) for index, (row, count) in enumerate(wanted.items())}
    return [described.get(row) or Chosen(number) for row, number in enumerate(token)]


def _described(logs: Float[Tensor, " vocabulary"], token: int, count: int) -> Chosen:
    values, numbers = logs.topk(min(count, len(logs)))
    return Chosen(token, float(logs[token]), tuple(zip(numbers.tolist(), values.tolist(), strict=True)))


def cut(logits: Float[Tensor, "row vocabulary"], samplings: Sequence[Sampling]) -> Float[Tensor, "row vocabulary"]:
    """Logits over temperature, in double precision, -inf where top_k or top_p leave a token out.

    Tokens as likely as the last one that stays, stay too.
    """
    scaled = logits.double() / torch.tensor([[s.temperature] for s in samplings], dtype=torch.float64)
    if all(s.top_k == 0 and s.top_p >= 1.0 for s in samplings):
        return scaled
    size = scaled.shape[1]
    falling = scaled.sort(-1, descending=True).values
    kept = torch.tensor([[min(s.top_k or size, size)] for s in samplings])
    falling = falling.masked_fill(torch.arange(size) >= kept, -torch.inf)
    before = torch.softmax(falling, -1).cumsum(-1).roll(1, -1)
    before[:, 0] = 0.0
    nucleus = (before < torch.tensor([[_nucleus(s)] for s in samplings], dtype=torch.float64)).sum(-1, keepdim=True)
    last = falling.gather(-1, torch.minimum(nucleus, kept) - 1)
    return scaled.masked_fill_(scaled < last, -torch.inf)


def _nucleus(sampling: Sampling) -> float:
    """All tokens, however their probabilities are rounded, where none is to be left out."""
    return sampling.top_p if sampling.top_p < 1.0 else 2.0


def _race(draw: Draw, vocabulary: int) -> Float[np.ndarray, " vocabulary"]:
    return -np.log(_rng(draw.seed, draw.position, RACE).standard_exponential(vocabulary))


def _rng(seed: int, position: int, use: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=np.array([0, position, use, 0], np.uint64)))


def judge(
    logits: Float[Tensor, "place vocabulary"],
    draft: Sequence[int],
    draw: Draw,
    probability: Float[np.ndarray, "draft vocabulary"] | None,
) -> tuple[int, Chosen]:
    """How many tokens of a draft stay, and the token after those.

    Without the draft's probabilities a token stays where it is the one that would have been chosen anyway, so the text
    is the very one that is generated without drafts, greedy or with a seed. With them, a token x drawn from q stays
    with probability min(1, p(x) / q(x)), and the first that does not is drawn anew from the positive part of p - q:
    the text is distributed as without drafts (arXiv 2211.17192).

    Args:
        logits: before each token of the draft, and after its last.
        draft: the tokens.
        draw: how the first of them would be drawn.
        probability: what each token of the draft was drawn from.
    """
    sampling = draw.sampling
    places = [Draw(sampling, draw.seed, draw.position + index) for index in range(len(draft) + 1)]
    if probability is None or sampling.temperature == 0.0:
        chosen = choose(logits, places)
        accepted = next((i for i, token in enumerate(draft) if chosen[i].token != token), len(draft))
        return accepted, chosen[accepted]
    target = torch.softmax(cut(logits, [sampling] * len(places)), -1).numpy()
    for index, token in enumerate(draft):
        p, q = target[index], np.asarray(probability[index], np.float64)
        if _rng(draw.seed, draw.position + index, ACCEPT).random() * q[token] < p[token]:
            continue
        left = np.maximum(p - q, 0.0)
        left = left if left.any() else p
        raced = _rng(draw.seed, draw.position + index, RESIDUAL).standard_exponential(len(left))
        with np.errstate(divide="ignore"):
            best = int(np.argmax(np.log(left) - np.log(raced)))
        return index, _again(logits[index], best, sampling)
    return len(draft), choose(logits[len(draft) :], places[-1:])[0]


def _again(logits: Float[Tensor, " vocabulary"], token: int, sampling: Sampling) -> Chosen:
    """A token that is settled, with what was asked for about it."""
    if sampling.logprobs is None:
        return Chosen(token)
    return _described(torch.log_softmax(logits.float(), -1), token, sampling.logprobs)
