"""The machines of the network as arrays: what the compute kernels and the energy model read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gainnet.network.state import Tier
from gainnet.scenario.hardware import hardware
from gainnet.scenario.network import Network


@dataclass(frozen=True, slots=True)
class Nodes:
    """All machines, numbered as in `gainnet.network.state`: clouds, edges, then one for each end.

    Rates, powers, price and batch are of *one* accelerator of the node; ``memory_byte`` is of all. The accelerators
    of a node share its memory (tensor-parallel storage), so a resident model counts once whatever their number.

    Attributes:
        tier: a `Tier`.
        count: accelerators, the node-seconds that the node gives each second.
        flop_per_s: effective rate, peak times the efficiency that real kernels reach.
        byte_per_s: effective memory bandwidth, likewise.
        memory_byte: memory for weights and KV cache.
        load_byte_per_s: rate at which weights come from storage.
        load_overhead_s: what a load takes before the first byte.
        idle_w: power of an idle accelerator.
        peak_w: power of a busy one.
        price_per_s: what a busy second costs its user.
        batch_max: most requests decoded together.
        step_overhead_s: what each step takes besides computing.
        text_overhead_s: what each text in a step does.
        request_overhead_s: by how much a request is delayed before its first step.
    """

    tier: Int[np.ndarray, " node"]
    count: Float[np.ndarray, " node"]
    flop_per_s: Float[np.ndarray, " node"]
    byte_per_s: Float[np.ndarray, " node"]
    memory_byte: Float[np.ndarray, " node"]
    load_byte_per_s: Float[np.ndarray, " node"]
    load_overhead_s: Float[np.ndarray, " node"]
    idle_w: Float[np.ndarray, " node"]
    peak_w: Float[np.ndarray, " node"]
    price_per_s: Float[np.ndarray, " node"]
    batch_max: Float[np.ndarray, " node"]
    step_overhead_s: Float[np.ndarray, " node"]
    text_overhead_s: Float[np.ndarray, " node"]
    request_overhead_s: Float[np.ndarray, " node"]


def build(config: Network, *, clouds: int, edges: int) -> Nodes:
    """The nodes of a scenario's network: ``clouds`` clouds, ``edges`` edges and ``config.ends`` ends.

    ``config.<tier>.count`` is the number of accelerators of each node of that tier; ``config.end_scale`` multiplies speed,
    memory bandwidth and memory of the ends, in turn.

    Raises:
        ValueError: a hardware preset that is not known (a validated scenario has none).
    """
    machines = (config.cloud, config.edge, config.end)
    repeats = (clouds, edges, config.ends)
    kinds = [hardware(machine.hardware) for machine in machines]

    def spread(values: list[float]) -> Float[np.ndarray, " node"]:
        return np.repeat(np.array(values, dtype=np.float64), repeats)

    scale = np.ones(sum(repeats))
    scale[clouds + edges :] = np.resize(np.array(config.end_scale, dtype=np.float64), config.ends)
    return Nodes(
        tier=np.repeat(np.array([Tier.CLOUD, Tier.EDGE, Tier.END], dtype=np.int64), repeats),
        count=spread([float(machine.count) for machine in machines]),
        flop_per_s=scale * spread([kind.flop_per_s * kind.efficiency for kind in kinds]),
        byte_per_s=scale * spread([kind.memory_bandwidth_byte_per_s * kind.bandwidth_efficiency for kind in kinds]),
        memory_byte=scale
        * spread([kind.memory_byte * machine.count for kind, machine in zip(kinds, machines, strict=True)]),
        load_byte_per_s=spread([kind.load_byte_per_s for kind in kinds]),
        load_overhead_s=spread([kind.load_overhead_s for kind in kinds]),
        idle_w=spread([kind.idle_w for kind in kinds]),
        peak_w=spread([kind.peak_w for kind in kinds]),
        price_per_s=spread([kind.price_per_s for kind in kinds]),
        batch_max=spread([float(kind.batch_max) for kind in kinds]),
        step_overhead_s=spread([kind.step_overhead_s for kind in kinds]),
        text_overhead_s=spread([kind.text_overhead_s for kind in kinds]),
        request_overhead_s=spread([kind.request_overhead_s for kind in kinds]),
    )
