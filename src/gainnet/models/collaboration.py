"""What two models that answer together cost: cascades, and drafts of one that the other verifies.

Drafting g tokens takes g t_d, verifying them t_v(g): one step over g + 1 positions of each request in the batch, a
roofline like any other. Where each token of a draft stays with probability a after those before it, a round gives
E = 1 + a + ... + a^g tokens on the mean (arXiv 2211.17192, equation 1), so a token takes
``(g (t_d + bit / R) + RTT + t_v(g)) / E`` and drafting pays iff that is less than t_v(0). A cascade that defers with
probability d costs ``c_small + d c_large``, in any unit (arXiv 2305.05176).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import InputError

TOKEN_BIT = 24.0
"""What a token id takes, at least."""


def expected_tokens(acceptance: float, length: int) -> float:
    """Tokens that a round gives on the mean: those of the draft that stay, and the one after them.

    Args:
        acceptance: probability that a token stays where those before it did.
        length: of the draft.

    Raises:
        InputError: it is no probability, or the length is negative.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise InputError(f"acceptance {acceptance:g}: must be from 0 to 1")
    if length < 0:
        raise InputError(f"length {length}: must be at least 0")
    if acceptance == 1.0:
        return float(length + 1)
    return float((1.0 - acceptance ** (length + 1)) / (1.0 - acceptance))


def verify_s(
    length: Int[np.ndarray, " length"],
    batch: Float[np.ndarray, " pair"],
    flop_s: Float[np.ndarray, " pair"],
    weight_s: Float[np.ndarray, " pair"],
    cache_s: Float[np.ndarray, " pair"],
) -> Float[np.ndarray, "pair length"]:
    """Time of a step that judges a draft of each length (0 is plain decoding) for every request of a batch.

    Args:
        length: tokens of a draft.
        batch: requests in the step.
        flop_s: what the flop of one token take.
        weight_s: what reading the weights once takes.
        cache_s: what reading one request's cache takes.
    """
    computed_s, read_s = batch[:, None] * (length + 1.0) * flop_s[:, None], (weight_s + batch * cache_s)[:, None]
    return np.asarray(np.maximum(computed_s, read_s))


def best_draft(
    acceptance: Float[np.ndarray, " pair"],
    draft_token_s: Float[np.ndarray, " pair"],
    verify_step_s: Float[np.ndarray, "pair length"],
    rtt_s: Float[np.ndarray, " pair"],
) -> tuple[Int[np.ndarray, " pair"], Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """Of each pair the length of drafts, at least 1, that gives tokens fastest; its tokens a round; its time of a token.

    Args:
        acceptance: probability that a token stays.
        draft_token_s: time to draft a token and send it.
        verify_step_s: time to judge a draft of each length from 0 on.
        rtt_s: between the two models.
    """
    length = np.arange(verify_step_s.shape[1])
    tokens = np.cumsum(acceptance[:, None] ** length, axis=1)
    token_s = (length * draft_token_s[:, None] + rtt_s[:, None] + verify_step_s) / tokens
    best = 1 + np.argmin(token_s[:, 1:], axis=1)
    pair = np.arange(len(best))
    return best, tokens[pair, best], token_s[pair, best]


def cascaded(
    small: Float[np.ndarray, " pair"], large: Float[np.ndarray, " pair"], deferred: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """What an answer of a cascade costs on the mean, in whatever unit the two models' costs have."""
    return np.asarray(small + deferred * large)
