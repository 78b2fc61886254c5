"""What the command line prints on stdout, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from gainnet.measurement import learning
from gainnet.measurement.comparison import METRICS, Comparison
from gainnet.measurement.contrast import shown
from gainnet.measurement.drawing import figure_text
from gainnet.measurement.metrics import Report

_WIDTH_WHEN_PIPED, _WIDEST = 200, 1000


def console() -> Console:
    """Stdout, wide enough for the tables when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH_WHEN_PIPED)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def _fitting(width: int, columns: Sequence[str], rows: Sequence[Sequence[str]], bold: str | None = None) -> Table:
    """A table of these rows or, where that is too wide, with a column for each of them; the one named so is ``bold``."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == bold else None)
    if Console(width=_WIDEST).measure(table).maximum <= width:
        return table
    table = _table(columns[0], *(row[0] for row in rows))
    table.columns[0].no_wrap = False
    for column, row in zip(table.columns[1:], rows, strict=True):
        column.style = column.header_style = "bold" if row[0] == bold else ""
    for number, name in enumerate(columns[1:], 1):
        table.add_row(name, *(row[number] for row in rows))
    return table


def summary(report: Report, width: int) -> list[Table]:
    """A run's headline, and a row for each service; or a column, where these would be wider than ``width`` characters."""
    qos, energy, decisions = report["qos"], report["energy_j"], report["orchestration"]
    head = _table("", report["scenario"])
    for name, text in (
        ("satisfaction", figure_text(qos["satisfaction"], "%")),
        ("return", figure_text(qos["return"], "%")),
        (
            "latency p50 / p95",
            f"{figure_text(qos['latency_s']['p50'], 's')} / {figure_text(qos['latency_s']['p95'], 's')}",
        ),
        ("quality", figure_text(qos["quality"]["mean"], "", 2)),
        ("energy a satisfied task", figure_text(energy["per_task"], "J")),
        ("cost", figure_text(report["cost"])),
        ("certified gap", figure_text(decisions["gap"]["mean"], "%")),
        ("decision p50", figure_text(decisions["decision_s"]["p50"], "s")),
        ("simulated / wall", f"{figure_text(report['duration_s'], 's')} / {figure_text(report['wall_s'], 's')}"),
    ):
        head.add_row(name, text)
    counts = ("arrived", "served", "late", "rejected", "failed", "open")
    rows = [
        (
            name, *(str(service["tasks"][count]) for count in counts), figure_text(service["satisfaction"], "%"),
            figure_text(service["latency_s"]["p50"], "s"), figure_text(service["latency_s"]["p95"], "s"),
            figure_text(service["quality"]["mean"], "", 2),
        )
        for name, service in report["services"].items()
    ]  # fmt: skip
    services = _fitting(width, ("service", *counts, "satisfied", "p50", "p95", "quality"), rows)
    return [head, services, *(_learnt(report["knowledge"]) if report.get("knowledge") else ())]


def _learnt(knowledge: Report) -> list[Table]:
    """What a run learnt: perplexity of each tier on held-out notes at first and at last, and of what answers in the end."""
    tiers = _table(f"perplexity ({knowledge['arm']})", *learning.TEXTS.values())
    for tier, texts in learning.course(knowledge).items():
        ways = {text: f"{figure_text(values[0])} → {figure_text(values[-1])}" for text, values in texts.items()}
        known = {text: any(value is not None for value in values) for text, values in texts.items()}
        tiers.add_row(tier, *(ways[text] if known[text] else "–" for text in learning.TEXTS))
    final = knowledge.get("final") or {}
    rouge = " / ".join(figure_text(final.get(name), "%") for name in ("rouge1", "rouge2", "rougeL"))
    mbit, rounds = knowledge["uplink_bit"] / 1e6, len(knowledge["rounds"])
    learnt = _table("learnt", f"{rounds} round{'s' if rounds != 1 else ''}" + ("" if final else ", not ended"))
    for name, text in (
        ("test perplexity", figure_text(final.get("perplexity"))),
        ("test ROUGE-1 / 2 / L", rouge),
        ("sent by ends", figure_text(mbit, "Mbit")),
        ("time in rounds", figure_text(knowledge["time_s"], "s")),
        ("energy of rounds", figure_text(knowledge["energy_j"], "J")),
        ("lines in the report", str(len(knowledge["lines"]))),
    ):
        learnt.add_row(name, text)
    return [tiers, learnt] if tiers.rows else [learnt]


def comparison(found: Comparison, width: int) -> list[tuple[str, Table]]:
    """Without a sweep a row for each arm, or a column where that would be wider than ``width`` characters; with one, a table
    for each metric, a row for each value.
    """
    if found.path is None:
        served, learnt = (
            [m for m in found.metrics if (METRICS[m][2][0] == "knowledge") == late] for late in (False, True)
        )
        tables = [(_caption(found), _arms(found, served, "satisfaction", width))]
        return tables + ([("what was learnt", _arms(found, learnt, "rouge1", width))] if learnt else [])
    tables = []
    for metric in found.metrics:
        title, unit, _ = METRICS[metric]
        table = _table(found.path, *found.arms)
        for index, value in enumerate(found.values):
            table.add_row(str(value), *(shown(found.mean(index, arm, metric), unit) for arm in found.arms))
        tables.append((f"{title} (%)" if unit == "%" else title, table))
    differences = _table(found.path, *(arm for arm in found.arms if arm != found.reference))
    for index, value in enumerate(found.values):
        cells = (found.difference(index, arm, "satisfaction") for arm in found.arms if arm != found.reference)
        differences.add_row(str(value), *(shown(cell, "%", signed=True) for cell in cells))
    if len(found.arms) > 1:
        tables.append((f"satisfaction less that of {found.reference}, paired by seed (points)", differences))
    return [(_caption(found), Table(box=None)), *tables]


def _caption(found: Comparison) -> str:
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "1 seed: no intervals"
    return f"{found.scenario}, {seeds}, mean ± 95 % interval"


def _arms(found: Comparison, metrics: list[str], compared: str, width: int) -> Table:
    """Of each arm these metrics, and the difference of one of them to the reference's."""
    named = [METRICS[metric] for metric in metrics]
    titles = [f"{title} (%)" if unit == "%" else title for title, unit, _ in named]
    rows = []
    for arm in found.arms:
        cells = [shown(found.mean(0, arm, metric), METRICS[metric][1]) for metric in metrics]
        own = arm == found.reference
        difference = "reference" if own else shown(found.difference(0, arm, compared), "%", signed=True)
        rows.append((arm, *cells, difference))
    columns = ("arm", *titles, f"Δ {METRICS[compared][0]} to {found.reference} (points)")
    return _fitting(width, columns, rows, bold=found.reference)


def bench(figures: Mapping[str, float], meaning: Mapping[str, str]) -> Table:
    """Each figure, and what it means: said for it, for its last part, or for the start of its name."""
    table = _table("figure", "value", "meaning")
    table.columns[-1].justify = "left"
    for name, value in figures.items():
        table.add_row(name, figure_text(value, "", 4), _meaning(name, meaning))
    for name, text in meaning.items():
        if not any(_meaning(figure, {name: text}) for figure in figures):
            table.add_row(name, "–", f"{text} (not measured here)")
    return table


def _meaning(figure: str, meaning: Mapping[str, str]) -> str:
    parts = figure.split(".")
    candidates = [figure, *(".".join(parts[start:]) for start in range(1, len(parts)))]
    candidates += [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    return next((meaning[name] for name in candidates if name in meaning), "")
