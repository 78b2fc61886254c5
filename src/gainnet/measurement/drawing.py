"""Inline SVG for reports: matplotlib draws, the page's style sheet colours, so that light and dark follow the reader.

Matplotlib gets stand-in colours; `svg` replaces each by the style sheet's variable. Text stays text.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, CARD, STREET = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = tuple(f"#0102{index:02x}" for index in range(8))
GOOD, WARN, BAD, LOST, OPEN = SERIES[2], SERIES[1], SERIES[3], SERIES[4], SERIES[7]
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", CARD: "--card", STREET: "--street"} | {
    colour: f"--s{index}" for index, colour in enumerate(SERIES)
}
_NAME_MAX = 20
_LEGEND_CHARACTERS = 76
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.5,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)!r})",
}


def style() -> Any:
    """The context in which figures are made and drawn."""
    return rc_context(_STYLE)


def axes(width_in: float = 4.7, height_in: float = 2.5) -> Axes:
    """One plot in a figure of its own; call inside `style`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="none")
    return figure.add_subplot()


def panels(number: int, width_in: float = 4.7, height_in: float = 2.5) -> list[Axes]:
    """Plots side by side in a figure of their own, on the same scales; call inside `style`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="none")
    return list(figure.subplots(1, number, sharex=True, sharey=True, squeeze=False)[0])


def short(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "…"


def legend(ax: Axes, columns: int = 4) -> None:
    """A legend above the plot, in rows of at most ``columns``; none where nothing is labelled."""
    labels = ax.get_legend_handles_labels()[1]
    if labels:
        fitting = max(1, _LEGEND_CHARACTERS // (max(map(len, labels)) + 5))
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=min(columns, fitting), borderaxespad=0.1)


def common_legend(axes: Sequence[Axes]) -> None:
    """One legend above plots that share a figure, each label once."""
    found = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure = axes[0].get_figure()
    if found and figure is not None:
        figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=len(found), borderaxespad=0.1)


def spans(ax: Axes, faults: Sequence[tuple[float, float, str]], end_s: float) -> None:
    """Shade the times (begin, end, name) of faults, as far as they fall inside the plot."""
    for index, (begin, end, name) in enumerate(faults):
        if begin < end_s:
            ax.axvspan(begin, min(end, end_s), color=BAD, alpha=0.13, linewidth=0)
            line = 0.99 - 0.08 * (index % 4)
            ax.text(begin, line, f" {name}", transform=ax.get_xaxis_transform(), va="top", fontsize=7, color=MUTED)


def binned(time_s: Float[np.ndarray, " frame"], value: np.ndarray, most: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Time and value (over its first axis) as means of at most ``most`` runs of equal length, for small pictures."""
    step = -(-len(time_s) // most) if len(time_s) else 1
    whole = len(time_s) // step * step
    if not whole:
        return time_s, np.asarray(value, dtype=np.float64)
    shape = (whole // step, step, *value.shape[1:])
    return time_s[:whole].reshape(shape[:2])[:, 0], np.asarray(value[:whole], np.float64).reshape(shape).mean(axis=1)


def svg(ax: Axes, salt: str, label: str) -> Markup:
    """The figure of a plot as SVG for a page; ``salt`` keeps its ids apart from others', ``label`` is read aloud."""
    target = io.StringIO()
    with rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own font draws the text
        figure = ax.get_figure()
        assert isinstance(figure, Figure)
        figure.savefig(target, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r" id=\"[A-Za-z0-9.]+_\d+\"| transform=\"rotate\(-0 [^)]*\)\"", "", text)
    text = re.sub(r"<svg [^>]*?viewBox=(\"[^\"]*\")[^>]*>", _opening(label), text, count=1)
    text = re.sub(r"#0[0-9a-f]{5}\b", lambda match: _variable(match.group()), text)
    text = re.sub(r"\n\s*", "\n", text)
    return Markup(text)  # noqa: S704  every label was escaped by matplotlib


def _opening(label: str) -> str:
    escaped = str(Markup.escape(label)).replace("\\", "\\\\")
    return rf'<svg viewBox=\1 role="img" aria-label="{escaped}">'


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour


@cache
def templates() -> jinja2.Environment:
    """The templates of the pages, everything escaped that is not marked as SVG."""
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["figure"] = figure_text
    return environment


_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def figure_text(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number for people: three digits, SI steps for large and small ones, a dash for None."""
    if value is None:
        return "–"
    if unit == "%":
        return f"{100.0 * value:.1f} %"
    step, sign = _step(value, unit)
    number = value / step
    decimals = 0 if number == 0.0 else min(max(digits - 1 - math.floor(math.log10(abs(number))), 0), 9)
    text = f"{number:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {sign}{unit}".rstrip()


def interval_text(mean: float | None, half_width: float | None, unit: str = "", *, signed: bool = False) -> str:
    """``1.06 ± 0.12 s``: a mean and half of its interval at the same scale; no ± without one, a dash without a mean."""
    if mean is None:
        return "–"
    step, sign = (0.01, "") if unit == "%" else _step(mean, unit)
    half = 0.0 if half_width is None else half_width / step
    number = abs(mean / step)
    finest = 3 - math.floor(math.log10(number)) if number else 9  # four digits of the mean are enough
    size = half or number / 10.0
    decimals = 1 if unit == "%" else (min(max(1 - math.floor(math.log10(size)), 0), finest, 9) if size else 0)
    width = "" if half_width is None else f" ± {half:.{max(decimals, 0)}f}"
    return (
        f"{mean / step:{'+' if signed else ''}.{max(decimals, 0)}f}{width} {sign}{unit if unit != '%' else ''}".rstrip()
    )


def _step(value: float, unit: str) -> tuple[float, str]:
    """The SI step of a value; without a unit there are no small ones."""
    reachable = [(step, sign) for step, sign in _STEPS if abs(value) >= step and (unit or step >= 1.0)]
    return reachable[0] if reachable else (1.0, "")
