"""What a person writes about models that answer together: cascades, and drafts that a larger model verifies."""

from __future__ import annotations

from gainnet.scenario.quantity import Count, Fraction, Section


class Collaboration(Section):
    """Ways in which two models may answer a text task; the matcher takes one only where it is worth more than the rest.

    In a ``cascade`` a lower tier's smaller model answers, and a higher tier's larger one where that is not sure: of all
    answers a part ``deferred`` goes up, and a part ``good`` is as good as the larger model's. With ``speculation`` the
    smaller model drafts at most ``draft_longest`` tokens at a time, of which each stays with probability ``acceptance``.
    A live network replaces these numbers by what it measures; there an answer counts as good whose ROUGE-L against the
    larger model's is at least ``alike``, and of each ``audit_every`` answers one is given by both, to learn from.
    """

    cascade: bool = False
    speculation: bool = False
    deferred: Fraction = 0.4
    good: Fraction = 0.95
    acceptance: Fraction = 0.7
    draft_longest: Count = 8
    alike: Fraction = 0.8
    audit_every: Count = 16
