"""What an environment is made of: the scenario, what an action is, what is observed, how long a step and an episode are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gainnet.errors import InputError
from gainnet.scenario.complaint import nearest
from gainnet.scenario.load import change, load
from gainnet.scenario.scenario import Scenario
from gainnet.training.reward import Reward

STEERING, PATTERN = ACTIONS = ("steering", "pattern")
DICT, GRAPH = OBSERVATIONS = ("dict", "graph")


@dataclass(frozen=True, slots=True)
class Setting:
    """The checked options of an environment; see `settle`."""

    scenario: Scenario
    action: str
    observation: str
    reward: Reward
    frames_per_step: int
    patterns_max: int
    tasks_max: int


def settle(
    scenario: str | Path | Scenario = "campus",
    overrides: Sequence[str] = (),
    *,
    action: str = STEERING,
    observation: str = DICT,
    reward: Reward | None = None,
    frames_per_step: int = 5,
    patterns_max: int = 16,
    tasks_max: int = 16,
    episode_s: float | None = None,
) -> Setting:
    """Check the options of an environment.

    Args:
        scenario: a built-in name, the path of a YAML file, or a Scenario; its own seed is not used.
        overrides: ``path.to.value=x`` each, as after ``--set``.
        action: ``steering`` (bids and threshold of several frames) or ``pattern`` (one task at a time).
        observation: ``dict`` (arrays of fixed shapes, padded) or ``graph`` (of any size).
        reward: what a frame is worth; the default weights by default.
        frames_per_step: with ``steering``, how many frames a step lasts.
        patterns_max: with ``pattern``, how many patterns of a task can be chosen from.
        tasks_max: with ``pattern``, how many of the frame's undecided tasks are shown in a ``dict``.
        episode_s: length of an episode; the scenario's duration by default.

    Raises:
        InputError: one line that names the option and what is allowed.
    """
    _known("action", action, ACTIONS)
    _known("observation", observation, OBSERVATIONS)
    for name, number in (
        ("frames_per_step", frames_per_step),
        ("patterns_max", patterns_max),
        ("tasks_max", tasks_max),
    ):
        if number < 1:
            raise InputError(f"{name} = {number}: must be a whole number, at least 1")
    if episode_s is not None and not 0.0 < episode_s < float("inf"):
        raise InputError(f"episode_s = {episode_s}: must be a number of seconds greater than 0")
    chosen = scenario if isinstance(scenario, Scenario) else load(str(scenario))
    chosen = change(chosen, overrides, duration_s=episode_s)
    return Setting(
        chosen, action, observation, Reward() if reward is None else reward, frames_per_step, patterns_max, tasks_max
    )


def _known(name: str, given: str, allowed: Iterable[str]) -> None:
    if given not in allowed:
        raise InputError(f"unknown {name} {given!r}: one of {', '.join(allowed)}{nearest(given, allowed)}")
