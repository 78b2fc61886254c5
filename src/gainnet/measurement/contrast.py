"""compare.html: the pictures and tables of a comparison, in one file like report.html."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gainnet.measurement import drawing
from gainnet.measurement.comparison import METRICS, Comparison
from gainnet.measurement.drawing import figure_text, interval_text
from gainnet.measurement.interval import Interval
from gainnet.measurement.metrics import Report


def page(comparison: Comparison, environment: Report) -> str:
    """The HTML: a picture for each metric (curves over a sweep, else points), and a table for each value."""
    with drawing.style():
        drawn = [
            (METRICS[metric][0], _curve(comparison, metric) if comparison.path else _points(comparison, metric))
            for metric in comparison.metrics
        ]
    return drawing.templates().get_template("compare.html.j2").render(
        comparison=comparison, figures=drawn, tables=_tables(comparison), environment=environment,
        titles=[METRICS[metric][0] for metric in comparison.metrics],
    )  # fmt: skip


def shown(found: Interval, unit: str, *, signed: bool = False) -> str:
    """An interval for people; shares (unit %) as percentages without the sign."""
    return interval_text(found.mean, found.half_width, unit, signed=signed)


def _tables(comparison: Comparison) -> list[tuple[str, list[tuple[str, list[str], str]]]]:
    """(caption, rows) for each value; a row is the arm, its metrics, and its difference of satisfaction."""
    tables = []
    for index, value in enumerate(comparison.values):
        rows = []
        for arm in comparison.arms:
            cells = [shown(comparison.mean(index, arm, m), METRICS[m][1]) for m in comparison.metrics]
            difference = comparison.difference(index, arm, "satisfaction")
            rows.append((arm, cells, "" if arm == comparison.reference else shown(difference, "%", signed=True)))
        tables.append((f"{comparison.path} = {value}" if comparison.path else "", rows))
    return tables


def _points(comparison: Comparison, metric: str) -> Markup:
    """Each arm's mean with its interval, one below the other."""
    arms = comparison.arms
    ax = drawing.axes(height_in=0.7 + 0.3 * len(arms))
    for row, arm in enumerate(arms):
        found = comparison.mean(0, arm, metric)
        if found.mean is not None:
            colour = drawing.SERIES[0] if arm == comparison.reference else drawing.SERIES[7]
            ax.errorbar(found.mean, row, xerr=found.half_width or 0.0, marker="o", capsize=3, color=colour)
    ax.set_yticks(range(len(arms)), [drawing.short(arm) for arm in arms], color=drawing.INK)
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(_formatter(metric))
    ax.locator_params(axis="x", nbins=6)
    ax.margins(x=0.08)
    return drawing.svg(ax, metric, f"{METRICS[metric][0]} of each arm with its 95 % interval")


def _curve(comparison: Comparison, metric: str) -> Markup:
    """Each arm's mean over the swept values, with intervals."""
    ax = drawing.axes(height_in=2.7)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in comparison.values)
    at = np.array(comparison.values if numbers else range(len(comparison.values)), dtype=np.float64)
    for index, arm in enumerate(comparison.arms):
        found = [comparison.mean(value, arm, metric) for value in range(len(at))]
        mean = np.array([np.nan if f.mean is None else f.mean for f in found])
        half = np.array([f.half_width or 0.0 for f in found])
        ax.errorbar(at, mean, yerr=half, marker="o", markersize=3, capsize=2.5, label=drawing.short(arm),
                    color=drawing.SERIES[index % len(drawing.SERIES)])  # fmt: skip
    _sweep_axis(ax, comparison, at, numbers=numbers)
    ax.yaxis.set_major_formatter(_formatter(metric))
    drawing.legend(ax)
    return drawing.svg(ax, metric, f"{METRICS[metric][0]} of each arm over {comparison.path}")


def _sweep_axis(ax: Axes, comparison: Comparison, at: np.ndarray, *, numbers: bool) -> None:
    if not numbers:
        ax.set_xticks(at, [str(value) for value in comparison.values])
    elif at.min() > 0.0 and at.max() / at.min() >= 20.0:
        ax.set_xscale("log")
    if numbers:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: figure_text(value)))
        ax.xaxis.set_minor_formatter("")
    ax.set_xlabel(str(comparison.path))


def _formatter(metric: str) -> FuncFormatter:
    unit = METRICS[metric][1]
    if unit == "%":
        return FuncFormatter(lambda value, _: f"{100.0 * value:.4g}%")
    return FuncFormatter(lambda value, _: figure_text(value, unit))
