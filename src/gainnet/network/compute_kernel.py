"""Time and flop of each compute stage: rooflines on plain floats, compiled so that they inline into the callers.

Every time is ``max(flop / F, byte / BW)`` with the *effective* rates of `gainnet.network.compute.Nodes` (peak times
efficiency) and the coefficients of `gainnet.models.card.Cards`; every quantity is SI. Times are of one accelerator of
the node. Source of the roofline: Williams, Waterman, Patterson, CACM 52(4), 2009; of its use for generation: arXiv
2211.05102, section 2.
"""

from __future__ import annotations

from gainnet.compiled import njit


@njit
def prefill_flop(token: float, flop_per_token: float, attention_flop_per_token2: float) -> float:
    """Flop of a prefill of n tokens: ``2 P n + 2 L d n^2`` (causal)."""
    return token * (flop_per_token + attention_flop_per_token2 * token)


@njit
def prefill_s(
    token: float,
    flop_per_token: float,
    attention_flop_per_token2: float,
    kv_byte_per_token: float,
    size_byte: float,
    flop_per_s: float,
    byte_per_s: float,
    step_overhead_s: float = 0.0,
    text_overhead_s: float = 0.0,
) -> float:
    """Time of a prefill of n tokens: it reads the weights once and writes the KV cache, in one step of one text."""
    flop = prefill_flop(token, flop_per_token, attention_flop_per_token2)
    took_s = max(flop / flop_per_s, (size_byte + token * kv_byte_per_token) / byte_per_s)
    return took_s + step_overhead_s + text_overhead_s


@njit
def decode_step_flop(
    batch: float, context_token: float, flop_per_token: float, attention_flop_per_token2: float
) -> float:
    """Flop of one decode step: ``b (2 P + 4 L d c)``, the slope of `prefill_flop` at context c."""
    return batch * (flop_per_token + 2.0 * attention_flop_per_token2 * context_token)


@njit
def decode_step_s(
    batch: float,
    context_token: float,
    flop_per_token: float,
    attention_flop_per_token2: float,
    kv_byte_per_token: float,
    size_byte: float,
    flop_per_s: float,
    byte_per_s: float,
    step_overhead_s: float = 0.0,
    text_overhead_s: float = 0.0,
) -> float:
    """Time in which each of b requests with a mean context of c tokens gets one token.

    The step reads the weights once for all and each request's KV cache: ``P w + b c KV`` byte. What software takes
    besides adds to that, and hides behind the arithmetic of batches so large that this takes longest.
    """
    flop = decode_step_flop(batch, context_token, flop_per_token, attention_flop_per_token2)
    read_s = (size_byte + batch * context_token * kv_byte_per_token) / byte_per_s
    return max(flop / flop_per_s, read_s + step_overhead_s + batch * text_overhead_s)


@njit
def denoise_flop(step: float, image: float, step_flop: float, fixed_flop: float) -> float:
    """Flop of a batch of images: ``images (steps step_flop + fixed_flop)``."""
    return image * (step * step_flop + fixed_flop)


@njit
def denoise_s(
    step: float,
    image: float,
    step_flop: float,
    fixed_flop: float,
    overhead_s: float,
    size_byte: float,
    flop_per_s: float,
    byte_per_s: float,
) -> float:
    """Time of a batch of images: a step reads the weights once for all; text and image decoding are compute bound."""
    one_step_s = max(image * step_flop / flop_per_s, size_byte / byte_per_s)
    return overhead_s + step * one_step_s + image * fixed_flop / flop_per_s


@njit
def train_flop(token: float, train_flop_per_token: float) -> float:
    """Flop of training on n tokens (images of a diffusion model): 6 P n in full, 4 P n with a frozen base."""
    return token * train_flop_per_token


@njit
def train_s(
    token: float,
    batch_token: float,
    train_flop_per_token: float,
    size_byte: float,
    flop_per_s: float,
    byte_per_s: float,
) -> float:
    """Time of training on n tokens, ``batch_token`` at a time: each batch reads the weights forward and backward."""
    flop = train_flop(token, train_flop_per_token)
    return max(flop / flop_per_s, 2.0 * size_byte * (token / batch_token) / byte_per_s)


@njit
def load_s(size_byte: float, extra_s: float, load_byte_per_s: float, load_overhead_s: float) -> float:
    """Time to make an artifact resident: start-up, its own extra (adapters), and its weights from storage."""
    return load_overhead_s + extra_s + size_byte / load_byte_per_s
