"""Episodes that `drl` learns from: runs of a scenario and its variations, steered by a policy that explores."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gainnet.orchestrator.checkpoint import Weights
from gainnet.orchestrator.matchers.drl import ACTIONS, Actor, KindActions, OwnActions, pool, steering
from gainnet.orchestrator.outlook import KINDS, Outlook, Steering
from gainnet.rng import stream
from gainnet.run import Run
from gainnet.scenario.load import change
from gainnet.scenario.scenario import Scenario
from gainnet.training.reward import Reward

HOLD_FRAMES = 5
"""Frames for which an action holds while learning; afterwards the policy acts in every frame."""
DURATION_S = 24.0
ENDS_RANGE = (0.6, 1.25)
FAULTY = 0.4
"""Share of the episodes that have faults."""
TROUBLED_S = 48.0
"""Length of the episodes that are full of faults: what is uploaded when it falls due was let in 20 s before."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What to run.

    Attributes:
        scenario: of the episode.
        weights: of the policy; None for the matcher alone.
        deviation: standard deviations of the exploration: of the actions of kinds, of resources, and of the threshold;
            None for none.
        seed: of the exploration.
    """

    scenario: Scenario
    weights: Weights | None
    deviation: tuple[float, ...] | None
    seed: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What an episode's steps saw, did and got.

    Attributes:
        kind: kind of each resource.
        resource, pooled: what the policy read.
        kind_action, own_action, threshold_action: what it did, before clipping.
        reward: mean over the frames of each step.
    """

    kind: Int[np.ndarray, " shared"]
    resource: Float[np.ndarray, "step shared feature"]
    pooled: Float[np.ndarray, "step pooled"]
    kind_action: Float[np.ndarray, "step kind action"]
    own_action: Float[np.ndarray, "step shared action"]
    threshold_action: Float[np.ndarray, " step"]
    reward: Float[np.ndarray, " step"]


def variation(scenario: Scenario, index: int) -> Scenario:
    """The index-th training episode's scenario: more or fewer ends, and sometimes faults, on another seed."""
    rng = stream(scenario.seed, f"training.episode{index}")
    ends = max(2, round(scenario.network.ends * math.exp(rng.uniform(*np.log(ENDS_RANGE)))))
    overrides = [f"network.ends={ends}", f"duration_s={DURATION_S}", "orchestrator.matcher={kind: neural}"]
    if rng.random() < FAULTY:
        faults = [_fault(rng, scenario, 0.6 * DURATION_S, (3.0, 10.0)) for _ in range(rng.integers(1, 4))]
        overrides.append(f"execution.faults=[{', '.join(faults)}]")
    return change(scenario, overrides, seed=int(rng.integers(2**31)))


def trouble(scenario: Scenario, index: int) -> Scenario:
    """The index-th scenario in which more fails, and for longer: three to six faults of 5 to 20 s, on another seed."""
    rng = stream(scenario.seed, f"training.trouble{index}")
    faults = [_fault(rng, scenario, 0.75 * TROUBLED_S, (5.0, 20.0)) for _ in range(rng.integers(3, 7))]
    overrides = [f"duration_s={TROUBLED_S}", "orchestrator.matcher={kind: neural}"]
    overrides.append(f"execution.faults=[{', '.join(faults)}]")
    return change(scenario, overrides, seed=int(rng.integers(2**31)))


def _fault(rng: np.random.Generator, scenario: Scenario, latest_s: float, lasts_s: tuple[float, float]) -> str:
    begin_s = rng.uniform(min(2.0, 0.5 * latest_s), latest_s)
    span = f"begin_s: {begin_s:.1f}, end_s: {begin_s + rng.uniform(*lasts_s):.1f}"
    network = scenario.network
    kinds = [
        f"kind: edge_down, edge: {rng.integers(network.edges)}",
        f"kind: cell_outage, cell: {rng.integers(network.cells)}",
        "kind: sensing_outage",
        f"kind: demand_surge, factor: {rng.uniform(1.3, 2.5):.2f}",
        f"kind: link_degradation, factor: {rng.uniform(0.02, 0.3):.2f}",
    ]
    return "{" + f"{kinds[rng.integers(len(kinds))]}, {span}" + "}"


class _Held:
    """A policy whose action holds until it is set anew."""

    def __init__(self) -> None:
        self.steering = Steering(np.zeros(1), 0.0)

    def steer(self, outlook: Outlook) -> Steering:  # noqa: ARG002 (part of the protocol)
        return self.steering


def play(episode: Episode) -> Trajectory:
    """Run an episode. The policy's exploration is the only thing that its seed drives."""
    run, reward = Run(episode.scenario), Reward()
    held, rng = _Held(), stream(episode.seed, "training.exploration")
    actor = Actor(episode.weights) if episode.weights is not None else None
    run.orchestrator.policy = held if actor is not None else None
    rows: list[tuple[Any, ...]] = []
    frames = episode.scenario.frames
    outlook = run.orchestrator.outlook(run.execution.load, 0.0)
    for first in range(0, frames - HOLD_FRAMES + 1, HOLD_FRAMES):
        outlook = run.orchestrator.outlook(run.execution.load, first * episode.scenario.frame_s)
        kind, own, threshold = actor.means(outlook) if actor is not None else _nothing(outlook)
        if episode.deviation is not None:
            deviation = np.array(episode.deviation)
            kind = kind + deviation[:ACTIONS] * rng.standard_normal(kind.shape)
            own = own + deviation[ACTIONS : 2 * ACTIONS] * rng.standard_normal(own.shape)
            threshold = threshold + deviation[-1] * float(rng.standard_normal())
        held.steering = steering(outlook, kind, own, threshold)
        got = np.mean([reward.of(run, run.step()) for _ in range(HOLD_FRAMES)])
        rows.append((outlook.resource, pool(outlook), kind, own, np.float64(threshold), got))
    columns = [np.stack(column).astype(np.float32) for column in zip(*rows, strict=True)]
    return Trajectory(outlook.kind, *columns)


def _nothing(outlook: Outlook) -> tuple[KindActions, OwnActions, float]:
    return np.zeros((len(KINDS), ACTIONS)), np.zeros((len(outlook.kind), ACTIONS)), 0.0


def alone(episode: Episode) -> Episode:
    """The same episode without a policy: what it is compared to."""
    return dataclasses.replace(episode, weights=None, deviation=None)
