"""The PettingZoo ParallelEnv: one agent an edge, each of which steers what stands at its edge; all share one reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space
from gymnasium.utils import seeding
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from gainnet.errors import InputError
from gainnet.orchestrator.outlook import OVERALL_FEATURES, RESOURCE_FEATURES
from gainnet.training.env import SEEDS
from gainnet.training.episode import box, overall_box, resource_box
from gainnet.training.setting import DICT, STEERING, settle
from gainnet.training.steering import SteeringEpisode, owner_of

Seen = dict[str, NDArray[np.float32]]
Dicts = tuple[dict[str, Seen], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]


class IsccParallelEnv(ParallelEnv[str, Any, Any]):
    """Steering (see `SteeringEpisode`) divided among the edges: agent ``edge_i`` for the i-th edge.

    An agent's action is in [-1, 1]: one entry for each resource at its edge (its cells' bands, its machine, its link to
    the cloud, the ring link that begins there), then one for each resource of the cloud, then the threshold. The cloud's
    resources and the threshold take the mean of what the agents ask for. An agent observes ``resource``, the features of
    the same resources in the same order, and ``overall``. Edges with fewer resources than the largest have zeros between
    their own and the cloud's, so that one network can serve all agents; what is asked for there is not read. Every agent
    gets the reward of the whole network. All end together, by truncation.

    Args:
        options: see `gainnet.training.setting.settle`; action and observation are fixed.

    Raises:
        InputError: one line that names the option and what is allowed.
    """

    metadata: dict[str, Any] = {"name": "gainnet_iscc_v0", "render_modes": [], "is_parallelizable": True}  # noqa: RUF012 (declared so by the base class)
    render_mode: None = None

    def __init__(self, **options: Any) -> None:
        for name, only in (("action", STEERING), ("observation", DICT)):
            if options.setdefault(name, only) != only:
                raise InputError(f"{name} = {options[name]!r}: agents have {only!r} only")
        self._episode = SteeringEpisode(settle(**options))
        pool, topology = self._episode.run.orchestrator.pool, self._episode.run.network.topology
        owner = owner_of(pool, topology)
        self._own = [np.flatnonzero(owner == topology.clouds + edge) for edge in range(topology.edges)]
        self._cloud: Int[np.ndarray, " cloud"] = np.flatnonzero(owner < topology.clouds)
        self._room = max(len(own) for own in self._own)
        seen = self._room + len(self._cloud)
        self.possible_agents = [f"edge_{edge}" for edge in range(topology.edges)]
        self.agents: list[str] = []
        self._resource, self._overall = resource_box(self._episode.shared), overall_box()
        self.observation_spaces = {
            agent: Dict({"resource": resource_box(seen), "overall": overall_box()}) for agent in self.possible_agents
        }
        self.action_spaces = {agent: box(-1.0, 1.0, (seen + 1,)) for agent in self.possible_agents}
        size = self._episode.shared * len(RESOURCE_FEATURES) + len(OVERALL_FEATURES)
        self.state_space = box(-3.0, 2.0, (size,))
        self._generator = seeding.np_random()[0]

    def observation_space(self, agent: str) -> Space[Any]:
        """The same object every time."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """The same object every time."""
        return self.action_spaces[agent]

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 (part of the interface)
    ) -> tuple[dict[str, Seen], dict[str, dict[str, Any]]]:
        """Begin an episode; ``options`` are not read."""
        if seed is not None:
            self._generator = seeding.np_random(seed)[0]
        self._episode.begin(int(self._generator.integers(SEEDS)))
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: self._episode.info() for agent in self.agents}

    def step(self, actions: dict[str, Float[np.ndarray, " action"]]) -> Dicts:
        """Act; an agent of whom there is no action asks for nothing."""
        asked, cloud = np.zeros(self._episode.shared + 1), np.zeros(len(self._cloud))
        for agent, own in zip(self.possible_agents, self._own, strict=True):
            if agent not in actions:
                continue
            action = np.clip(np.asarray(actions[agent], np.float64), -1.0, 1.0)
            asked[own] = action[: len(own)]
            cloud += action[self._room : -1]
            asked[-1] += max(0.0, float(action[-1]))
        asked[self._cloud] = cloud / len(self._own)
        asked[-1] /= len(self._own)
        reward, over = self._episode.step(asked)
        acted = self.agents
        observations, infos = self._observe(), {agent: self._episode.info() for agent in acted}
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(acted, reward),
            dict.fromkeys(acted, False),
            dict.fromkeys(acted, over),
            infos,
        )

    def state(self) -> NDArray[np.float32]:
        """What a central critic may read: RESOURCE_FEATURES of every shared resource, then OVERALL_FEATURES."""
        resource, overall = self._whole()
        return np.concatenate([resource.ravel(), overall])

    def render(self) -> None:
        """There is nothing to render."""

    def close(self) -> None:
        """There is nothing to close."""

    def _whole(self) -> tuple[Float[np.ndarray, "shared feature"], Float[np.ndarray, " overall_feature"]]:
        resource = np.empty(self._resource.shape, np.float32)
        overall = np.empty(self._overall.shape, np.float32)
        self._episode.fill({"resource": resource, "overall": overall})
        return resource, overall

    def _observe(self) -> dict[str, Seen]:
        """What each live agent sees, in arrays of its own."""
        resource, overall = self._whole()
        out = {}
        for agent, own in zip(self.possible_agents, self._own, strict=True):
            if agent not in self.agents:
                continue
            padded = np.zeros((self._room + len(self._cloud), len(RESOURCE_FEATURES)), np.float32)
            padded[: len(own)] = resource[own]
            padded[self._room :] = resource[self._cloud]
            out[agent] = {"resource": padded, "overall": overall.copy()}
        return out


def parallel_env(**options: Any) -> IsccParallelEnv:
    """The environment, by the name that PettingZoo's modules give it."""
    return IsccParallelEnv(**options)
