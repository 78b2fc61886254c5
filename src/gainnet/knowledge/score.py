"""What answers are worth: ROUGE against references, perplexity, and which references count once duplicates are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from gainnet.errors import InputError
from gainnet.knowledge.example import folded


@dataclass(frozen=True, slots=True)
class Rouge:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L for each text, in [0, 1]."""

    one: Float[np.ndarray, " text"]
    two: Float[np.ndarray, " text"]
    longest: Float[np.ndarray, " text"]

    def means(self, chosen: Bool[np.ndarray, " text"] | None = None) -> tuple[float, float, float] | None:
        """The means of ROUGE-1, 2 and L over the chosen texts (all by default), None where there are none."""
        picked = np.ones(len(self.one), dtype=np.bool_) if chosen is None else chosen
        if not picked.any():
            return None
        return float(self.one[picked].mean()), float(self.two[picked].mean()), float(self.longest[picked].mean())


def rouge(answers: Sequence[str], references: Sequence[str]) -> Rouge:
    """ROUGE of each answer against its reference, as the package ``rouge_score`` has it without stemming.

    Source: Lin 2004; without stemming the published figures of MTS-Dialog come out to two decimals.
    Errors: InputError where there is not one reference for each answer.
    """
    one, two, longest = _f1(answers, references, ("rouge1", "rouge2", "rougeL"))
    return Rouge(one, two, longest)


def rouge1(answers: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, " text"]:
    """ROUGE-1 alone, as `rouge` has it: the longest common subsequence takes most of the time of all three."""
    [found] = _f1(answers, references, ("rouge1",))
    return found


def _f1(answers: Sequence[str], references: Sequence[str], kinds: tuple[str, ...]) -> list[Float[np.ndarray, " text"]]:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]  # of the extra `learn`, and slow to import

    if len(answers) != len(references):
        raise InputError(f"answers: {len(answers)} for {len(references)} references; give one for each")
    scorer = RougeScorer(kinds, use_stemmer=False)
    scores = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return [np.array([score[kind].fmeasure for score in scores], dtype=np.float64) for kind in kinds]


def distinct(references: Sequence[str], seen: Sequence[bool] = ()) -> Bool[np.ndarray, " text"]:
    """Which references are left without duplicates: the first of each text, and none that was ``seen`` in training.

    Texts that differ in case or white space only are the same. ``seen`` is `Example.seen` of each, or nothing.
    Errors: InputError where ``seen`` is given for some references only.
    """
    if len(seen) not in (0, len(references)):
        raise InputError(f"seen: {len(seen)} marks for {len(references)} references; give one for each, or none")
    known: set[str] = set()
    kept = np.zeros(len(references), dtype=np.bool_)
    for index, reference in enumerate(references):
        text = folded(reference)
        kept[index] = text not in known and not (seen and seen[index])
        known.add(text)
    return kept


def perplexity(nat: float, token: int) -> float:
    """exp(loss per token) of a summed negative log-likelihood in nat; infinite where that is beyond floats.

    Errors: InputError without tokens, or where the likelihood is not a number.
    """
    if token < 1 or math.isnan(nat):
        raise InputError(f"perplexity of {nat:g} nat over {token} tokens; it takes a number and at least one token")
    loss = nat / token
    return math.exp(loss) if loss < math.log(np.finfo(np.float64).max) else math.inf
