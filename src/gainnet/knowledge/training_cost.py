"""What training adapters costs: flop, memory, and what a split of it sends; plain arithmetic.

A frozen weight costs 4 flop a token, forward and the gradient of its input (arXiv 2001.08361, section 2.1); a weight that
learns costs 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gainnet.knowledge.compress import ROWS, SENT, ActivationBits
from gainnet.knowledge.text import Encoded

NORM_BIT = 32
"""Each side tells the other how long its part of the gradient is, so that both clip alike."""
FLOAT_BYTE = 4
STATE_BYTE = 4 * FLOAT_BYTE
"""What a number that learns takes: itself, its gradient and AdamW's two moments."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's figures are for the arithmetic of training adapters on it.

    Attributes:
        layers: decoder layers.
        width: of what crosses a cut.
        layer_weights: of one layer.
        layer_lora: numbers of one layer's adapter at rank 1: inputs plus outputs of its linear layers.
        outer_weights: of embedding, last norm and head, what is tied once.
        head_weights: of the head.
        vocabulary: tokens.
        weight_byte: of one frozen weight.
    """

    layers: int
    width: int
    layer_weights: float
    layer_lora: float
    outer_weights: float
    head_weights: float
    vocabulary: int
    weight_byte: float = float(FLOAT_BYTE)

    def flop(self, load: Load, layers: int) -> float:
        """Of training adapters in so many layers: 4 for each frozen weight and token, 6 for each of the adapter's.

        Attention's products are 2 width n^2 forward over n tokens, and twice that back.
        """
        per_token = 4.0 * self.layer_weights + 6.0 * load.rank * self.layer_lora
        return layers * (per_token * load.token + 6.0 * self.width * load.token2)

    def head_flop(self, load: Load) -> float:
        """Of the head, which runs where a token counts."""
        return 4.0 * self.head_weights * load.counted

    def memory_byte(self, load: Load, layers: int) -> float:
        """Training so many layers and all that is outside of layers, for the largest batch that there may be.

        A linear layer keeps its input and its output for the way back, and what lies between A and B; the loss keeps
        logits and their log-softmax.
        """
        frozen = self.weight_byte * (self.outer_weights + layers * self.layer_weights)
        learning = STATE_BYTE * layers * load.rank * self.layer_lora
        kept = load.token_at_once * layers * (self.layer_lora + load.rank * self.layer_lora / self.width)
        return frozen + learning + FLOAT_BYTE * (kept + 2.0 * self.vocabulary * load.counted_at_once)


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be trained.

    Attributes:
        texts: their number, all epochs together.
        steps: of the optimiser.
        token, token2, counted: tokens, sum of the squared lengths of texts, and tokens that count, of all epochs.
        flags_byte: of the flags that say which rows are sent anew, one a token, of all epochs one way.
        token_at_once, counted_at_once: the most that a batch may have: those of its longest texts.
        rank: of the adapter.
        activation_bits: of each number that is sent.
    """

    texts: int
    steps: int
    token: int
    token2: int
    counted: int
    flags_byte: int
    token_at_once: int
    counted_at_once: int
    rank: int
    activation_bits: ActivationBits

    def bit(self, width: int) -> float:
        """One way over the link, where every row is sent anew: rows of activations and of gradients, and headers."""
        row = -(-width * self.activation_bits // 8) + (2 if self.activation_bits < 16 else 0)
        headers = self.texts * (SENT.size + ROWS.size) + self.flags_byte + self.steps * ROWS.size
        return float(8 * (2 * self.token * row + headers) + NORM_BIT * self.steps)


def load_of(
    texts: Sequence[Encoded],
    epochs: int,
    batch: int,
    rank: int,
    activation_bits: ActivationBits,
    prompt_weight: float = 0.0,
) -> Load:
    """The load of training on texts, without those that count no token; where prompts have a weight, their tokens count."""
    length = np.array([len(text.token) for text in texts if text.counted], np.int64)
    counted = length - 1 if prompt_weight else np.array([t.counted for t in texts if t.counted], np.int64)
    at_once = min(batch, len(length))
    return Load(
        texts=epochs * len(length),
        steps=epochs * -(-len(length) // batch),
        token=epochs * int(length.sum()),
        token2=epochs * int((length**2).sum()),
        counted=epochs * int(counted.sum()),
        flags_byte=epochs * int((-(-length // 8)).sum()),
        token_at_once=int(np.sort(length)[len(length) - at_once :].sum()),
        counted_at_once=int(np.sort(counted)[len(length) - at_once :].sum()),
        rank=rank,
        activation_bits=activation_bits,
    )
