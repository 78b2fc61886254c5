"""Train the PPO of Stable-Baselines3, as it is, to steer a scenario, and compare it with steering nothing.

    python examples/train_ppo.py --set network.ends=100 --set network.edge.hardware=phone-soc

An episode is a run; a step is half a second of it. The return of an episode is the sum of its rewards. Seeds of the
evaluation are none of the training's, and the same before, after and for the neutral action.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from gainnet.measurement.interval import Interval, interval, paired
from gainnet.training.env import ENV_ID  # importing it registers the environment

ENVS = 4
EVALUATION_SEED = 2_000_000
Act = Callable[[Any], Any]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="campus", help="a built-in name or a YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--episode-s", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=16384, help="steps to train for, over all environments")
    parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
    parser.add_argument("--seeds", type=int, default=20, help="episodes to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to save the trained policy")
    return parser.parse_args(given)


def returns(env: gymnasium.Env[Any, Any], act: Act, seeds: int) -> tuple[list[float], int, int]:
    """Return of the episode of each evaluation seed, and how many tasks were served and ended in all of them."""
    found, served, ended = [], 0, 0
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + seeds):
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, _, over, info = env.step(act(observation))
            total, served, ended = total + float(reward), served + info["served"], ended + info["ended"]
        found.append(total)
    return found, served, ended


def shown(found: Interval) -> str:
    """Mean and half-width of a 95 % interval."""
    half = "" if found.half_width is None else f" +- {found.half_width:.3f}"
    return f"{found.mean:.3f}{half}"


def main(given: Sequence[str] | None = None) -> None:
    """Train, and print the returns before and after beside those of the neutral action."""
    options = arguments(given)
    torch.set_num_threads(1)
    made: dict[str, Any] = {
        "scenario": options.scenario, "overrides": options.overrides, "episode_s": options.episode_s,
    }  # fmt: skip

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(ENV_ID, **made)

    train = make_vec_env(make, n_envs=ENVS, seed=options.seed)
    batch = ENVS * options.rollout
    model = PPO(
        "MultiInputPolicy", train, n_steps=options.rollout, batch_size=batch // 4, gamma=0.9, learning_rate=1e-3,
        seed=options.seed, policy_kwargs={"log_std_init": -1.5}, device="cpu",
    )  # fmt: skip
    env = make()

    def agent(observation: Any) -> Any:
        return model.predict(observation, deterministic=True)[0]

    def neutral(_: Any) -> Any:
        return np.zeros(env.action_space.shape or (), np.float32)

    reference, *_ = returns(env, neutral, options.seeds)
    before, *_ = returns(env, agent, options.seeds)
    model.learn(options.steps)
    after, served, ended = returns(env, agent, options.seeds)
    print(f"{options.scenario}: return of {options.seeds} episodes of {options.episode_s:g} s, mean and 95 % interval")
    print(f"  neutral                       {shown(interval(reference))}")
    print(f"  PPO before training           {shown(interval(before))}")
    print(f"  PPO after {model.num_timesteps:8d} steps      {shown(interval(after))}")
    print(f"  after less neutral, paired    {shown(paired(after, reference))}")
    print(f"  trained: {served} of {ended} tasks served")
    if options.out is not None:
        model.save(options.out)


if __name__ == "__main__":
    main()
