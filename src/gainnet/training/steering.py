"""Episodes whose actions steer: bids of every shared resource and an admission threshold, held for several frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Graph, GraphInstance
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gainnet.network.topology import Topology
from gainnet.orchestrator.outlook import OVERALL_FEATURES, RESIDUAL_MAX, RESOURCE_FEATURES, Outlook, Policy, Steering
from gainnet.orchestrator.pool import Pool
from gainnet.training.episode import Episode, box, overall_box, resource_box, written
from gainnet.training.setting import Setting


class Helm:
    """The policy of a run that an agent steers; what the scenario's own policy says, if it has one, is added to."""

    def __init__(self, shared: int, own: Policy | None) -> None:
        self.steering = Steering(np.zeros(shared), 0.0)
        self._own = own

    def steer(self, outlook: Outlook) -> Steering:
        """See Policy."""
        if self._own is None:
            return self.steering
        own = self._own.steer(outlook)
        return Steering(own.residual + self.steering.residual, own.threshold + self.steering.threshold)


class SteeringEpisode(Episode):
    """A step is ``frames_per_step`` frames of the scenario's own matcher under one steering.

    The action is in [-1, 1]: times RESIDUAL_MAX, the log factor on the bid of each shared resource; last, the threshold,
    where negative counts as 0. Zeros change nothing: the run goes as `simulate` does. The reward is the mean over the
    step's frames (the last step of an episode may have fewer).

    Boxes: ``resource`` holds RESOURCE_FEATURES of each shared resource, ``overall`` OVERALL_FEATURES (see Outlook). The
    graph has a node for the whole network (OVERALL_FEATURES, padded), then one for each shared resource, and edges from
    cells to the machine of their edge (feature 1) and from links to the machines they join (feature 0).
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        pool = self.run.orchestrator.pool
        self.action_space = box(-1.0, 1.0, (self.shared + 1,))
        self._resource, self._overall = resource_box(self.shared), overall_box()
        self.boxes = Dict({"resource": self._resource, "overall": self._overall})
        self.graphs = Graph(box(-3.0, 2.0, (len(RESOURCE_FEATURES),)), box(0.0, 1.0, (1,)))
        self._joins, self._access = adjacency(pool, self.run.network.topology)

    def begin(self, seed: int) -> None:
        """See Episode."""
        super().begin(seed)
        orchestrator = self.run.orchestrator
        self._helm = orchestrator.policy = Helm(self.shared, orchestrator.policy)
        self.outlook = self._look()

    def step(self, action: Any) -> tuple[float, bool]:
        """See Episode; an action outside [-1, 1] is clipped."""
        if self.over:
            return 0.0, True
        asked = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self._helm.steering = Steering(RESIDUAL_MAX * asked[:-1], max(0.0, float(asked[-1])))
        self.served = self.ended = 0
        frames = min(self.setting.frames_per_step, self.run.scenario.frames - self.frame)
        reward = sum(self._commit() for _ in range(frames)) / frames
        self.outlook = self._look()
        return reward, self.over

    def fill(self, out: Mapping[str, NDArray[np.float32]]) -> None:
        """See Episode."""
        written(out["resource"], self.outlook.resource, self._resource)
        written(out["overall"], self.outlook.overall, self._overall)

    def graph(self) -> GraphInstance:
        """See Episode."""
        nodes = np.zeros((1 + self.shared, len(RESOURCE_FEATURES)), np.float32)
        written(nodes[0, : len(OVERALL_FEATURES)], self.outlook.overall, self._overall)
        written(nodes[1:], self.outlook.resource, self._resource)
        return GraphInstance(nodes, self._access.copy(), self._joins.copy())


def owner_of(pool: Pool, topology: Topology) -> Int[np.ndarray, " shared"]:
    """The fixed node that each shared resource stands at: its cell's edge, the machine itself, a link's lower end.

    A link to the cloud stands at its edge, one of the ring at the edge where it begins.
    """
    begins = np.where(topology.link_a < topology.clouds, topology.link_b, topology.link_a)
    return np.concatenate(
        [
            np.repeat(topology.cell_edge, pool.radio_parts),
            np.repeat(np.arange(pool.fixed), pool.compute_parts),
            begins,
        ]
    )


def adjacency(pool: Pool, topology: Topology) -> tuple[Int[np.ndarray, "pair 2"], Float[np.ndarray, "pair 1"]]:
    """Pairs of adjacent nodes of the steering graph (node 0 is the network), and 1 where a cell is one of the two."""
    parts = np.arange(pool.compute_parts)
    bands = [
        (band, pool.compute_start + edge * pool.compute_parts + part)
        for band, edge in enumerate(np.repeat(topology.cell_edge, pool.radio_parts))
        for part in parts
    ]
    wires = [
        (pool.end_start + link, pool.compute_start + node * pool.compute_parts + part)
        for link, ends in enumerate(zip(topology.link_a, topology.link_b, strict=True))
        for node in ends
        for part in parts
    ]
    access = np.repeat(np.array([1.0, 0.0], np.float32), [len(bands), len(wires)])
    return 1 + np.array(bands + wires, np.int64).reshape(-1, 2), access[:, None]
