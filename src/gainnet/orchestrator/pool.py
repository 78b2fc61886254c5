"""Universal resource pools: every pool row of a run, and what each row holds in a frame.

A *resource* is something that is used at a rate: a cell's band (unit: resource block, so an amount is in
resource-block-seconds), a machine's time (accelerators, node-seconds), a backhaul link (bit/s, bit). Each resource has
one row for each slot of the horizon, which holds what the resource gives *until the end of that slot*: work that is due
in a slot draws on its row and on all later ones. That is the earliest-deadline-first test of schedulability, so what
fits the rows can be carried out, and work is not tied to a slot when it could as well be done before or after.
Memory (byte, one row a node) and a cell's transmit energy in the coming frame (in resource-block-seconds of transmission
at full power, one row a cell) have no slots.

Universal pools let any process draw on any row. In the siloed ablation a cell's band is three resources (sensing,
uplink, downlink) and a fixed machine's time four (text, image, perception, learning).

Rows are numbered: resources times slots first (``resource * slots + slot``), then memory, then power.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gainnet.network.compute import Nodes
from gainnet.network.state import Health, Tier
from gainnet.network.topology import Topology
from gainnet.scenario.orchestrator import Orchestrator, SerialFrame, Silos

POOL_KINDS = ("radio", "power", "end_compute", "edge_compute", "cloud_compute", "backhaul", "memory")
OWN_STAGES_MAX = 6
RADIO, POWER, END_COMPUTE, EDGE_COMPUTE, CLOUD_COMPUTE, BACKHAUL, MEMORY = range(len(POOL_KINDS))


@dataclass(frozen=True, slots=True)
class Pool:
    """The layout of the pool rows of a run.

    Attributes:
        cells, fixed, users, links: how many of each the network has.
        radio_parts: 1, or 3 where sensing, uplink and downlink have fixed parts.
        compute_parts: 1, or 4 where the service kinds have fixed parts of the fixed machines.
        slot_edge_s: edges of the slots, from 0 (now); the first slot is one frame, the next grow geometrically.
        capacity_per_s: what each resource gives in a second when all is well.
        memory_byte: memory of each node.
        power_block_s: transmission at full power that each cell may make in a frame, in resource-block-seconds.
        stages_max: most stages a pattern can have: its own and one for each link of the longest path, there and back.
    """

    cells: int
    fixed: int
    users: int
    links: int
    radio_parts: int
    compute_parts: int
    slot_edge_s: Float[np.ndarray, " slot_edge"]
    capacity_per_s: Float[np.ndarray, " resource"]
    memory_byte: Float[np.ndarray, " node"]
    power_block_s: float
    stages_max: int

    @property
    def slots(self) -> int:
        """Number of slots of the horizon."""
        return len(self.slot_edge_s) - 1

    @property
    def resources(self) -> int:
        """Number of resources that are used at a rate."""
        return len(self.capacity_per_s)

    @property
    def compute_start(self) -> int:
        """Index of the first compute resource; the cells' bands are before it."""
        return self.cells * self.radio_parts

    @property
    def end_start(self) -> int:
        """Index of the first end's compute resource."""
        return self.compute_start + self.fixed * self.compute_parts

    @property
    def link_start(self) -> int:
        """Index of the first backhaul link."""
        return self.end_start + self.users

    @property
    def memory_start(self) -> int:
        """Row of node 0's memory."""
        return self.resources * self.slots

    @property
    def power_start(self) -> int:
        """Row of cell 0's transmit energy."""
        return self.memory_start + self.fixed + self.users

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.power_start + self.cells

    def capacity_now(self, health: Health) -> Float[np.ndarray, " resource"]:
        """What each resource gives in a second of the coming frame, after faults."""
        capacity = self.capacity_per_s.copy()
        capacity[: self.compute_start] *= np.repeat(health.cell_up, self.radio_parts)
        capacity[self.compute_start : self.end_start] *= np.repeat(health.node_up, self.compute_parts)
        capacity[self.end_start : self.link_start] *= health.end_up
        capacity[self.link_start :] *= health.link_factor
        return capacity

    def kind(self, tier: Int[np.ndarray, " node"]) -> Int[np.ndarray, " pool_row"]:
        """Index into POOL_KINDS of each row; ``tier`` is the tier of each node."""
        by_tier = np.array([END_COMPUTE, EDGE_COMPUTE, CLOUD_COMPUTE])
        resource = np.concatenate(
            [
                np.full(self.compute_start, RADIO),
                np.repeat(by_tier[tier[: self.fixed]], self.compute_parts),
                np.full(self.users, by_tier[Tier.END]),
                np.full(self.links, BACKHAUL),
            ]
        )
        return np.concatenate(
            [np.repeat(resource, self.slots), np.full(self.fixed + self.users, MEMORY), np.full(self.cells, POWER)]
        )


def slot_edges_s(frame_s: float, growth: float, horizon_s: float) -> Float[np.ndarray, " slot_edge"]:
    """Slot edges ``0, f, f g, f g^2, ...`` up to the first at or past the horizon."""
    edges = [0.0, frame_s]
    while edges[-1] < horizon_s:
        edges.append(edges[-1] * growth)
    return np.array(edges)


def build(
    config: Orchestrator,
    topology: Topology,
    nodes: Nodes,
    *,
    blocks: int,
    power_budget: float,
    frame_s: float,
    horizon_s: float,
) -> Pool:
    """The pool of a network.

    Args:
        config: pools and frame of the scenario.
        topology: cells and links.
        nodes: the machines.
        blocks: resource blocks of a cell's band.
        power_budget: fraction of the greatest transmit energy that a cell may spend.
        frame_s: length of a frame, in s.
        horizon_s: how far ahead rows must reach (the longest deadline), in s.
    """
    silos = config.pools if isinstance(config.pools, Silos) else None
    serial = config.frame.radio_share if isinstance(config.frame, SerialFrame) else None
    radio = np.array([1.0] if silos is None else [silos.sensing_share, silos.uplink_share, 0.0])
    compute = np.array(
        [1.0] if silos is None else [0.0, silos.image_share, silos.perception_share, silos.learning_share]
    )
    if silos is not None:
        radio[2] = 1.0 - radio.sum()
        compute[0] = 1.0 - compute.sum()
    cells, users = len(topology.cell_edge), len(nodes.tier) - topology.fixed
    radio_time, compute_time = (1.0, 1.0) if serial is None else (serial, 1.0 - serial)
    count = nodes.count.astype(np.float64)
    return Pool(
        cells=cells,
        fixed=topology.fixed,
        users=users,
        links=len(topology.link_a),
        radio_parts=len(radio),
        compute_parts=len(compute),
        slot_edge_s=slot_edges_s(frame_s, config.slot_growth, max(horizon_s, config.horizon_s)),
        capacity_per_s=np.concatenate(
            [
                np.tile(radio * blocks * radio_time, cells),
                np.outer(count[: topology.fixed], compute * compute_time).ravel(),
                count[topology.fixed :] * compute_time,
                topology.link_bit_per_s,
            ]
        ),
        memory_byte=nodes.memory_byte,
        power_block_s=power_budget * blocks * frame_s,
        stages_max=OWN_STAGES_MAX + 2 * int(np.diff(topology.path_ptr).max()),
    )
