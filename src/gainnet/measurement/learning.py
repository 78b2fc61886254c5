"""How good each tier of a knowledge loop is before and after each direction of its rounds, from the figures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gainnet.measurement.metrics import Report

TIERS = ("ends", "edges", "cloud")
TEXTS = {"own": "own domain", "other": "other domains", "public": "public text"}
Course = dict[str, dict[str, list[float | None]]]


def course(knowledge: Report) -> Course:
    """Perplexity by tier and text: before the first round, then of each round after its way up and after its way down.

    Of ends and edges it is that of the mean of their domains' losses; the cloud's own domain is all of them, and no other
    is left. None where it is not known. Only tiers that a round tells of.
    """
    found: Course = {}
    rounds = [notes["figures"] for notes in knowledge.get("rounds") or ()]
    for tier in TIERS:
        if not any(figures.get(tier) for figures in rounds):
            continue
        steps = [knowledge["start"].get(tier)]
        for figures in rounds:
            up = {"ends": steps[-1], "edges": figures.get("up"), "cloud": figures.get(tier)}[tier]
            steps += [up, figures.get(tier)]
        told = [_cloud(step) if tier == "cloud" else _mean(step) for step in steps]
        found[tier] = {text: [step.get(text) for step in told] for text in TEXTS}
    return found


def last(knowledge: Report) -> Course:
    """The same of the last round only: before it, after its way up, after its way down."""
    return {tier: {text: values[-3:] for text, values in texts.items()} for tier, texts in course(knowledge).items()}


def _cloud(step: Mapping[str, Any] | None) -> dict[str, float]:
    return _finite({"own": step["all"], "public": step["public"]} if step else {})


def _mean(step: Mapping[str, Mapping[str, float]] | None) -> dict[str, float]:
    """Over the domains, by text; geometric, since it is the logarithm that is a loss."""
    if not step:
        return {}
    logs = {text: [math.log(scores[text]) for scores in step.values()] for text in TEXTS}
    means = _finite({text: sum(found) / len(found) for text, found in logs.items()})
    return {text: math.exp(mean) for text, mean in means.items()}


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    return {text: value for text, value in scores.items() if math.isfinite(value)}
