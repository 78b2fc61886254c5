"""The Gymnasium environment ``GainNet/ISCC-v0``; importing this module registers it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from gainnet.errors import InputError
from gainnet.run import Run
from gainnet.training.decision import DecisionEpisode
from gainnet.training.episode import Episode, Observation
from gainnet.training.register import ENV_ID as ENV_ID
from gainnet.training.register import register
from gainnet.training.setting import STEERING, Setting, settle
from gainnet.training.steering import SteeringEpisode

SEEDS = 2**31


class IsccEnv(gymnasium.Env[Observation, Any]):
    """Orchestrate a network: see `SteeringEpisode` and `DecisionEpisode` for actions, observations and rewards.

    An episode is a run of the scenario with a seed drawn from ``np_random`` (``info["seed"]`` tells it), so it repeats
    under the same ``reset(seed=...)``. It ends by truncation after its last frame and never terminates; a step after
    that changes nothing and says so again.

    Args:
        options: see `gainnet.training.setting.settle`.

    Raises:
        InputError: one line that names the option and what is allowed.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by the base class)

    def __init__(self, **options: Any) -> None:
        self._episode = episode(settle(**options))
        self.action_space = self._episode.action_space
        self.observation_space = self._episode.observation_space

    @property
    def run(self) -> Run:
        """The episode's run."""
        return self._episode.run

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are allowed, as MaskablePPO asks for it. InputError where every action is."""
        if not isinstance(self._episode, DecisionEpisode):
            raise InputError("action_masks: there are masks with action='pattern' only")
        return self._episode.action_mask().astype(np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``options`` are none."""
        super().reset(seed=seed, options=options)
        self._episode.begin(int(self.np_random.integers(SEEDS)))
        return self._episode.observe(), self._episode.info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act; terminated is always False."""
        reward, over = self._episode.step(action)
        return self._episode.observe(), reward, False, over, self._episode.info()


def episode(setting: Setting) -> Episode:
    """The episodes that a setting asks for."""
    return SteeringEpisode(setting) if setting.action == STEERING else DecisionEpisode(setting)


register()
