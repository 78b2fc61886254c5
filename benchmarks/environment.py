"""How fast the vectorised environment steps, beside mobile-env's in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from gainnet.training.vector import IsccVectorEnv

MEANING = {
    "vector_steps_per_s": "steps of all of 8 runs, a step one frame of the whole loop with `price`: `vehicular` at 13 "
    "cells x 30 ends, steering by uniformly random actions",
    "peer_steps_per_s": "mobile-env's mobile-large-central-v0 (13 stations x 30 users), uniformly random actions, same "
    "process; the faster of one alone and 8 in Gymnasium's SyncVectorEnv",
    "ratio": "vector_steps_per_s over peer_steps_per_s",
    "neutral_steps_per_s": "as vector_steps_per_s with neutral actions, which shed no demand",
    "vector_frames_per_s": "frames of all runs where a step is 5 frames, the default; neutral actions",
    "pattern_steps_per_s": "decisions of one task each, of all runs, frames carried out included; the best that fits",
    "reset_s": "time to begin an episode",
}
ENVS = 8
HELD = 5
WARM_UP = 30
TURNS = 3
SIZE = ("network.topology.cells=13", "network.topology.blocks_x=4", "network.topology.blocks_y=4", "network.ends=30")
Act = Callable[[VectorEnv[Any, Any, Any], dict[str, Any]], Any]


class Stepped:
    """An environment that goes on from turn to turn.

    Attributes:
        rates: steps a second of all its runs, one for each turn.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], act: Act, warm_up: int) -> None:
        self.rates: list[float] = []
        self.env, self._act = env, act
        env.action_space.seed(0)
        _, self._infos = env.reset(seed=0)
        self._go(warm_up)

    def turn(self, steps: int) -> None:
        """Time that many steps of each run."""
        began = time.perf_counter()
        self._go(steps)
        self.rates.append(steps * self.env.num_envs / (time.perf_counter() - began))

    @property
    def rate(self) -> float:
        """Median over the turns."""
        return median(self.rates)

    def _go(self, steps: int) -> None:
        for _ in range(steps):
            *_, self._infos = self.env.step(self._act(self.env, self._infos))


def figures(quick: bool = False) -> dict[str, float]:
    """Measure on one thread, all in turns so that all meet the same machine; ``quick`` makes a tenth of the steps."""
    steps, few = (20, 2) if quick else (200, 20)
    ours = {
        "vector_steps_per_s": Stepped(_ours(frames_per_step=1), _random, WARM_UP),
        "neutral_steps_per_s": Stepped(_ours(frames_per_step=1), _neutral, WARM_UP),
        "vector_frames_per_s": Stepped(_ours(frames_per_step=HELD), _neutral, WARM_UP // HELD),
        "pattern_steps_per_s": Stepped(_ours(action="pattern"), _best, WARM_UP),
    }
    peers = [Stepped(peer, _random, 2) for peer in _peers()]
    for _ in range(TURNS):
        for name, stepped in ours.items():
            stepped.turn(max(1, steps // HELD) if name == "vector_frames_per_s" else steps)
        for peer in peers:
            peer.turn(few * ENVS // peer.env.num_envs)
    found = {name: stepped.rate for name, stepped in ours.items()}
    found["vector_frames_per_s"] *= HELD
    if peers:
        found["peer_steps_per_s"] = max(peer.rate for peer in peers)
        found["ratio"] = found["vector_steps_per_s"] / found["peer_steps_per_s"]
    found["reset_s"] = _reset_s(ours["vector_steps_per_s"].env)
    return {name: found[name] for name in MEANING if name in found}


def _ours(**options: Any) -> IsccVectorEnv:
    return IsccVectorEnv(ENVS, scenario="vehicular", overrides=SIZE, episode_s=60.0, **options)


def _peers() -> list[VectorEnv[Any, Any, Any]]:
    """The peer alone and vectorised, without Gymnasium's checks; none where it is not installed."""
    try:
        import mobile_env  # noqa: F401 (importing it registers the environment)
    except ImportError:
        return []

    def alone() -> Any:
        return gymnasium.make("mobile-large-central-v0", disable_env_checker=True)

    return [gymnasium.vector.SyncVectorEnv([alone] * number, copy=False) for number in (1, ENVS)]


def _random(env: VectorEnv[Any, Any, Any], _: dict[str, Any]) -> Any:
    return env.action_space.sample()


def _neutral(env: VectorEnv[Any, Any, Any], _: dict[str, Any]) -> Any:
    return np.zeros(env.action_space.shape or (), np.float32)


def _best(_: VectorEnv[Any, Any, Any], infos: dict[str, Any]) -> Any:
    """The first pattern offered that fits, or to refuse."""
    mask = infos["action_mask"][:, 1:]
    return np.where(mask.any(axis=1), 1 + mask.argmax(axis=1), 0)


def _reset_s(env: VectorEnv[Any, Any, Any]) -> float:
    """Time to begin an episode, median over the environments' resets."""
    spent = []
    for seed in range(5):
        began = time.perf_counter()
        env.reset(seed=seed)
        spent.append((time.perf_counter() - began) / env.num_envs)
    return median(spent)


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name:28s} {value:.6g}   {MEANING[name]}")  # noqa: T201
