"""One way to carry out a task, expanded into its stages: resource, work, greatest rate, waiting time of each.

Pattern enumeration calls this for every candidate pattern with the observed links; execution calls it again for the
chosen one. Stage columns: WORK_* below index the float columns, KIND and RESOURCE the integer ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import inner
from gainnet.demand.task import Stage
from gainnet.network.compute_kernel import (
    decode_step_flop,
    denoise_flop,
    denoise_s,
    load_s,
    prefill_flop,
    prefill_s,
    train_flop,
    train_s,
)
from gainnet.network.sensing_kernel import integrated_snr, perception_accuracy, radar_snr
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import IMAGE, LEARNING, TaskColumns, split_part

KIND, RESOURCE = 0, 1
INT_COLUMNS = 2
# amount: bit (radio, link), token (decode), node-second (other compute), resource-block-second (sense).
# unit: resource units for one amount. rate: greatest resource units a second. wait: seconds before it may begin.
# flop: floating-point operations for one amount. block_w: transmit power in one resource block.
# Decoding at batch b costs max(FLOP / speed, TOKEN_WEIGHT / b + TOKEN_CACHE) node-seconds a token.
AMOUNT, UNIT, RATE, WAIT, FLOP, TOKEN_WEIGHT, TOKEN_CACHE, BLOCK_W = range(8)
FLOAT_COLUMNS = 8

SENSE, UPLINK, PREFILL, DENOISE, DECODE, DOWNLINK, TRAIN, UPLOAD, AGGREGATE, TRANSFER, SPLIT = (int(s) for s in Stage)
NO_SENSING, END_SENSES, CELL_SENSES = 0, 1, 2
RADIO_SENSE, RADIO_UP, RADIO_DOWN = 0, 1, 2
TRAIN_BATCH_TOKEN = 2048.0
AGGREGATE_BYTE_PER_BIT = 0.5

# Columns of a pattern's description.
TASK, CANDIDATE, CELL, NODE, MODEL, ADAPTER, SENSING, LEVEL = range(8)
PATTERN_INTS = 8


class View(NamedTuple):
    """The network in a frame as somebody sees it.

    ``spare_edge`` lists the edges with most time to spare first. ``bid`` is what a unit of each resource's time to come
    is expected to be worth to tasks that have not arrived yet.
    """

    now_s: float
    candidate: NDArray[np.int64]
    uplink: NDArray[np.float64]
    downlink: NDArray[np.float64]
    uplink_power_w: NDArray[np.float64]
    cell_distance_m: NDArray[np.float64]
    sensing_up: bool
    node_up: NDArray[np.bool_]
    end_up: NDArray[np.bool_]
    batch: NDArray[np.float64]
    resident: NDArray[np.bool_]
    ready_s: NDArray[np.float64]
    pinned: NDArray[np.int64]
    spare_edge: NDArray[np.int64]
    bid: NDArray[np.float64]


@inner
def radio_resource(tables: Tables, cell: int, part: int) -> int:
    """The resource of a cell's band for a process (sense, up, down)."""
    return cell * tables.run[0].radio_parts + (part if tables.run[0].radio_parts > 1 else 0)


@inner
def compute_resource(tables: Tables, node: int, kind: int) -> int:
    """The resource of a node's time for a service kind."""
    if node >= tables.run[0].fixed:
        return tables.run[0].end_start + node - tables.run[0].fixed
    return (
        tables.run[0].compute_start
        + node * tables.run[0].compute_parts
        + (kind if tables.run[0].compute_parts > 1 else 0)
    )


@inner
def add_stage(
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    n: int,
    kind: int,
    resource: int,
    amount: float,
    unit: float,
    rate: float,
    wait: float,
) -> int:
    """Write stage n and return n + 1."""
    ints[n, KIND] = kind
    ints[n, RESOURCE] = resource
    floats[n, AMOUNT] = amount
    floats[n, UNIT] = unit
    floats[n, RATE] = rate
    floats[n, WAIT] = wait
    floats[n, FLOP] = 0.0
    floats[n, TOKEN_WEIGHT] = 0.0
    floats[n, TOKEN_CACHE] = 0.0
    floats[n, BLOCK_W] = 0.0
    return n + 1


