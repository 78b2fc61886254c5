"""One way to carry out a task, expanded into its stages: resource, work, greatest rate, waiting time of each.

Pattern enumeration calls this for every candidate pattern with the observed links; execution calls it again for the
chosen one. Stage columns: WORK_* below index the float columns, KIND and RESOURCE the integer ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit
from gainnet.demand.task import ServiceKind, Stage
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

STAGES_MAX = 14
KIND, RESOURCE = 0, 1
INT_COLUMNS = 2
# amount: bit (radio, link), token (decode), node-second (other compute), resource-block-second (sense).
# unit: resource units for one amount. rate: greatest resource units a second. wait: seconds before it may begin.
# flop: floating-point operations for one amount. block_w: transmit power in one resource block.
# Decoding at batch b costs max(FLOP / speed, TOKEN_WEIGHT / b + TOKEN_CACHE) node-seconds a token.
AMOUNT, UNIT, RATE, WAIT, FLOP, TOKEN_WEIGHT, TOKEN_CACHE, BLOCK_W = range(8)
FLOAT_COLUMNS = 8

SENSE, UPLINK, PREFILL, DENOISE, DECODE, DOWNLINK, TRAIN, UPLOAD, AGGREGATE, TRANSFER = (int(s) for s in Stage)
TEXT, IMAGE, PERCEPTION, LEARNING = (int(k) for k in ServiceKind)
NO_SENSING, END_SENSES, CELL_SENSES = 0, 1, 2
RADIO_SENSE, RADIO_UP, RADIO_DOWN = 0, 1, 2
TRAIN_BATCH_TOKEN = 2048.0
AGGREGATE_BYTE_PER_BIT = 0.5


@njit
def radio_resource(tables: Tables, cell: int, part: int) -> int:
    """The resource of a cell's band for a process (sense, up, down)."""
    return cell * tables.radio_parts + (part if tables.radio_parts > 1 else 0)


@njit
def compute_resource(tables: Tables, node: int, kind: int) -> int:
    """The resource of a node's time for a service kind."""
    if node >= tables.fixed:
        return tables.end_start + node - tables.fixed
    return tables.compute_start + node * tables.compute_parts + (kind if tables.compute_parts > 1 else 0)


@njit
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


@njit
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
    unit = 1.0 / (bit_per_s_hz * tables.block_hz)
    n = add_stage(ints, floats, n, kind, radio_resource(tables, cell, part), bit, unit, tables.blocks, 0.0)
    floats[n - 1, BLOCK_W] = block_w
    return n


@njit
def add_path(
    tables: Tables, ints: NDArray[np.int64], floats: NDArray[np.float64], n: int, source: int, sink: int, bit: float
) -> int:
    """One transfer for each backhaul link on the way, store and forward."""
    if source == sink:
        return n
    path = source * tables.fixed + sink
    for k in range(tables.path_ptr[path], tables.path_ptr[path + 1]):
        link = tables.path_link[k]
        n = add_stage(
            ints, floats, n, TRANSFER, tables.link_start + link, bit, 1.0, tables.link_bit_per_s[link],
            tables.link_latency_s[link],
        )  # fmt: skip
    return n


@njit
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
    """The stages that answer a task at a node: prefill and decode, or denoise; the first waits until the model is there."""
    resource = compute_resource(tables, node, kind)
    speed, bandwidth = tables.flop_per_s[node], tables.byte_per_s[node]
    size = tables.size_byte[model]
    if kind == IMAGE:
        work = denoise_s(
            step, image, tables.step_flop[model], tables.fixed_flop[model], tables.overhead_s[model], size, speed, bandwidth
        )
        n = add_stage(ints, floats, n, DENOISE, resource, work, 1.0, 1.0, wait)
        floats[n - 1, FLOP] = denoise_flop(step, image, tables.step_flop[model], tables.fixed_flop[model]) / work
        return n
    flop, attention = tables.flop_per_token[model], tables.attention_flop_per_token2[model]
    cache = tables.kv_byte_per_token[model]
    work = prefill_s(prompt, flop, attention, cache, size, speed, bandwidth)
    n = add_stage(ints, floats, n, PREFILL, resource, work, 1.0, 1.0, wait)
    floats[n - 1, FLOP] = prefill_flop(prompt, flop, attention) / work
    context = prompt + 0.5 * output
    per_token = decode_step_flop(1.0, context, flop, attention)
    per_weight, per_cache = size / bandwidth, context * cache / bandwidth
    unit = max(per_token / speed, per_weight / batch + per_cache)
    n = add_stage(ints, floats, n, DECODE, resource, output, unit, 1.0 / batch, 0.0)
    floats[n - 1, FLOP] = per_token
    floats[n - 1, TOKEN_WEIGHT] = per_weight
    floats[n - 1, TOKEN_CACHE] = per_cache
    return n


