"""What a model can take: tokens that it knows, no more of them than its context, and drafts with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Checks of what is asked, before any work.

    Attributes:
        vocabulary: how many tokens there are.
        context: how many positions.
    """

    vocabulary: int
    context: int

    def prompt(self, given: Sequence[int], after: int) -> list[int]:
        """A prompt that leaves room for so many tokens after it. InputError where it is none."""
        found = self.known(given, "prompt")
        if not found:
            raise InputError("prompt: is empty")
        if len(found) + after > self.context:
            raise InputError(f"prompt: {len(found)} tokens: must be at most {self.context - after}")
        return found

    def known(self, given: Sequence[int], what: str) -> list[int]:
        """Tokens. InputError where one is none."""
        found = [int(token) for token in given]
        odd = next((token for token in found if not 0 <= token < self.vocabulary), None)
        if odd is not None:
            raise InputError(f"{what}: token {odd}: must be from 0 to {self.vocabulary - 1}")
        return found

    def draft(self, given: Sequence[int], probability: Float[np.ndarray, "draft vocabulary"] | None) -> list[int]:
        """A draft. InputError where a token is none, or was not drawn from its probabilities."""
        found = self.known(given, "draft")
        if probability is None:
            return found
        shape = (len(found), self.vocabulary)
        if probability.shape != shape or not np.isfinite(probability).all() or (probability < 0.0).any():
            raise InputError(f"draft: its probabilities must be finite, not negative, and {shape[0]} x {shape[1]}")
        if not (probability[np.arange(len(found)), found] > 0.0).all():
            raise InputError("draft: one of its tokens has probability 0, so it was not drawn from that")
        return found
