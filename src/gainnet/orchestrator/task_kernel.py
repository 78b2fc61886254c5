"""Tasks as the kernels read them, and which node keeps what of a task while it runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.demand.task import ServiceKind
from gainnet.orchestrator.tables import Tables

TEXT, IMAGE, PERCEPTION, LEARNING = (int(k) for k in ServiceKind)


class TaskColumns(NamedTuple):
    """The columns of Tasks that the kernels read."""

    task_id: NDArray[np.int64]
    arrival_s: NDArray[np.float64]
    service: NDArray[np.int64]
    user: NDArray[np.int64]
    deadline_s: NDArray[np.float64]
    quality_min: NDArray[np.float64]
    value: NDArray[np.float64]
    prompt_token: NDArray[np.float64]
    output_token: NDArray[np.float64]
    step: NDArray[np.float64]
    image: NDArray[np.float64]
    uplink_bit: NDArray[np.float64]
    downlink_bit: NDArray[np.float64]
    adapter: NDArray[np.int64]
    target_range_m: NDArray[np.float64]


@inner
def split_part(tables: Tables, tasks: TaskColumns, i: int) -> float:
    """The part of its model that a learning task trains on its end when the rest is trained above; 0 for all others."""
    output = tasks.output_token[i]
    if tables.service_kind[tasks.service[i]] != LEARNING or output <= 0.0:
        return 0.0
    return tasks.prompt_token[i] / (tasks.prompt_token[i] + output)


@inner
def holder_of(tables: Tables, tasks: TaskColumns, i: int, node: int) -> int:
    """The node that must hold the model: the one that computes; the end itself where it trains the whole of it."""
    learns = tables.service_kind[tasks.service[i]] == LEARNING
    return tables.run[0].fixed + tasks.user[i] if learns and tasks.output_token[i] <= 0.0 else node


@inner
def reserved_byte(tables: Tables, tasks: TaskColumns, i: int, model: int) -> float:
    """Memory that a task takes besides its model: its KV cache, or the end's part of a model trained in two parts."""
    if tables.service_kind[tasks.service[i]] == LEARNING:
        return split_part(tables, tasks, i) * tables.artifact[model].size_byte
    return (tasks.prompt_token[i] + tasks.output_token[i]) * tables.artifact[model].kv_byte_per_token


@inner
def reserver_of(tables: Tables, tasks: TaskColumns, i: int, node: int) -> int:
    """The node whose memory that is."""
    return tables.run[0].fixed + tasks.user[i] if tables.service_kind[tasks.service[i]] == LEARNING else node
