"""Energy of a frame: base stations (EARTH), accelerators (idle plus what work adds) and the transmitters of ends."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from gainnet.network.compute import Nodes
from gainnet.scenario.hardware import BaseStation

# The power amplifier and the circuits of a single-antenna end: arXiv 1403.6150, table II.
END_AMPLIFIER_EFFICIENCY = 0.3
END_CIRCUIT_W = 0.1


def radio_energy_j(
    output_fraction: Float[np.ndarray, " cell"],
    awake: Bool[np.ndarray, " cell"],
    up: Bool[np.ndarray, " cell"],
    station: BaseStation,
    duration_s: float,
) -> Float[np.ndarray, " cell"]:
    """What each cell draws from the mains in a frame (Auer et al., IEEE Wireless Commun. 18(5), 2011).

    ``N_trx (P0 + slope P_out)`` when awake and ``N_trx P_sleep`` asleep; P0, P_out and P_sleep are of one transceiver,
    ``P_out = output_fraction P_max``. A failed cell draws nothing.

    Args:
        output_fraction: fraction of the band and time in which the cell transmits, in [0, 1].
        awake: whether the cell sends, receives or senses in the frame.
        up: whether it works at all.
        station: the power model.
        duration_s: of the frame.
    """
    active_w = station.p0_w + station.slope * output_fraction * station.power_max_w
    power_w = station.transceivers * np.where(awake, active_w, station.sleep_w)
    return np.where(up, power_w, 0.0) * duration_s


def compute_energy_j(
    busy_s: Float[np.ndarray, " node"], up: Bool[np.ndarray, " node"], nodes: Nodes, duration_s: float
) -> Float[np.ndarray, " node"]:
    """What each node's accelerators draw in a frame: ``count P_idle T + busy (P_peak - P_idle)``.

    Args:
        busy_s: node-seconds of work done in the frame, at most ``count T``.
        up: whether the node runs; a failed one draws nothing.
        nodes: the machines.
        duration_s: of the frame, T.
    """
    idle_j = nodes.count * nodes.idle_w * duration_s
    return np.where(up, idle_j + busy_s * (nodes.peak_w - nodes.idle_w), 0.0)


def end_radio_energy_j(
    power_w: Float[np.ndarray, " user"], block_s: Float[np.ndarray, " user"], active_s: Float[np.ndarray, " user"]
) -> Float[np.ndarray, " user"]:
    """What each end's transmitter draws: ``P_block block_s / eta + P_circuit active_s``.

    Args:
        power_w: transmit power in one resource block.
        block_s: resource-block-seconds that it transmitted.
        active_s: time for which its transmitter was on.
    """
    energy_j: Float[np.ndarray, " user"] = power_w * block_s / END_AMPLIFIER_EFFICIENCY + END_CIRCUIT_W * active_s
    return energy_j