@inner
def add_radio(
    tables: Tables,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    n: int,
    kind: int,
    cell: int,
    bit: float,
    bit_per_s_hz: float,
    block_w: float,
) -> int:
    """A radio stage: ``bit / (efficiency x block_hz)`` resource-block-seconds, the whole band at most."""
    part = RADIO_DOWN if kind == DOWNLINK else RADIO_UP
    unit = 1.0 / (bit_per_s_hz * tables.run[0].block_hz)
    n = add_stage(ints, floats, n, kind, radio_resource(tables, cell, part), bit, unit, tables.run[0].blocks, 0.0)
    floats[n - 1, BLOCK_W] = block_w
    return n


@inner
def add_path(
    tables: Tables, ints: NDArray[np.int64], floats: NDArray[np.float64], n: int, source: int, sink: int, bit: float
) -> int:
    """One transfer for each backhaul link on the way, store and forward."""
    if source == sink:
        return n
    path = source * tables.run[0].fixed + sink
    for k in range(tables.path_ptr[path], tables.path_ptr[path + 1]):
        link = tables.path_link[k]
        n = add_stage(
            ints, floats, n, TRANSFER, tables.run[0].link_start + link, bit, 1.0, tables.link[link].bit_per_s,
            tables.link[link].latency_s,
        )  # fmt: skip
    return n


@inner
def add_compute(
    tables: Tables,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    n: int,
    kind: int,
    node: int,
    model: int,
    prompt: float,
    output: float,
    step: float,
    image: float,
    batch: float,
    wait: float,
) -> int:
    """The stages that answer a task at a node: prefill and decode, or denoise; the first waits until the model is there.

    Decoding is not linear in requests, since a step reads the weights once for the whole batch: a token is charged its own
    cache and flop and ``1 / b`` of the weights at the planned batch b, and takes a step of that batch.
    """
    resource = compute_resource(tables, node, kind)
    speed, bandwidth = tables.node[node].flop_per_s, tables.node[node].byte_per_s
    step_besides, text_besides = tables.node[node].step_overhead_s, tables.node[node].text_overhead_s
    wait += tables.node[node].request_overhead_s
    size = tables.artifact[model].size_byte
    if kind == IMAGE:
        work = denoise_s(
            step,
            image,
            tables.artifact[model].step_flop,
            tables.artifact[model].fixed_flop,
            tables.artifact[model].overhead_s,
            size,
            speed,
            bandwidth,
        )
        n = add_stage(ints, floats, n, DENOISE, resource, work, 1.0, 1.0, wait)
        floats[n - 1, FLOP] = (
            denoise_flop(step, image, tables.artifact[model].step_flop, tables.artifact[model].fixed_flop) / work
        )
        return n
    flop, attention = tables.artifact[model].flop_per_token, tables.artifact[model].attention_flop_per_token2
    cache = tables.artifact[model].kv_byte_per_token
    work = prefill_s(prompt, flop, attention, cache, size, speed, bandwidth, step_besides, text_besides)
    n = add_stage(ints, floats, n, PREFILL, resource, work, 1.0, 1.0, wait)
    floats[n - 1, FLOP] = prefill_flop(prompt, flop, attention) / work
    context = prompt + 0.5 * output
    per_token = decode_step_flop(1.0, context, flop, attention)
    per_weight, per_cache = size / bandwidth + step_besides, context * cache / bandwidth + text_besides
    unit = max(per_token / speed, per_weight / batch + per_cache)
    step_s = max(batch * per_token / speed, per_weight + batch * per_cache)
    n = add_stage(ints, floats, n, DECODE, resource, output, unit, unit / step_s, 0.0)
    floats[n - 1, FLOP] = per_token
    floats[n - 1, TOKEN_WEIGHT] = per_weight
    floats[n - 1, TOKEN_CACHE] = per_cache
    return n


