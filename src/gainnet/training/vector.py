"""``GainNet/ISCC-v0`` vectorised: independent runs in one process, observed into one set of batched arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import GraphInstance
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from gainnet.errors import InputError
from gainnet.training.env import SEEDS, episode
from gainnet.training.setting import GRAPH, settle

Batch = dict[str, NDArray[np.float32]] | tuple[GraphInstance, ...]


class IsccVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """Steps ``num_envs`` runs; equals Gymnasium's SyncVectorEnv of as many IsccEnv, without its detours.

    Autoreset is Gymnasium's next-step mode: the step after an episode's last one begins the next episode, whatever the
    action, with reward 0.

    Args:
        num_envs: how many.
        options: see `gainnet.training.setting.settle`.

    Raises:
        InputError: one line that names the option and what is allowed.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (declared so by the base class)

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        if num_envs < 1:
            raise InputError(f"num_envs = {num_envs}: must be a whole number, at least 1")
        setting = settle(**options)
        self.num_envs = num_envs
        self.episodes = [episode(setting) for _ in range(num_envs)]
        self.single_observation_space = self.episodes[0].observation_space
        self.single_action_space = self.episodes[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._graphs = setting.observation == GRAPH
        self._shapes = {name: space.shape or () for name, space in self.episodes[0].boxes.items()}
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Batch, dict[str, Any]]:
        """Begin episodes in all runs, or in those of ``options["reset_mask"]``.

        ``seed``: of run i ``seed + i``, or one for each. ValueError where there are not as many.
        """
        many = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
        seeds: Sequence[int | None] = [None] * self.num_envs if many is None else many
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        mask = np.ones(self.num_envs, np.bool_) if options is None else options.get("reset_mask")
        which = np.ones(self.num_envs, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        for i, given in enumerate(seeds):
            if not which[i]:
                continue
            if given is not None:
                self._generators[i] = seeding.np_random(given)[0]
            self._begin(i)
        self._ended[which] = False
        return self._observe(), self._infos(which)

    def step(
        self, actions: Any
    ) -> tuple[Batch, Float[np.ndarray, " env"], Bool[np.ndarray, " env"], Bool[np.ndarray, " env"], dict[str, Any]]:
        """Act in every run, or begin the next episode where the last step ended one."""
        rewards, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        for i, action in enumerate(iterate(self.action_space, actions)):
            if self._ended[i]:
                self._begin(i)
            else:
                rewards[i], truncated[i] = self.episodes[i].step(action)
        self._ended = truncated.copy()
        every = np.ones(self.num_envs, np.bool_)
        return self._observe(), rewards, np.zeros(self.num_envs, np.bool_), truncated, self._infos(every)

    def _begin(self, i: int) -> None:
        self.episodes[i].begin(int(self._generators[i].integers(SEEDS)))

    def _observe(self) -> Batch:
        """The observations of all runs, in arrays of their own."""
        if self._graphs:
            return tuple(one.graph() for one in self.episodes)
        out = {name: np.empty((self.num_envs, *shape), np.float32) for name, shape in self._shapes.items()}
        for i, one in enumerate(self.episodes):
            one.fill({name: array[i] for name, array in out.items()})
        return out

    def _infos(self, which: Bool[np.ndarray, " env"]) -> dict[str, Any]:
        """The infos of the runs in ``which``, batched: zeros and a False mask elsewhere."""
        found = [one.info() for one in self.episodes]
        out: dict[str, Any] = {}
        for key in found[0]:
            values = np.array([info[key] for info in found])
            values[~which] = 0
            out[key], out[f"_{key}"] = values, which.copy()
        return out
