"""Tokens are drawn from the cut distribution, and judged drafts leave it as it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from gainnet.inference.request import Sampling
from gainnet.inference.sampling import Draw, choose, cut, judge

torch.set_num_threads(1)
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 3000


def _expected(sampling: Sampling) -> np.ndarray:
    """Written anew: temperature, then top_k, then the nucleus of what is left."""
    p = np.exp(LOGITS.numpy().astype(float) / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: sampling.top_k or len(p)]
    part = p[kept] / p[kept].sum()
    kept = kept[: int(np.searchsorted(part.cumsum(), sampling.top_p)) + 1]
    found = np.zeros(len(p))
    found[kept] = p[kept] / p[kept].sum()
    return found


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(temperature=2.0, top_k=4, top_p=0.8),
    ],
)
@pytest.mark.untraced
def test_tokens_follow_the_cut_distribution(sampling: Sampling) -> None:
    expected = _expected(sampling)
    torch.testing.assert_close(torch.softmax(cut(LOGITS[None], [sampling]), -1)[0], torch.from_numpy(expected))
    drawn = choose(LOGITS.repeat(DRAWS, 1), [Draw(sampling, 7, position) for position in range(DRAWS)])
    assert _fits(Counter(one.token for one in drawn), expected)


def _fits(found: Counter[int], expected: np.ndarray) -> bool:
    seen = np.array([found[token] for token in range(len(expected))])
    assert not seen[expected == 0.0].any()
    some = expected > 0.0
    return bool(stats.chisquare(seen[some], expected[some] * seen.sum()).pvalue > 1e-4)


def test_a_row_draws_the_same_whatever_other_rows_want() -> None:
    rows = torch.randn((4, 50), generator=torch.Generator().manual_seed(0))
    draws = [
        Draw(Sampling(temperature=0.0), 0, 3),
        Draw(Sampling(temperature=0.7, top_p=0.8, logprobs=2), 5, 3),
        Draw(Sampling(top_k=5), 5, 3),
        Draw(Sampling(), 6, 9),
    ]
    together = choose(rows, draws)
    for index, draw in enumerate(draws):
        assert choose(rows[index : index + 1], [draw])[0] == together[index]
    assert together[0].token == int(rows[0].argmax())
    assert together[0].logprob is None
    assert len(together[1].top) == 2


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.untraced
def test_judged_drafts_leave_the_distribution_as_it_is(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, logprobs=1)
    expected = _expected(sampling)
    q = np.array([0.1, 0.5, 0.1, 0.1, 0.2, 0.0])
    rng = np.random.default_rng(3)
    logits = LOGITS.repeat(2, 1)
    first: Counter[int] = Counter()
    kept = 0
    for seed in range(DRAWS):
        draft = int(rng.choice(6, p=q))
        accepted, chosen = judge(logits, [draft], Draw(sampling, seed, 4), q[None])
        first[draft if accepted else chosen.token] += 1
        kept += accepted
        assert chosen.logprob == pytest.approx(float(torch.log_softmax(LOGITS, -1)[chosen.token]), abs=1e-5)
    assert _fits(first, expected)
    assert kept / DRAWS == pytest.approx(np.minimum(expected, q).sum(), abs=0.03)


def test_a_draft_from_the_very_distribution_stays_whole() -> None:
    sampling = Sampling()
    p = _expected(sampling)
    for seed in range(50):
        assert judge(LOGITS.repeat(3, 1), [1, 4], Draw(sampling, seed, 0), np.stack([p, p]))[0] == 2


def test_without_probabilities_a_draft_stays_where_it_would_have_been_drawn() -> None:
    rows = torch.randn((5, 40), generator=torch.Generator().manual_seed(1))
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=1.5)):
        would = [one.token for one in choose(rows, [Draw(sampling, 2, 7 + index) for index in range(5)])]
        draft = [*would[:2], (would[2] + 1) % 40, would[3]]
        accepted, chosen = judge(rows, draft, Draw(sampling, 2, 7), None)
        assert (accepted, chosen.token) == (2, would[2])
        accepted, chosen = judge(rows, would[:4], Draw(sampling, 2, 7), None)
        assert (accepted, chosen.token) == (4, would[4])
