"""report.html: one file that shows a run, without a network connection, on a desk or a phone, in light or dark."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from gainnet.measurement import drawing, learning, learning_pictures, pictures
from gainnet.measurement.metrics import Report
from gainnet.measurement.record import Record
from gainnet.network import topology
from gainnet.network.topology import Topology

_DRAWN_MAX = 1000


def page(record: Record, report: Report, environment: Report) -> str:
    """The HTML of the report: headline figures, the map, pictures, a table of services, how to make it again."""
    places = topology.build(record.scenario.network)
    with drawing.style():
        figures = [*learning_pictures.figures(report["knowledge"]), *_figures(record)]
        network_map = pictures.network_map(record, places)
    template = drawing.templates().get_template("report.html.j2")
    return template.render(
        report=report,
        description=record.scenario.description,
        faults=pictures.faults(record),
        map=network_map,
        movie=_movie(record, places),
        figures=figures,
        tiers=learning.last(report["knowledge"]),
        texts=learning.TEXTS,
        results=[result.name.lower() for result in pictures.RESULT_COLOURS],
        environment=environment,
    )


def _figures(record: Record) -> list[tuple[str, Any, str]]:
    """Title, picture and what to read in it."""
    drawn = [
        ("How tasks ended", pictures.results(record), "Shares of all tasks that arrived."),
        ("Where tasks ran", pictures.placement(record), "Shares of the answered tasks, by tier."),
        ("Latency", pictures.latency_cdf(record), "From arrival to end, of the answered tasks."),
    ]
    if not len(record.frames["time_s"]):
        return drawn
    return [
        *drawn,
        ("Satisfaction", pictures.satisfaction(record), "By the time at which tasks arrived; deadline inside the run."),
        (
            "Prices",
            pictures.prices(record),
            "Mean price of each kind of pool row, scaled to its largest; zero is plenty.",
        ),
        ("Utilisation", pictures.utilisation(record), "Mean over all cells, fixed machines, links."),
        ("Power", pictures.power(record), "Fixed machines with their idle power; of ends only what tasks add."),
        ("Gap", pictures.gap(record), "No plan of the same frame could be better by more than this."),
    ]


def _movie(record: Record, places: Topology) -> dict[str, Any] | None:
    """Sampled positions (16 bits of the map's width and height each) and serving cells, for the moving map."""
    samples, tracked = record.track_cell.shape
    if samples < 2:
        return None
    shown = np.unique(np.linspace(0, tracked - 1, min(tracked, _DRAWN_MAX)).round().astype(int))
    thin = np.unique(np.linspace(0, samples - 1, min(samples, 121)).round().astype(int))
    x0, y0, x1, y1 = pictures.box_m(record, places)
    xy = record.track_xy_m[np.ix_(thin, shown)]
    share = (xy - [x0, y0]) / [x1 - x0, y1 - y0]
    share[..., 1] = 1.0 - share[..., 1]
    position = np.clip(share * 65535.0, 0, 65535).astype("<u2")
    cell = (record.track_cell[np.ix_(thin, shown)] + 1).astype("<u2")
    cells = len(places.cell_xy_m)
    return {
        "samples": len(thin),
        "users": len(shown),
        "time_s": [round(float(t), 3) for t in record.track_time_s[thin]],
        "position": base64.b64encode(position.tobytes()).decode(),
        "cell": base64.b64encode(cell.tobytes()).decode(),
        "colours": ["#888888", *(pictures.cell_colour(c) for c in range(cells))],
    }
