"""What a priced router shows of its run: to metrics, and to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gainnet.execution.live import Live
from gainnet.network.state import NetworkState
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.run import Run
from gainnet.serving.router import NodeView, View


def seen(
    run: Run, live: Live, state: NetworkState, numbers: Mapping[str, int], now_s: float, decided: tuple[int, float]
) -> dict[str, Any]:
    """What a page or metrics may show: time, where ends are, their cells, prices, and how each node is.

    ``numbers`` are those of nodes, ``decided`` how many requests were decided, and in how many seconds.
    """
    telemetry, up = live.telemetry, live.telemetry.up(now_s)
    price = run.orchestrator.pool_price()
    return {
        "time_s": now_s,
        "position_m": state.position_m.tolist(),
        "cell": state.candidate[:, 0].tolist(),
        "price": dict(zip(POOL_KINDS, price.tolist(), strict=True)),
        "under_way": live.under_way,
        "decisions": decided[0],
        "decision_s": decided[1],
        "nodes": {
            name: {
                "up": bool(up[node]),
                "speed": float(telemetry.speed[node]),
                "running": int(telemetry.running[node]),
                "waiting": int(telemetry.waiting[node]),
            }
            for name, node in numbers.items()
        },
    }


def view(name: str, run: Run, fixed: int, numbers: Mapping[str, int], found: dict[str, Any]) -> View:
    """The same for people: an edge stands amid its cells, the cloud nowhere; ``found`` is what `seen` says."""
    network = run.network.topology
    cells, ends, places = network.cell_xy_m, found["position_m"], {}
    for node_name, node in numbers.items():
        if node >= fixed:
            x_m, y_m = ends[node - fixed]
            places[node_name] = x_m, y_m
        elif (mine := network.cell_edge == node).any():
            x_m, y_m = cells[mine].mean(axis=0).tolist()
            places[node_name] = x_m, y_m
    return View(
        name,
        tuple((x_m, y_m) for x_m, y_m in cells.tolist()),
        tuple((x_m, y_m, cell) for (x_m, y_m), cell in zip(ends, found["cell"], strict=True)),
        places,
        {one: NodeView(node["up"], node["running"], node["waiting"]) for one, node in found["nodes"].items()},
        {kind.replace("_", " "): value for kind, value in found["price"].items()},
    )
