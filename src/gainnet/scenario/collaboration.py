"""What a person writes about machines that answer together: cascades, drafts that are verified, first steps that are shared."""

from __future__ import annotations

from gainnet.scenario.quantity import Count, Fraction, Section


class Collaboration(Section):
    """Ways in which two machines may answer a task; the matcher takes one only where it is worth more than the rest.

    In a ``cascade`` a lower tier's smaller model answers, and a higher tier's larger one where that is not sure: of all
    answers a part ``deferred`` goes up, and a part ``good`` is as good as the larger model's. With ``speculation`` the
    smaller model drafts at most ``draft_longest`` tokens at a time, of which each stays with probability ``acceptance``.
    With ``sharing`` one node takes the first steps of images once for all that are alike, and others go on from there;
    in a live network only, whose nodes measure how many are alike. A live network replaces these numbers by what it
    measures; there an answer counts as good whose ROUGE-1 against the larger model's is at least ``alike``, and of each
    ``audit_every`` answers one is given by both, to learn from.
    """

    cascade: bool = False
    speculation: bool = False
    sharing: bool = False
    deferred: Fraction = 0.4
    good: Fraction = 0.95
    acceptance: Fraction = 0.7
    draft_longest: Count = 8
    alike: Fraction = 0.8
    audit_every: Count = 16
