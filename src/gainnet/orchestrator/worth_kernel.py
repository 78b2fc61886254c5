"""What a pattern is worth: its windows, cost, quality, and how likely it is in time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.orchestrator.stage_kernel import (
    AMOUNT,
    DOWNLINK,
    RATE,
    SENSE,
    TRAIN,
    TRANSFER,
    UNIT,
    UPLINK,
    UPLOAD,
    WAIT,
)
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import IMAGE


@inner
def later_part(begin: float, end: float, frame_s: float) -> float:
    """Fraction of a window after the coming frame: what is used within it is used now or never."""
    if begin >= frame_s:
        return 1.0
    return max(0.0, end - frame_s) / max(end - begin, 1e-9)


@inner
def stage_cost(tables: Tables, user: int, kind: int, node: int, work: float, block_w: float) -> tuple[float, float]:
    """Energy and machine-time price of a stage's work."""
    if kind in (UPLINK, UPLOAD):
        return work * block_w / tables.run[0].end_efficiency, 0.0
    if kind == DOWNLINK:
        return work * tables.run[0].cell_j_per_block_s, 0.0
    if kind == TRANSFER:
        return 0.0, 0.0
    if kind == SENSE:
        if block_w == tables.run[0].block_power_w:
            return work * tables.run[0].cell_j_per_block_s, 0.0
        return work * block_w / tables.run[0].end_efficiency, 0.0
    place = tables.run[0].fixed + user if kind == TRAIN else node
    return work * tables.node[place].busy_w, work * tables.node[place].price_per_s


@inner
def quality_of(tables: Tables, kind: int, model: int, adapter: int, step: float, accuracy: float) -> float:
    """Quality of an answer: the model's score, how far it was denoised, its adapter, and what sensing bought."""
    quality = tables.artifact[model].quality
    if kind == IMAGE:
        quality *= 1.0 - math.exp(-step / tables.artifact[model].steps_scale)
    if adapter >= 0:
        quality += tables.artifact[adapter].quality_gain
    return min(1.0, quality) * accuracy


@inner
def prudent_batch(batch: float) -> float:
    """The batch to plan with: the geometric mean of what the last frames saw and 1.

    At the batch itself, a busy node looks cheap because it is busy, draws more work, and falls behind when the batch
    shrinks; half way (in logarithms) the feedback dies out.
    """
    return math.sqrt(batch)


@inner
def on_time(least_s: float, budget_s: float, pace: float) -> float:
    """How likely a pattern ends in time: surely if its least latency is within the pace, never if it takes the whole budget.

    Linear in between: the nearer to the deadline even without waiting, the less may go otherwise than observed.
    """
    return 1.0 if least_s <= pace * budget_s else (1.0 - least_s / budget_s) / (1.0 - pace)


@inner
def windows(
    floats: NDArray[np.float64], n: int, budget_s: float, pace: float, end_s: NDArray[np.float64]
) -> tuple[float, float]:
    """Planned end of each stage, from now, when ``pace`` of the budget is used.

    Each stage gets its least duration and a part of the slack in proportion to that duration's square root, the law
    that minimises the rates' cost over a chain with a latency budget. Returns the least latency and the planned one.
    """
    least, roots = 0.0, 0.0
    for s in range(n):
        duration = floats[s, AMOUNT] * floats[s, UNIT] / floats[s, RATE]
        least += duration + floats[s, WAIT]
        roots += math.sqrt(duration)
    slack = max(0.0, pace * budget_s - least)
    share = slack / roots if roots > 0.0 else 0.0
    end = 0.0
    for s in range(n):
        duration = floats[s, AMOUNT] * floats[s, UNIT] / floats[s, RATE]
        end += floats[s, WAIT] + duration + share * math.sqrt(duration)
        end_s[s] = end
    return least, end