@inner
def accuracy_of(tables: Tables, sensing: int, level: int, target_m: float, cell_m: float) -> float:
    """Accuracy of a radar look. A cell that senses sees the target at ``sqrt(d^2 + r^2)``: its bearing is unknown."""
    block, symbol = float(tables.level[level].block), float(tables.level[level].symbol)
    power = look_power_w(tables, sensing, block)
    if sensing == END_SENSES:
        gain, figure, distance = tables.run[0].end_radar_gain, tables.run[0].end_noise_figure, target_m
    else:
        gain, figure = tables.run[0].cell_radar_gain, tables.run[0].cell_noise_figure
        distance = math.sqrt(cell_m * cell_m + target_m * target_m)
    rho = radar_snr(
        power,
        gain,
        tables.run[0].wavelength_m,
        tables.run[0].cross_section_m2,
        max(distance, 1.0),
        figure,
        tables.run[0].subcarrier_hz,
    )
    snr = integrated_snr(rho, block, symbol)
    return perception_accuracy(
        snr, block, tables.run[0].subcarrier_hz, tables.run[0].false_alarm_probability, tables.run[0].range_error_max_m
    )


@inner
def look_power_w(tables: Tables, sensing: int, block: float) -> float:
    """Transmit power of a radar look in one resource block: all an end has over its blocks, or a cell's usual density."""
    return tables.run[0].end_power_max_w / block if sensing == END_SENSES else tables.run[0].block_power_w


@inner
def add_look(
    tables: Tables, ints: NDArray[np.int64], floats: NDArray[np.float64], n: int, sensing: int, level: int, cell: int
) -> int:
    """A radar look as a stage on the cell's band."""
    block = float(tables.level[level].block)
    resource = radio_resource(tables, cell, RADIO_SENSE)
    n = add_stage(ints, floats, n, SENSE, resource, tables.level[level].cost_block_s, 1.0, block, 0.0)
    floats[n - 1, BLOCK_W] = look_power_w(tables, sensing, block)
    return n


@inner
def add_training(
    tables: Tables,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    n: int,
    kind: int,
    node: int,
    model: int,
    token: float,
    wait: float,
) -> int:
    """Training of an adapter on its frozen base at a node, unless there is nothing to train on."""
    if token <= 0.0:
        return n
    per_token = 2.0 * tables.artifact[model].flop_per_token
    work = train_s(
        token, TRAIN_BATCH_TOKEN, per_token, tables.artifact[model].size_byte, tables.node[node].flop_per_s,
        tables.node[node].byte_per_s,
    )  # fmt: skip
    n = add_stage(ints, floats, n, kind, compute_resource(tables, node, LEARNING), work, 1.0, 1.0, wait)
    floats[n - 1, FLOP] = train_flop(token, per_token) / work
    return n


