"""The pictures of a knowledge loop: what each tier knows, where requests are answered, who contributed."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gainnet.measurement import drawing
from gainnet.measurement.metrics import Report


def figures(knowledge: Report) -> list[tuple[str, Markup, str]]:
    """Title, picture and what to read in it; none without rounds."""
    rounds = knowledge.get("rounds") or []
    if not rounds:
        return []
    drawn = [
        ("What the models know", perplexity(knowledge), "Perplexity on held-out notes and on public text, by round.")
    ]
    if any(notes["figures"].get("ends") for notes in rounds):
        drawn.append(("What ends know", ends(knowledge), "Perplexity of the ends' small models on their own domains."))
    drawn.append(
        ("Closed loop", loop(knowledge), "By period: requests satisfied, answered on ends, and their quality.")
    )
    if any(notes["figures"].get("contribution") for notes in rounds):
        drawn.append(("Contribution", contribution(knowledge), "Shapley value of each edge in each round."))
    return drawn


def perplexity(knowledge: Report) -> Markup:
    """Foundation model and edges on notes and on public text, over the rounds."""
    ax = drawing.axes()
    start, rounds = knowledge["start"], knowledge["rounds"]
    cloud = [start.get("cloud"), *(notes["figures"].get("cloud") for notes in rounds)]
    _line(ax, [c and c["all"] for c in cloud], "cloud, all domains", 0)
    _line(ax, [c and c["public"] for c in cloud], "cloud, public", 4)
    edges = [None, *(notes["figures"].get("edges") for notes in rounds)]
    for key, label, colour in (("own", "edges, own domain", 1), ("other", "edges, other domains", 3)):
        _line(ax, [e and float(np.mean([scores[key] for scores in e.values()])) for e in edges], label, colour)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    _axis(ax, "rounds")
    return drawing.svg(ax, "learnt", "Perplexity of cloud and edges by round")


def ends(knowledge: Report) -> Markup:
    """The ends' models on their own domains, one line each."""
    ax = drawing.axes()
    steps = [knowledge["start"].get("ends") or {}, *(n["figures"].get("ends") or {} for n in knowledge["rounds"])]
    for index, name in enumerate(knowledge["domains"]):
        _line(ax, [step[name]["own"] if name in step else None for step in steps], drawing.short(name), index)
    _axis(ax, "rounds")
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
        _line(ax, [period[key] for period in periods], label, colour, first=1)
    ax.set_ylim(0.0, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    _axis(ax, "period")
    return drawing.svg(ax, "loop", "Requests satisfied and answered on ends by period")


def contribution(knowledge: Report) -> Markup:
    """The value that each edge added, by round."""
    ax = drawing.axes()
    rounds = [notes["figures"].get("contribution") or {} for notes in knowledge["rounds"]]
    for index, name in enumerate(knowledge["domains"]):
        _line(ax, [shares.get(name) for shares in rounds], drawing.short(name), index, first=1)
    ax.set_ylabel("nat a token")
    _axis(ax, "round")
    return drawing.svg(ax, "contribution", "Shapley value of each edge by round")


def _line(ax: Axes, values: list[Any], label: str, colour: int, first: int = 0) -> None:
    """Values that are there, over their places from ``first`` on."""
    there = [(first + index, value) for index, value in enumerate(values) if value is not None]
    if there:
        ax.plot(*zip(*there, strict=True), marker="o", markersize=2.5, label=label, color=drawing.SERIES[colour % 8])


def _axis(ax: Axes, label: str) -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    drawing.legend(ax)