@njit
def add_sensing(
    tables: Tables,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
    n: int,
    sensing: int,
    level: int,
    cell: int,
    target_m: float,
    cell_m: float,
) -> tuple[int, float]:
    """A radar look, and its accuracy. A cell that senses sees the target at ``sqrt(d^2 + r^2)``: its bearing is unknown."""
    block, symbol = float(tables.level_block[level]), float(tables.level_symbol[level])
    if sensing == END_SENSES:
        power, gain, figure = tables.end_power_max_w / block, tables.end_radar_gain, tables.end_noise_figure
        distance = target_m
    else:
        power, gain, figure = tables.block_power_w, tables.cell_radar_gain, tables.cell_noise_figure
        distance = math.sqrt(cell_m * cell_m + target_m * target_m)
    rho = radar_snr(
        power, gain, tables.wavelength_m, tables.cross_section_m2, max(distance, 1.0), figure, tables.subcarrier_hz
    )
    snr = integrated_snr(rho, block, symbol)
    accuracy = perception_accuracy(
        snr, block, tables.subcarrier_hz, tables.false_alarm_probability, tables.range_error_max_m
    )
    n = add_stage(
        ints, floats, n, SENSE, radio_resource(tables, cell, RADIO_SENSE), tables.level_cost_block_s[level], 1.0, block, 0.0
    )
    floats[n - 1, BLOCK_W] = power
    return n, accuracy


@njit
def model_wait_s(
    tables: Tables, resident: NDArray[np.bool_], ready_s: NDArray[np.float64], node: int, artifact: int, now_s: float
) -> float:
    """Seconds until an artifact may be used at a node: 0 where resident, else what its loading (still) takes."""
    if resident[node, artifact]:
        return 0.0
    if ready_s[node, artifact] < math.inf:
        return max(0.0, ready_s[node, artifact] - now_s)
    return load_s(
        tables.size_byte[artifact], tables.load_s[artifact], tables.load_byte_per_s[node], tables.load_overhead_s[node]
    )


@njit
def expand(
    tables: Tables,
    kind: int,
    user: int,
    prompt: float,
    output: float,
    step: float,
    image: float,
    uplink_bit: float,
    downlink_bit: float,
    target_m: float,
    cell: int,
    uplink: float,
    downlink: float,
    uplink_w: float,
    cell_m: float,
    node: int,
    model: int,
    batch: float,
    wait: float,
    sensing: int,
    level: int,
    ints: NDArray[np.int64],
    floats: NDArray[np.float64],
) -> tuple[int, float]:
    """The stages of a task under one pattern. Returns their number and the accuracy of sensing (1 without)."""
    n, accuracy = 0, 1.0
    home = tables.fixed + user
    if sensing != NO_SENSING:
        n, accuracy = add_sensing(tables, ints, floats, n, sensing, level, cell, target_m, cell_m)
    if kind == LEARNING:
        work = train_s(
            prompt, TRAIN_BATCH_TOKEN, 2.0 * tables.flop_per_token[model], tables.size_byte[model],
            tables.flop_per_s[home], tables.byte_per_s[home],
        )  # fmt: skip
        n = add_stage(ints, floats, n, TRAIN, compute_resource(tables, home, kind), work, 1.0, 1.0, wait)
        floats[n - 1, FLOP] = train_flop(prompt, 2.0 * tables.flop_per_token[model]) / work
        n = add_radio(tables, ints, floats, n, UPLOAD, cell, uplink_bit, uplink, uplink_w)
        n = add_path(tables, ints, floats, n, tables.cell_edge[cell], node, uplink_bit)
        work = uplink_bit * AGGREGATE_BYTE_PER_BIT / tables.byte_per_s[node]
        return add_stage(ints, floats, n, AGGREGATE, compute_resource(tables, node, kind), work, 1.0, 1.0, 0.0), 1.0
    local = node == home
    if local:
        if sensing == CELL_SENSES:
            n = add_radio(tables, ints, floats, n, DOWNLINK, cell, uplink_bit, downlink, tables.block_power_w)
        return add_compute(tables, ints, floats, n, kind, node, model, prompt, output, step, image, batch, wait), accuracy
    if sensing != CELL_SENSES:
        n = add_radio(tables, ints, floats, n, UPLINK, cell, uplink_bit, uplink, uplink_w)
    edge = tables.cell_edge[cell]
    n = add_path(tables, ints, floats, n, edge, node, uplink_bit)
    n = add_compute(tables, ints, floats, n, kind, node, model, prompt, output, step, image, batch, wait)
    answer = downlink_bit + (image * tables.image_bit[model] if kind == IMAGE else 0.0)
    n = add_path(tables, ints, floats, n, node, edge, answer)
    return add_radio(tables, ints, floats, n, DOWNLINK, cell, answer, downlink, tables.block_power_w), accuracy