@inner
def add_round(
    tables: Tables,
    tasks: TaskColumns,
    pick: NDArray[np.int64],
    wait: float,
    uplink: float,
    downlink: float,
    uplink_w: float,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
) -> int:
    """The stages of a learning task: fetch the adapter, train, send up, train the rest, aggregate; without the empty ones.

    In split training the end reads its part of the model from storage before it begins, and the node waits for the model.
    """
    i, cell, node, model = pick[TASK], pick[CELL], pick[NODE], pick[MODEL]
    home, edge = tables.run[0].fixed + tasks.user[i], tables.cell_edge[pick[CELL]]
    down, up, part = tasks.downlink_bit[i], tasks.uplink_bit[i], split_part(tables, tasks, i)
    n, at_home, above = 0, wait, 0.0
    if tasks.output_token[i] > 0.0:
        at_home, above = 0.0, wait
        if part > 0.0:
            at_home = load_s(
                part * tables.artifact[model].size_byte, 0.0, tables.node[home].load_byte_per_s,
                tables.node[home].load_overhead_s,
            )  # fmt: skip
    if down > 0.0:
        n = add_path(tables, ints, floats, n, node, edge, down)
        n = add_radio(tables, ints, floats, n, DOWNLINK, cell, down, downlink, tables.run[0].block_power_w)
    n = add_training(tables, ints, floats, n, TRAIN, home, model, tasks.prompt_token[i], at_home)
    if up > 0.0:
        n = add_radio(tables, ints, floats, n, UPLOAD, cell, up, uplink, uplink_w)
        n = add_path(tables, ints, floats, n, edge, node, up)
    n = add_training(tables, ints, floats, n, SPLIT, node, model, tasks.output_token[i], above)
    if up > 0.0:
        work = up * AGGREGATE_BYTE_PER_BIT / tables.node[node].byte_per_s
        n = add_stage(ints, floats, n, AGGREGATE, compute_resource(tables, node, LEARNING), work, 1.0, 1.0, 0.0)
    return n


@inner
def model_wait_s(
    tables: Tables, resident: NDArray[np.bool_], ready_s: NDArray[np.float64], node: int, artifact: int, now_s: float
) -> float:
    """Seconds until an artifact may be used at a node: 0 where resident, else what its loading (still) takes."""
    if resident[node, artifact]:
        return 0.0
    if ready_s[node, artifact] < math.inf:
        return max(0.0, ready_s[node, artifact] - now_s)
    return load_s(
        tables.artifact[artifact].size_byte,
        tables.artifact[artifact].load_s,
        tables.node[node].load_byte_per_s,
        tables.node[node].load_overhead_s,
    )


@inner
def expand(
    tables: Tables,
    tasks: TaskColumns,
    view: View,
    pick: NDArray[np.int64],
    step: float,
    batch: float,
    wait: float,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
) -> int:
    """The stages of the task that ``pick`` names under that pattern; returns their number."""
    i, cell, node, model, sensing = pick[TASK], pick[CELL], pick[NODE], pick[MODEL], pick[SENSING]
    user, kind = tasks.user[i], tables.service_kind[tasks.service[i]]
    k = max(pick[CANDIDATE], 0)
    uplink, downlink, uplink_w = view.uplink[user, k], view.downlink[user, k], view.uplink_power_w[user, k]
    prompt, output, image, uplink_bit = (
        tasks.prompt_token[i],
        tasks.output_token[i],
        tasks.image[i],
        tasks.uplink_bit[i],
    )
    n = 0
    home = tables.run[0].fixed + user
    if sensing != NO_SENSING:
        n = add_look(tables, ints, floats, n, sensing, pick[LEVEL], cell)
    if kind == LEARNING:
        return add_round(tables, tasks, pick, wait, uplink, downlink, uplink_w, ints, floats)
    answer = tasks.downlink_bit[i] + (image * tables.artifact[model].image_bit if kind == IMAGE else 0.0)
    local, edge = node == home, tables.cell_edge[max(cell, 0)]
    if local and sensing == CELL_SENSES:
        n = add_radio(tables, ints, floats, n, DOWNLINK, cell, uplink_bit, downlink, tables.run[0].block_power_w)
    elif not local:
        if sensing != CELL_SENSES:
            n = add_radio(tables, ints, floats, n, UPLINK, cell, uplink_bit, uplink, uplink_w)
        n = add_path(tables, ints, floats, n, edge, node, uplink_bit)
    n = add_compute(tables, ints, floats, n, kind, node, model, prompt, output, step, image, batch, wait)
    if not local:
        n = add_path(tables, ints, floats, n, node, edge, answer)
        n = add_radio(tables, ints, floats, n, DOWNLINK, cell, answer, downlink, tables.run[0].block_power_w)
    return n
