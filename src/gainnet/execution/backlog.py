"""What is still to be done, by pool row: of what the fluid model follows, and of what it doesn't."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from gainnet.execution import running_kernel as rk
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.pool import Pool


def needed(
    pool: Pool, running: rk.Running, rows: Int[np.ndarray, " row"], now_s: float
) -> Float[np.ndarray, " pool_row"]:
    """What some rows of the table still need of each resource by the end of each slot.

    Counted as `step_kernel` does for all of them at the end of a frame.
    """
    out = np.zeros(pool.rows)
    if not len(rows):
        return out
    ints, numbers, kinds = running.ints[rows], running.stage_floats[rows], running.stage_ints[rows]
    due = np.zeros((pool.resources, pool.slots))
    begin = np.maximum(running.floats[rows, rk.R_READY] - now_s, 0.0)
    for s in range(int(ints[:, rk.R_STAGES].max())):
        here = (ints[:, rk.R_STAGE] <= s) & (s < ints[:, rk.R_STAGES])
        with np.errstate(invalid="ignore", over="ignore"):
            amount = numbers[:, s, sk.AMOUNT] * numbers[:, s, sk.UNIT]
            needs = here & (amount > 0.0) & (amount < math.inf)
            soonest = np.where(needs, begin + amount / np.where(needs, numbers[:, s, sk.RATE], 1.0), 0.0)
        end = np.maximum(np.maximum(begin, running.stage_end_s[rows, s] - now_s), soonest)
        slot = np.minimum(np.searchsorted(pool.slot_edge_s[1:], end), pool.slots - 1)
        np.add.at(due, (kinds[needs, s, sk.RESOURCE], slot[needs]), amount[needs])
        begin = np.where(here, end, begin)
    out[: pool.memory_start] = np.cumsum(due, axis=1).ravel()
    return out


def busy(pool: Pool, work_s: Float[np.ndarray, " node"]) -> Float[np.ndarray, " pool_row"]:
    """The same for so many node-seconds of work at each node, done as soon as it can."""
    out = np.zeros(pool.rows)
    until_s = pool.slot_edge_s[1:]
    for node in np.flatnonzero(work_s):
        fixed = node < pool.fixed
        first = pool.compute_start + node * pool.compute_parts if fixed else pool.end_start + node - pool.fixed
        given = pool.capacity_per_s[first : first + (pool.compute_parts if fixed else 1)]
        due = np.minimum((given / given.sum())[:, None] * work_s[node], given[:, None] * until_s)
        out[first * pool.slots : (first + len(given)) * pool.slots] = due.ravel()
    return out


def left_s(running: rk.Running, row: int) -> float:
    """Time that what is left of a row takes at the least; inf where it has no link."""
    stages = running.stage_floats[row, running.ints[row, rk.R_STAGE] : running.ints[row, rk.R_STAGES]]
    with np.errstate(invalid="ignore", over="ignore"):
        seconds = (stages[:, sk.AMOUNT] * stages[:, sk.UNIT] / stages[:, sk.RATE]).sum()
    return float(seconds) if seconds < math.inf else math.inf


def composition(
    running: rk.Running, rows: Int[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Of rows that have just entered: the part of their least latency that is decoding, and their node-seconds."""
    stages, last = running.stage_floats[rows], running.ints[rows, rk.R_STAGES]
    kind = np.where(np.arange(stages.shape[1]) < last[:, None], running.stage_ints[rows][:, :, sk.KIND], -1)
    computes = np.isin(kind, (sk.PREFILL, sk.DECODE, sk.DENOISE))
    work = np.where(computes, stages[:, :, sk.AMOUNT] * np.where(computes, stages[:, :, sk.UNIT], 0.0), 0.0)
    decode_s = (work / np.where(computes, stages[:, :, sk.RATE], 1.0))[kind == sk.DECODE]
    part = np.zeros(len(rows))
    part[np.nonzero(kind == sk.DECODE)[0]] = decode_s
    whole_s = np.array([left_s(running, int(row)) for row in rows])
    return np.divide(part, whole_s, out=np.zeros(len(rows)), where=whole_s > 0.0), work.sum(axis=1)


def release(running: rk.Running, residency: rk.Residency, rows: Int[np.ndarray, " row"], now_s: float) -> None:
    """Unpin what some rows hold."""
    ints = running.ints[rows]
    for artifact in (ints[:, rk.R_MODEL], ints[:, rk.R_ADAPTER]):
        held = artifact >= 0
        at = (ints[held, rk.R_HOLDER], artifact[held])
        np.subtract.at(residency.pinned, at, 1)
        residency.used_s[at] = now_s
    np.maximum(residency.pinned, 0, out=residency.pinned)
    np.subtract.at(residency.cache_byte, ints[:, rk.R_RESERVER], running.floats[rows, rk.R_CACHE])
    np.maximum(residency.cache_byte, 0.0, out=residency.cache_byte)
