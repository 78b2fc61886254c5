"""The pictures of a knowledge loop: what each tier knows, where requests are answered, who contributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from gainnet.measurement import drawing, learning
from gainnet.measurement.metrics import Report

SUBS = (
    (10.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
    (100.0, (1.0, 2.0, 5.0)),
    (3e3, (1.0, 3.0)),
    (float("inf"), (1.0,)),
)  # fmt: skip
"""Multiples of powers of ten that are told, up to each ratio of an axis's ends."""


def figures(knowledge: Report) -> list[tuple[str, Markup, str]]:
    """Title, picture and what to read in it; none without rounds."""
    rounds = knowledge.get("rounds") or []
    if not rounds:
        return []
    drawn = []
    if known := learning.course(knowledge):
        drawn.append(("What the models know", perplexity(known), "On held-out text; half a round is its way up."))
    if any(notes["figures"].get("ends") for notes in rounds):
        drawn.append(("What ends know", ends(knowledge), "Perplexity of the ends' small models on their own domains."))
    drawn.append(
        ("Closed loop", loop(knowledge), "By period: requests satisfied, answered on ends, and their quality.")
    )
    if any(notes["figures"].get("contribution") for notes in rounds):
        drawn.append(("Contribution", contribution(knowledge), "Shapley value of each edge in each round."))
    return drawn


def perplexity(known: learning.Course) -> Markup:
    """Each tier on its own domain, on the others and on public text, over the rounds; half a round is its way up."""
    panels = drawing.panels(len(known))
    every = [value for texts in known.values() for course in texts.values() for value in course if value]
    subs = _subs(max(every) / min(every)) if every else (1.0,)
    for ax, (tier, texts) in zip(panels, known.items(), strict=True):
        for (text, values), colour in zip(texts.items(), (1, 3, 4), strict=True):
            _line(ax, values, learning.TEXTS[text], colour, at=np.arange(len(values)) / 2.0)
        ax.set_title(tier, fontsize=9.5)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.set_xlabel("rounds closed")
    panels[0].set_ylabel("perplexity (log scale)")
    drawing.common_legend(panels)
    return drawing.svg(panels[0], "learnt", "Perplexity of ends, edges and cloud by round")


def _subs(span: float) -> tuple[float, ...]:
    """Which multiples of powers of ten are told at a logarithmic axis whose ends have this ratio, so that none overlap."""
    return next(subs for most, subs in SUBS if span <= most)


def ends(knowledge: Report) -> Markup:
    """The ends' models on their own domains, one line each."""
    ax = drawing.axes()
    steps = [knowledge["start"].get("ends") or {}, *(n["figures"].get("ends") or {} for n in knowledge["rounds"])]
    for index, name in enumerate(knowledge["domains"]):
        _line(ax, [step[name]["own"] if name in step else None for step in steps], drawing.short(name), index)
    ax.set_ylabel("perplexity")
    _axis(ax, "rounds closed")
    return drawing.svg(ax, "ends", "Perplexity of the ends' models on their own domains by round")


def loop(knowledge: Report) -> Markup:
    """Satisfied requests, the share answered on ends, and quality, by period."""
    ax = drawing.axes()
    periods = knowledge["periods"]
    for key, label, colour in (
        ("satisfaction", "satisfied", 2),
        ("share_on_ends", "on ends", 1),
        ("quality", "quality", 0),
    ):
        _line(ax, [period[key] for period in periods], label, colour, at=[period["begin_s"] for period in periods])
    ax.set_ylim(0.0, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    _axis(ax, "begin of the period (s)")
    return drawing.svg(ax, "loop", "Requests satisfied and answered on ends by period")


def contribution(knowledge: Report) -> Markup:
    """The value that each edge added, by the number that tables and texts give a round; an idle one is not among them."""
    ax = drawing.axes()
    rounds = [notes["figures"].get("contribution") or {} for notes in knowledge["rounds"]]
    numbers = [float(notes["number"]) for notes in knowledge["rounds"]]
    for index, name in enumerate(knowledge["domains"]):
        _line(ax, [shares.get(name) for shares in rounds], drawing.short(name), index, at=numbers)
    ax.set_ylabel("nat a token")
    _axis(ax, "round")
    return drawing.svg(ax, "contribution", "Shapley value of each edge by round")


def _line(
    ax: Axes,
    values: Sequence[Any],
    label: str,
    colour: int,
    at: Sequence[float] | Float[np.ndarray, " value"] | None = None,
) -> None:
    """Values that are there, over their places: 0, 1, ... where none are given."""
    places = range(len(values)) if at is None else at
    there = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    if there:
        ax.plot(*zip(*there, strict=True), marker="o", markersize=2.5, label=label, color=drawing.SERIES[colour % 8])


def _axis(ax: Axes, label: str) -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    drawing.legend(ax)
