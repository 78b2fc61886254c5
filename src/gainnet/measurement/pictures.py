"""The pictures of a run's report, each from recorded columns to one inline SVG."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gainnet.execution.outcome import Result
from gainnet.measurement import drawing, metrics
from gainnet.measurement.record import Record
from gainnet.network.state import Tier
from gainnet.network.topology import Topology
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.execution import Fault

RESULT_COLOURS = {
    Result.SERVED: drawing.GOOD,
    Result.LATE: drawing.WARN,
    Result.REJECTED: drawing.BAD,
    Result.FAILED: drawing.LOST,
    Result.OPEN: drawing.OPEN,
}
TIER_COLOURS = {Tier.END: drawing.SERIES[1], Tier.EDGE: drawing.SERIES[0], Tier.CLOUD: drawing.SERIES[4]}


def faults(record: Record) -> list[tuple[float, float, str]]:
    """(begin, end, name) of each fault of the scenario."""
    return [(f.begin_s, f.end_s, _fault_name(f)) for f in record.scenario.execution.faults]


def _fault_name(fault: Fault) -> str:
    which = getattr(fault, "edge", None) if fault.kind != "cell_outage" else fault.cell
    return fault.kind.replace("_", " ") + (f" {which}" if which is not None else "")


def results(record: Record) -> Markup:
    """How the tasks of each service ended, as shares."""
    parts = {result.name.lower(): (record.tasks["result"] == result, c) for result, c in RESULT_COLOURS.items()}
    ax = _shares(record, np.ones(len(record.tasks["result"]), dtype=bool), parts)
    return drawing.svg(ax, "results", "Share of each service's tasks that were served, late, rejected, failed or open")


def placement(record: Record) -> Markup:
    """Where the answered tasks of each service were computed, as shares of the tiers."""
    tier = record.tasks["tier"]
    parts = {where.name.lower(): (tier == where, colour) for where, colour in TIER_COLOURS.items()}
    ax = _shares(record, metrics.answered(record.tasks) & (tier >= 0), parts)
    return drawing.svg(ax, "placement", "Share of each service's answered tasks computed at end, edge and cloud")


def _shares(record: Record, counted: np.ndarray, parts: dict[str, tuple[np.ndarray, str]]) -> Axes:
    """A bar for each service, split into parts (name -> which tasks, colour) of the tasks that are counted."""
    names = list(record.scenario.demand.services)
    service = record.tasks["service"]
    ax = drawing.axes(height_in=0.9 + 0.36 * len(names))
    total = np.maximum(np.bincount(service[counted], minlength=len(names)), 1)
    left = np.zeros(len(names))
    for label, (which, colour) in parts.items():
        share = np.bincount(service[counted & which], minlength=len(names)) / total
        if not share.any():
            continue
        ax.barh(range(len(names)), share, left=left, color=colour, height=0.62, label=label)
        for row, (begin, part) in enumerate(zip(left, share, strict=True)):
            if part >= 0.08:
                ax.text(begin + part / 2, row, f"{part:.0%}", ha="center", va="center", color=drawing.CARD, fontsize=8)
        left += share
    ax.set_yticks(range(len(names)), [drawing.short(name) for name in names])
    _share_axis(ax)
    drawing.legend(ax, len(parts))
    return ax


def _share_axis(ax: Axes) -> None:
    ax.set_xlim(0.0, 1.0)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(visible=False, axis="y")
    ax.invert_yaxis()
    for label in ax.get_yticklabels():
        label.set_color(drawing.INK)


def latency_cdf(record: Record) -> Markup:
    """Distribution of the latency of answered tasks, by service."""
    ax = drawing.axes()
    done = metrics.answered(record.tasks)
    latency = record.tasks["end_s"] - record.tasks["arrival_s"]
    probability = np.linspace(0.0, 1.0, 101)
    for index, name in enumerate(record.scenario.demand.services):
        mine = latency[done & (record.tasks["service"] == index)]
        if len(mine):
            ax.plot(np.maximum(np.quantile(mine, probability), 1e-3), probability, label=drawing.short(name))
            ax.set_xscale("log")
    ax.set_ylim(0.0, 1.0)
    ax.set_xlabel("latency (s)")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    drawing.legend(ax)
    return drawing.svg(ax, "latency", "Cumulative distribution of latency by service")


def satisfaction(record: Record) -> Markup:
    """Share of satisfied tasks over the time at which they arrived, by service."""
    ax = drawing.axes()
    tasks, run_s = record.tasks, max(record.run_s, 1e-9)
    counted = metrics.due(tasks, run_s)
    bins = max(4, min(20, int(run_s / 4.0)))
    which = np.minimum((tasks["arrival_s"] / run_s * bins).astype(int), bins - 1)
    middle = (np.arange(bins) + 0.5) * run_s / bins
    for index, name in enumerate(record.scenario.demand.services):
        mine = counted & (tasks["service"] == index)
        asked = np.bincount(which[mine], minlength=bins)
        served = np.bincount(which[mine & (tasks["result"] == Result.SERVED)], minlength=bins)
        seen = asked > 0
        ax.plot(middle[seen], served[seen] / asked[seen], label=drawing.short(name), marker="o", markersize=2.5)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    _time_axis(ax, record, top=1.03)
    return drawing.svg(ax, "satisfaction", "Share of satisfied tasks over time by service")


def power(record: Record) -> Markup:
    """Radio and compute power over time."""
    ax = drawing.axes()
    frame_s = record.scenario.frame_s
    time_s, radio = drawing.binned(record.frames["time_s"], record.frames["radio_energy_j"] / frame_s, 120)
    _, compute = drawing.binned(record.frames["time_s"], record.frames["compute_energy_j"] / frame_s, 120)
    ax.stackplot(
        time_s, radio / 1e3, compute / 1e3, labels=("radio", "compute"),
        colors=(drawing.SERIES[0], drawing.SERIES[1]), alpha=0.85, linewidth=0,
    )  # fmt: skip
    ax.set_ylabel("power (kW)")
    _time_axis(ax, record)
    return drawing.svg(ax, "power", "Radio and compute power over time")


def prices(record: Record) -> Markup:
    """Mean price of each kind of pool over time, each as a share of its own largest."""
    ax = drawing.axes()
    time_s, price = drawing.binned(record.frames["time_s"], record.frames["price"])
    for index, name in enumerate(POOL_KINDS):
        largest = price[:, index].max(initial=0.0)
        if largest > 0.0:
            ax.plot(time_s, price[:, index] / largest, label=name.replace("_", " "), color=drawing.SERIES[index],
                    linewidth=1.1)  # fmt: skip
    ax.set_ylabel("price / its largest")
    _time_axis(ax, record, top=1.03)
    return drawing.svg(ax, "prices", "Price of each kind of pool over time")


def gap(record: Record) -> Markup:
    """Certified gap of the plans over time: mean and largest of each moment."""
    ax = drawing.axes()
    asked = record.frames["posed"] > 0
    time_s, value = drawing.binned(record.frames["time_s"][asked], 100.0 * record.frames["plan_gap"][asked])
    ax.fill_between(time_s, value, color=drawing.SERIES[0], alpha=0.2, linewidth=0)
    ax.plot(time_s, value, linewidth=1.1)
    ax.set_ylabel("certified gap (%)")
    _time_axis(ax, record)
    return drawing.svg(ax, "gap", "Certified gap between plan and bound over time")


def utilisation(record: Record) -> Markup:
    """Share of cells, machines, links and memory in use over time (means over all of a kind)."""
    ax = drawing.axes()
    for name, label in (("cell", "cells"), ("node", "machines"), ("memory", "memory"), ("link", "backhaul")):
        use = record.frames[f"{name}_use"]
        if use.shape[1]:
            time_s, value = drawing.binned(record.frames["time_s"], use.mean(axis=1))
            ax.plot(time_s, value, label=label, linewidth=1.1)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    _time_axis(ax, record)
    return drawing.svg(ax, "utilisation", "Share of cells, machines, memory and backhaul in use over time")


def _time_axis(ax: Axes, record: Record, top: float | None = None) -> None:
    ax.set_xlim(0.0, max(record.run_s, record.scenario.frame_s))
    ax.set_ylim(bottom=0.0, top=top)
    ax.set_xlabel("time (s)")
    ax.xaxis.set_major_locator(MaxNLocator(7))
    drawing.spans(ax, faults(record), record.run_s)
    drawing.legend(ax)


def box_m(record: Record, topology: Topology) -> tuple[float, float, float, float]:
    """The rectangle of the map: the area of the network and wherever ends went, with a margin."""
    x0, y0, x1, y1 = topology.area_m
    places = np.concatenate([record.track_xy_m.reshape(-1, 2), topology.cell_xy_m, [(x0, y0), (x1, y1)]])
    low, high = places.min(axis=0), places.max(axis=0)
    margin = 0.03 * max(*(high - low), 10.0)
    return float(low[0] - margin), float(low[1] - margin), float(high[0] + margin), float(high[1] + margin)


def cell_colour(cell: int) -> str:
    """The colour of a cell, told apart from its neighbours by the golden angle; readable on light and dark."""
    hue, chroma = cell * 137.508 % 360.0 / 60.0, 0.62
    second = chroma * (1.0 - abs(hue % 2.0 - 1.0))
    sector = [(chroma, second, 0), (second, chroma, 0), (0, chroma, second), (0, second, chroma), (second, 0, chroma)]
    rgb = [*sector, (chroma, 0, second)][int(hue)]
    return "#" + "".join(f"{round(255 * (part + 0.22)):02x}" for part in rgb)


def network_map(record: Record, topology: Topology) -> Markup:
    """Streets, cells and the ends where they were last seen, coloured by serving cell; fills its frame exactly."""
    x0, y0, x1, y1 = box_m(record, topology)
    width_in = 6.4
    figure = Figure(figsize=(width_in, width_in * (y1 - y0) / (x1 - x0)), facecolor="none")
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    ax.set_xlim(x0, x1)
    ax.set_ylim(y0, y1)
    point_per_m = 72.0 * width_in / (x1 - x0)
    for index, (ax1, ay1, ax2, ay2) in enumerate(topology.streets):
        ax.plot([ax1, ax2], [ay1, ay2], color=drawing.STREET, linewidth=20.0 * point_per_m, gid=f"street-{index}")
    if len(record.track_time_s):
        _ends(ax, record)
    for cell, (x, y) in enumerate(topology.cell_xy_m):
        _cell(ax, cell, x, y, float(topology.cell_azimuth_rad[cell]), (x1 - x0) / 26.0)
    decade = 10.0 ** math.floor(math.log10((x1 - x0) / 4.0))
    bar = max(step * decade for step in (1.0, 2.0, 5.0) if step * decade <= (x1 - x0) / 4.0)
    left, low = x0 + 0.02 * (x1 - x0), y0 + 0.015 * (y1 - y0)
    ax.plot([left, left + bar], [low, low], color=drawing.MUTED, linewidth=1.5)
    ax.text(left + bar, low, f"  {bar:g} m", color=drawing.MUTED, fontsize=8, va="center")
    return drawing.svg(ax, "map", "Map of the network: streets, cells and ends")


def _ends(ax: Axes, record: Record) -> None:
    colours = [cell_colour(int(cell)) if cell >= 0 else drawing.MUTED for cell in record.track_cell[-1]]
    x, y = record.track_xy_m[-1].T
    dots = ax.scatter(x, y, s=9.0, c=colours, linewidths=0)
    dots.set_gid("ends")


def _cell(ax: Axes, cell: int, x: float, y: float, azimuth_rad: float, reach: float) -> None:
    if math.isfinite(azimuth_rad):
        tip = (x + reach * math.cos(azimuth_rad), y + reach * math.sin(azimuth_rad))
        ax.plot([x, tip[0]], [y, tip[1]], color=cell_colour(cell), linewidth=4.0, gid=f"cell-{cell}-beam")
        x, y = tip
    ax.plot(x, y, marker="o", markersize=15, color=cell_colour(cell), markeredgecolor=drawing.CARD,
            markeredgewidth=1.5, gid=f"cell-{cell}")  # fmt: skip
    ax.text(x, y, str(cell), color="white", fontsize=7.5, ha="center", va="center_baseline", fontweight="bold",
            gid=f"cell-{cell}-name")  # fmt: skip
