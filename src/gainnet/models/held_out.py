"""Which public texts are held out: the same ones wherever a model is trained on them or judged by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HELD, HELD_MAX = 0.05, 512
"""Part of public texts that is held out, and how many at most."""


def hold_out(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts to learn from, and those held out: of which the SHA-256 is smallest, so that it is the same ones anywhere.

    At least one is held out, `HELD` of them, and at most `HELD_MAX`.
    """
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    number = min(max(1, round(HELD * len(texts))), HELD_MAX)
    held = set(sorted(range(len(texts)), key=digests.__getitem__)[:number])
    return tuple(t for i, t in enumerate(texts) if i not in held), tuple(texts[i] for i in sorted(held))
