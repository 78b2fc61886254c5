"""Patterns in which one node takes the first steps of an image, once for all that are alike, and another the rest.

A pattern is made of a whole request for images at a node and another node that may begin them. It draws on the first
node's time what the steps that are left take, on the other's a part of what the first steps take: one over the number of
requests alike. Times are those that the nodes measured; before anything was measured those of their cards, between
machines that are as near and requests that are as alike as may be hoped for, so that what may pay is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from gainnet.network.compute_kernel import denoise_s
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import IMAGE
from gainnet.orchestrator.ways import Beginning, Way, Ways

HOPED = 8.0
"""Requests that are alike, as long as nobody knows."""
MOST_SAVED = 0.95
"""Of a drawing's time: measured steps may take longer than cards say."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Whole requests for images, the nodes that may begin them, and what that takes.

    Attributes:
        whole: place of the whole request's pattern.
        task: place of the task.
        ways: of the patterns.
        floats: their numbers.
        saved_s: what it has less to do, in node-seconds.
    """

    whole: Int[np.ndarray, " shared"]
    task: Int[np.ndarray, " shared"]
    ways: Ways
    floats: Float[np.ndarray, "shared number"]
    saved_s: Float[np.ndarray, " shared"]


def shared(tables: Tables, posed: Posed, beginnings: Mapping[tuple[int, int], Beginning], up: np.ndarray) -> Shared:
    """The images of a problem that may be begun elsewhere; ``up`` tells of fixed machines which are."""
    columns, ptr = posed.columns, posed.problem.task_ptr.tolist()
    node, model = posed.ints[:, sk.NODE].tolist(), posed.ints[:, sk.MODEL].tolist()
    kind, run = tables.service_kind[columns.service], tables.run[0]
    places: list[tuple[int, int, int, int]] = []
    times: list[tuple[float, float, float, float, float]] = []
    begun_s: list[float] = []
    for i in np.flatnonzero((kind == IMAGE) & (columns.adapter < 0)).tolist():
        for p in range(ptr[i], ptr[i + 1]):
            steps, images = float(posed.floats[p, pk.STEP]), float(columns.image[i])
            for (here, there), known in beginnings.items():
                first = int(known.part * steps)
                if here != node[p] or not first or not (there >= run["fixed"] or up[there]):
                    continue
                full_s = _drawn_s(tables, here, model[p], steps, images)
                saved_s = images * first * (known.step_s or _step_s(tables, here, model[p]))
                first_s = first * (known.above_step_s or _step_s(tables, there, model[p]))
                alike = max(HOPED if known.alike is None else known.alike, 1.0)
                places.append((p, i, there, first))
                times.append((steps, min(saved_s / full_s, MOST_SAVED), full_s, first_s, known.crossing_s or 0.0))
                begun_s.append(first_s / alike)
    return _made(
        tables, posed, np.array(places, np.int64).reshape(-1, 4), np.array(times).reshape(-1, 5), np.array(begun_s)
    )


def _made(
    tables: Tables,
    posed: Posed,
    places: Int[np.ndarray, "shared place"],
    times: Float[np.ndarray, "shared time"],
    begun_s: Float[np.ndarray, " shared"],
) -> Shared:
    """Patterns of what was found: pattern, task, other node and first steps; steps, part saved, and times in s."""
    whole, task, other, first = places.T
    steps, part, full_s, first_s, crossing_s = times.T
    here, saved_s = posed.ints[whole, sk.NODE], part * full_s
    floats, nodes, run = posed.floats[whole].copy(), tables.node, tables.run[0]
    joules = begun_s * nodes["busy_w"][other] - saved_s * nodes["busy_w"][here]
    money = begun_s * nodes["price_per_s"][other] - saved_s * nodes["price_per_s"][here]
    floats[:, pk.ENERGY_J] += joules
    floats[:, pk.COST] += money + joules * run["energy_price_per_j"]
    floats[:, pk.ASAP_S] += first_s + crossing_s - saved_s
    ways = replace(
        Ways.whole(len(whole)), way=np.full(len(whole), int(Way.SHARING)), upper=whole, node=other,
        model=posed.ints[whole, sk.MODEL], deferred=part, length=first, tokens=steps, draft_s=begun_s, drafted_s=first_s,
        wait_s=crossing_s,
    )  # fmt: skip
    return Shared(whole, task, ways, floats, saved_s)


def _drawn_s(tables: Tables, node: int, model: int, steps: float, images: float) -> float:
    """Seconds of a machine for images."""
    machine, card = tables.node[node], tables.artifact[model]
    step_flop, fixed_flop, overhead_s, size_byte = (
        float(card[name]) for name in ("step_flop", "fixed_flop", "overhead_s", "size_byte")
    )
    rates = float(machine["flop_per_s"]), float(machine["byte_per_s"])
    return float(denoise_s(steps, images, step_flop, fixed_flop, overhead_s, size_byte, *rates))


def _step_s(tables: Tables, node: int, model: int) -> float:
    """Seconds of a machine for a step of one image."""
    return _drawn_s(tables, node, model, 2.0, 1.0) - _drawn_s(tables, node, model, 1.0, 1.0)
