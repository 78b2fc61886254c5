"""What passes between the network and the stages above it: NetworkState up, Load down.

Axes: user (an end), cell, candidate (one of the few strongest cells of a user), node, artifact (a model or an adapter
that a node may hold). Nodes are numbered ``0 .. clouds-1`` cloud, then the edges, then one node for each end, so the
node of user u is ``fixed + u`` with ``fixed = clouds + edges``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int


class Tier(IntEnum):
    """Where a node stands."""

    END = 0
    EDGE = 1
    CLOUD = 2


@dataclass(frozen=True, slots=True)
class Health:
    """What works in a frame; faults change it.

    Attributes:
        cell_up: whether each cell transmits.
        node_up: whether each fixed node (cloud, edge) runs.
        link_factor: fraction of each backhaul link's rate that is left, in [0, 1].
        end_up: whether each end works.
        sensing_up: whether channel sounding and radar work.
        demand_factor: multiplies every arrival rate.
        controller_up: whether the controller matches and broadcasts.
    """

    cell_up: Bool[np.ndarray, " cell"]
    node_up: Bool[np.ndarray, " fixed"]
    link_factor: Float[np.ndarray, " link"]
    end_up: Bool[np.ndarray, " user"]
    sensing_up: bool = True
    demand_factor: float = 1.0
    controller_up: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """What the last frame did to the network: the feedback that closes the loop.

    Attributes:
        downlink_use: fraction of each cell's band and time that carried downlink (or the cell's own radar).
        uplink_use: fraction of the band and time of ``uplink_cell`` in which each user transmitted.
        uplink_cell: the cell it sent to, -1 for none.
        sounding_block: resource blocks spent on pilots of each user, 0 for none: these ends are observed anew.
        batch: mean number of requests that each node decoded together with each artifact, at least 1.
        resident: whether each node holds each artifact and may use it.
        ready_s: when the artifact being loaded will be there; inf where it is neither resident nor loading.
        pinned: requests that hold each artifact at each node (it may not be evicted while > 0).
        used_s: when each artifact was last used at each node (the oldest idle one is evicted first).
        committed: per pool row, what the running tasks still need of it (the row's unit).
        memory_used_byte: per node, KV cache of the running tasks (weights are not counted here).
        health: what works in the coming frame.
    """

    downlink_use: Float[np.ndarray, " cell"]
    uplink_use: Float[np.ndarray, " user"]
    uplink_cell: Int[np.ndarray, " user"]
    sounding_block: Float[np.ndarray, " user"]
    batch: Float[np.ndarray, "node artifact"]
    resident: Bool[np.ndarray, "node artifact"]
    ready_s: Float[np.ndarray, "node artifact"]
    pinned: Int[np.ndarray, "node artifact"]
    used_s: Float[np.ndarray, "node artifact"]
    committed: Float[np.ndarray, " pool_row"]
    memory_used_byte: Float[np.ndarray, " node"]
    health: Health


@dataclass(frozen=True, slots=True)
class LinkView:
    """The radio links as somebody sees them, for each user and candidate cell.

    Attributes:
        gain: coupling gain (path, antennas, shadowing; no small-scale fading), linear power ratio.
        downlink_bit_per_s_hz: spectral efficiency of the downlink, 0 where there is no service.
        uplink_bit_per_s_hz: spectral efficiency of the uplink.
    """

    gain: Float[np.ndarray, "user candidate"]
    downlink_bit_per_s_hz: Float[np.ndarray, "user candidate"]
    uplink_bit_per_s_hz: Float[np.ndarray, "user candidate"]


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What is true of the network in a frame, and what sensing let the orchestrator observe.

    Attributes:
        frame: index of the frame.
        time_s: its start.
        position_m: true position of each user.
        velocity_m_per_s: true velocity of each user.
        candidate: the strongest cells of each user as observed, strongest first, -1 where there are fewer; the serving
            cell (after hysteresis and time-to-trigger) is always the first.
        handover: whether the serving cell changed at the start of this frame.
        truth: the links as they are (execution reads this).
        observed: the links as the last soundings let us believe (the orchestrator reads this).
        observed_error_db: standard deviation of the error of the observed gain, in dB, of the serving cell.
        uplink_power_w: transmit power of each user to each candidate, per resource block, after power control.
        cell_distance_m: three-dimensional distance of each user to each candidate cell.
        load: the feedback of the last frame.
    """

    frame: int
    time_s: float
    position_m: Float[np.ndarray, "user 2"]
    velocity_m_per_s: Float[np.ndarray, "user 2"]
    candidate: Int[np.ndarray, "user candidate"]
    handover: Bool[np.ndarray, " user"]
    truth: LinkView
    observed: LinkView
    observed_error_db: Float[np.ndarray, " user"]
    uplink_power_w: Float[np.ndarray, "user candidate"]
    cell_distance_m: Float[np.ndarray, "user candidate"]
    load: Load
