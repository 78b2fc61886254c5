"""What execution hands to measurement: the tasks that ended in a frame, and what the frame used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int


class Result(IntEnum):
    """How a task ended. Every task that arrives is in exactly one of these."""

    SERVED = 0
    LATE = 1
    REJECTED = 2
    FAILED = 3
    OPEN = 4


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Tasks that ended in a frame (or are still open after the last), as a struct of arrays.

    Attributes:
        task_id: serial number of the task.
        service: index of its service.
        user: the end that asked.
        result: a Result. SERVED: by its deadline and good enough. LATE: good enough but after its deadline. FAILED: lost,
            given up, or not good enough. REJECTED: refused by the matcher or impossible. OPEN: not ended.
        arrival_s: when it arrived.
        deadline_s: when it had to end.
        end_s: when it ended.
        start_s: when it was admitted (nan where it never was).
        quality: quality of its answer, 0 without one.
        quality_min: the quality asked for.
        value: what it is worth when satisfied.
        energy_j: energy of its radio and compute work.
        cost: what it cost, in the currency of the objective (machine time and energy).
        node: node that computed its last compute stage, -1 for none.
        tier: tier of that node, -1 for none.
        cell: cell it used last, -1 for none.
        model: artifact index of its model, -1 for none.
        sensing: sensing level + 1 when the end's radar sensed, -(level + 1) when the cell's did, 0 without sensing.
        handover: hand-overs while it was running.
        retry: how often it was tried again.
    """

    task_id: Int[np.ndarray, " task"]
    service: Int[np.ndarray, " task"]
    user: Int[np.ndarray, " task"]
    result: Int[np.ndarray, " task"]
    arrival_s: Float[np.ndarray, " task"]
    deadline_s: Float[np.ndarray, " task"]
    end_s: Float[np.ndarray, " task"]
    start_s: Float[np.ndarray, " task"]
    quality: Float[np.ndarray, " task"]
    quality_min: Float[np.ndarray, " task"]
    value: Float[np.ndarray, " task"]
    energy_j: Float[np.ndarray, " task"]
    cost: Float[np.ndarray, " task"]
    node: Int[np.ndarray, " task"]
    tier: Int[np.ndarray, " task"]
    cell: Int[np.ndarray, " task"]
    model: Int[np.ndarray, " task"]
    sensing: Int[np.ndarray, " task"]
    handover: Int[np.ndarray, " task"]
    retry: Int[np.ndarray, " task"]

    def __len__(self) -> int:
        return len(self.task_id)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a frame used, over all tasks.

    Attributes:
        radio_energy_j: energy of all cells and of the ends' transmitters.
        compute_energy_j: energy of all machines (idle power of fixed machines counts, of ends only what tasks add).
        cost: what the frame cost, in the currency of the objective (machine time and energy).
        running: tasks admitted and not ended at its end.
        waiting: tasks not yet admitted at its end.
        cell_use: fraction of each cell's band and time in use.
        sounding_use: fraction of each cell's band and time that went to pilots.
        radar_use: fraction of each cell's band and time that went to radar.
        node_use: fraction of each fixed node's time in use.
        link_use: fraction of each backhaul link in use.
        memory_use: fraction of each fixed node's memory in use (weights and KV cache).
        uplink_bit: bits that ends sent.
        downlink_bit: bits that ends got.
        flop: floating-point operations done.
        detections: radar looks that found their target.
        looks: radar looks taken.
        loads: models and adapters whose loading began.
        handovers: ends that changed their serving cell.
    """

    radio_energy_j: float
    compute_energy_j: float
    cost: float
    running: int
    waiting: int
    cell_use: Float[np.ndarray, " cell"]
    sounding_use: Float[np.ndarray, " cell"]
    radar_use: Float[np.ndarray, " cell"]
    node_use: Float[np.ndarray, " fixed"]
    link_use: Float[np.ndarray, " link"]
    memory_use: Float[np.ndarray, " fixed"]
    uplink_bit: float
    downlink_bit: float
    flop: float
    detections: int
    looks: int
    loads: int
    handovers: int
