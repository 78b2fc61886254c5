"""What pattern enumeration and execution read of the network in every frame, as one flat tuple for the compiler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gainnet.demand.service import Services
from gainnet.models.card import Cards
from gainnet.network.compute import Nodes
from gainnet.network.energy import END_AMPLIFIER_EFFICIENCY
from gainnet.network.sensing import Radar
from gainnet.network.topology import Topology
from gainnet.orchestrator.pool import Pool
from gainnet.scenario.hardware import base_station
from gainnet.scenario.network import Radio
from gainnet.scenario.orchestrator import Objective
from gainnet.units import dbm_to_w

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Tables(NamedTuple):
    """Constants of a run. Names and units are those of Pool, Topology, Nodes, Cards, Radar and Services."""

    cells: int
    fixed: int
    users: int
    slots: int
    radio_parts: int
    compute_parts: int
    compute_start: int
    end_start: int
    link_start: int
    memory_start: int
    power_start: int
    slot_edge_s: FloatArray
    cell_edge: IntArray
    path_ptr: IntArray
    path_link: IntArray
    path_latency_s: FloatArray
    link_latency_s: FloatArray
    link_bit_per_s: FloatArray
    tier: IntArray
    count: FloatArray
    flop_per_s: FloatArray
    byte_per_s: FloatArray
    memory_byte: FloatArray
    load_byte_per_s: FloatArray
    load_overhead_s: FloatArray
    busy_w: FloatArray
    price_per_s: FloatArray
    batch_max: FloatArray
    artifact_kind: IntArray
    base: IntArray
    size_byte: FloatArray
    flop_per_token: FloatArray
    attention_flop_per_token2: FloatArray
    kv_byte_per_token: FloatArray
    step_flop: FloatArray
    fixed_flop: FloatArray
    overhead_s: FloatArray
    image_bit: FloatArray
    quality: FloatArray
    steps_scale: FloatArray
    quality_gain: FloatArray
    load_s: FloatArray
    service_kind: IntArray
    model_ptr: IntArray
    model_index: IntArray
    level_block: IntArray
    level_symbol: IntArray
    level_cost_block_s: FloatArray
    wavelength_m: float
    subcarrier_hz: float
    end_radar_gain: float
    cell_radar_gain: float
    end_noise_figure: float
    cell_noise_figure: float
    cross_section_m2: float
    false_alarm_probability: float
    range_error_max_m: float
    blocks: float
    block_hz: float
    block_power_w: float
    cell_j_per_block_s: float
    end_power_max_w: float
    end_efficiency: float
    interruption_s: float
    cost_weight: float
    energy_price_per_j: float
    latency_weight: float


def build(
    pool: Pool,
    topology: Topology,
    nodes: Nodes,
    cards: Cards,
    services: Services,
    radar: Radar,
    radio: Radio,
    objective: Objective,
    *,
    blocks: int,
    block_hz: float,
    block_power_w: float,
) -> Tables:
    """Flatten the parts of a run; ``block_power_w`` is the downlink power of a cell in one resource block."""
    parts = (pool, topology, nodes, cards, services, radar, objective)
    own = {
        "service_kind": services.kind,
        "artifact_kind": cards.kind,
        "busy_w": nodes.peak_w - nodes.idle_w,
        "level_block": radar.block,
        "level_symbol": radar.symbol,
        "level_cost_block_s": radar.cost_block_s,
        "end_radar_gain": radar.end_gain,
        "cell_radar_gain": radar.cell_gain,
        "blocks": float(blocks),
        "block_hz": block_hz,
        "block_power_w": block_power_w,
        "cell_j_per_block_s": base_station(radio.base_station).slope * block_power_w,
        "end_power_max_w": dbm_to_w(radio.end_power_max_dbm),
        "end_efficiency": END_AMPLIFIER_EFFICIENCY,
        "interruption_s": radio.handover_interruption_s,
    }
    values = {}
    for field in Tables._fields:
        value = own[field] if field in own else next(getattr(p, field) for p in parts if hasattr(p, field))
        values[field] = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
    return Tables(**values)
