"""Training of the `drl` matcher: proximal policy optimisation (arXiv 1707.06347) over whole runs.

Each kind of resource, each resource and the threshold is an agent of one team: all share the advantage, and each has a
clipped ratio of its own, so that a step's many actions don't multiply into one meaningless ratio (arXiv 2103.01955). The
reward of a step is less what the same episode gave at that moment without a policy: arrivals and channels are the same
in both, so what remains is what the policy did (input-driven baselines, arXiv 1807.02264).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gainnet.orchestrator.matchers.drl import ACTIONS, CONTEXT, FEATURES, HIDDEN, POOLED, SHAPES
from gainnet.orchestrator.outlook import KINDS
from gainnet.rng import stream
from gainnet.scenario.scenario import Scenario
from gainnet.training.rollout import Episode, Trajectory, play, trouble, variation
from gainnet.training.training import Arrays, Figures, MatcherTraining
from gainnet.workers.workers import Workers

TRAINING_STEPS = 100
EPISODES, EPISODES_A_STEP = 48, 8
TRIALS, TRIAL_STEPS = 8, 20
"""Held-out episodes, and steps between trials of the policy on them; the best policy is the one that is kept."""
TROUBLES = 8
"""Episodes full of faults on which the finished policy is tried with each kind of resource dearer while something fails."""
DEARER, DEARER_GAIN = 1.0, 0.002
"""The log factor that is tried, and the gain that keeps it: mean reward of a frame, over the middle half of the episodes."""
DISCOUNT, TRACE = 0.96, 0.9
CLIP = 0.2
EPOCHS = 12
RATE = 1e-3
GRADIENT_MAX = 0.5
VALUE_WEIGHT = 0.5
DEVIATION = (0.08, 0.1, 0.08, 0.1, 0.01)
DEVIATION_MIN = 0.005


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps of several episodes, flat; ``step`` and ``kind`` say whose each resource is."""

    pooled: torch.Tensor
    resource: torch.Tensor
    step: torch.Tensor
    kind: torch.Tensor
    kind_action: torch.Tensor
    own_action: torch.Tensor
    threshold_action: torch.Tensor
    advantage: torch.Tensor
    target: torch.Tensor


class Learner(torch.nn.Module):
    """Actor (as in `gainnet.orchestrator.matchers.drl`), critic, and the deviations of the exploration."""

    def __init__(self) -> None:
        super().__init__()
        self.kind_in = torch.nn.Linear(len(KINDS) + POOLED, HIDDEN)
        self.kind_out = torch.nn.Linear(HIDDEN, ACTIONS + CONTEXT)
        self.own_in = torch.nn.Linear(FEATURES + CONTEXT, HIDDEN)
        self.own_out = torch.nn.Linear(HIDDEN, ACTIONS)
        self.threshold_in = torch.nn.Linear(POOLED, HIDDEN)
        self.threshold_out = torch.nn.Linear(HIDDEN, 1)
        self.critic = torch.nn.Sequential(torch.nn.Linear(POOLED, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
        self.log_deviation = torch.nn.Parameter(torch.tensor([math.log(d) for d in DEVIATION]))
        with torch.no_grad():  # nothing is steered at first
            for layer in (self.kind_out, self.own_out, self.threshold_out):
                layer.weight[:ACTIONS].zero_()
                layer.bias[:ACTIONS].zero_()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Means of the actions: (step, kind, action), (resource of a step, action), (step, 1)."""
        steps = len(batch.pooled)
        one_hot = torch.eye(len(KINDS)).expand(steps, -1, -1)
        given = torch.cat([one_hot, batch.pooled[:, None].expand(-1, len(KINDS), -1)], 2)
        out = self.kind_out(torch.tanh(self.kind_in(given)))
        context = out[batch.step, batch.kind, ACTIONS:]
        own = self.own_out(torch.tanh(self.own_in(torch.cat([batch.resource, context], 1))))
        threshold = self.threshold_out(torch.tanh(self.threshold_in(batch.pooled)))
        return out[:, :, :ACTIONS], own, threshold

    def log_probabilities(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each agent's actions, up to a constant; shapes as those of the means."""
        every = self.log_deviation.exp().clamp(min=DEVIATION_MIN)
        deviation = (every[:ACTIONS], every[ACTIONS : 2 * ACTIONS], every[2 * ACTIONS :])
        given = (batch.kind_action, batch.own_action, batch.threshold_action)
        kind, own, threshold = (
            -0.5 * ((action - mean) / spread) ** 2 - spread.log()
            for action, mean, spread in zip(given, self(batch), deviation, strict=True)
        )
        return kind, own, threshold

    def deviation(self) -> tuple[float, ...]:
        """Of the exploration (see `gainnet.training.rollout.Episode`)."""
        return tuple(self.log_deviation.detach().exp().clamp(min=DEVIATION_MIN).tolist())

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What a checkpoint holds: the actor."""
        named = {}
        for name in ("kind_in", "kind_out", "own_in", "own_out", "threshold_in", "threshold_out"):
            layer = getattr(self, name)
            named[name], named[f"{name}_bias"] = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        return named | {"failing": np.zeros(len(KINDS), np.float32)}


def batch_of(learner: Learner, trajectories: Sequence[Trajectory], baselines: Sequence[Trajectory]) -> Batch:
    """The steps of the episodes with their advantages (generalised, arXiv 1506.02438) over the critic's values."""
    advantage, target = [], []
    for trajectory, baseline in zip(trajectories, baselines, strict=True):
        with torch.no_grad():
            value = learner.critic(torch.as_tensor(trajectory.pooled))[:, 0].numpy()
        reward, ahead, out = trajectory.reward - baseline.reward, 0.0, np.zeros(len(value), np.float32)
        for t in reversed(range(len(value))):
            following = value[t + 1] if t + 1 < len(value) else value[t]
            ahead = reward[t] + DISCOUNT * following - value[t] + DISCOUNT * TRACE * ahead
            out[t] = ahead
        advantage.append(out)
        target.append(out + value)
    lengths = [len(t.reward) for t in trajectories]
    first = np.cumsum([0, *lengths[:-1]])
    every = np.concatenate(advantage)
    pairs = list(zip(first, trajectories, strict=True))
    joined = {
        name: torch.as_tensor(np.concatenate([getattr(t, name).reshape(len(t.reward), -1) for t in trajectories]))
        for name in ("pooled", "threshold_action")
    }
    return Batch(
        **joined,
        kind_action=torch.as_tensor(np.concatenate([t.kind_action for t in trajectories])),
        resource=torch.as_tensor(np.concatenate([t.resource.reshape(-1, FEATURES) for t in trajectories])),
        step=torch.as_tensor(
            np.concatenate([np.repeat(start + np.arange(len(t.reward)), len(t.kind)) for start, t in pairs])
        ),
        kind=torch.as_tensor(np.concatenate([np.tile(t.kind, len(t.reward)) for t in trajectories])),
        own_action=torch.as_tensor(np.concatenate([t.own_action.reshape(-1, ACTIONS) for t in trajectories])),
        advantage=torch.as_tensor((every - every.mean()) / (every.std() + 1e-8)),
        target=torch.as_tensor(np.concatenate(target)),
    )


def improve(learner: Learner, optimiser: torch.optim.Optimizer, batch: Batch) -> Mapping[str, float]:
    """Some epochs of the clipped objective on a batch; returns figures of the last."""
    with torch.no_grad():
        before = learner.log_probabilities(batch)
    advantages = (batch.advantage[:, None, None], batch.advantage[batch.step, None], batch.advantage[:, None])
    objective = torch.zeros(())
    for _ in range(EPOCHS):
        objective = torch.zeros(())
        for old, new, advantage in zip(before, learner.log_probabilities(batch), advantages, strict=True):
            ratio = (new - old).exp()
            clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP)
            objective = objective + torch.minimum(ratio * advantage, clipped * advantage).mean()
        error = ((learner.critic(batch.pooled)[:, 0] - batch.target) ** 2).mean() / (batch.target.var() + 1e-6)
        optimiser.zero_grad()
        (-objective + VALUE_WEIGHT * error).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), GRADIENT_MAX)
        optimiser.step()
    return {"objective": float(objective.detach()), "critic_error": float(error.detach())}


class DrlTraining(MatcherTraining):
    """Plays some of the training episodes with exploration, improves the policy, and now and then tries it out.

    When that is done, the best policy is prepared for faults.
    """

    kind = "drl"

    def __init__(self, scenario: Scenario, steps: int = TRAINING_STEPS) -> None:
        self.steps = steps
        self.scenario = scenario
        torch.manual_seed(scenario.seed)
        self.module: Learner = Learner()
        self.optimiser = torch.optim.Adam(self.module.parameters(), RATE)
        self._scenarios = [variation(scenario, index) for index in range(EPISODES + TRIALS)]
        self._alone: list[Trajectory] = []
        self._best: dict[str, NDArray[np.floating]] = {}
        self._best_gain = np.zeros(1)

    def prepare(self, workers: Workers) -> None:
        """See Training: play every episode without a policy."""
        self._alone = self._play([Episode(s, None, None, i) for i, s in enumerate(self._scenarios)], workers)
        self._best = self._best or dict(self.module.weights())

    def step(self, number: int, workers: Workers) -> Figures:
        """See Training."""
        rng = stream(self.scenario.seed, f"training.step{number}")
        drawn = [int(i) for i in rng.choice(EPISODES, EPISODES_A_STEP, replace=False)]
        jobs = [
            Episode(self._scenarios[i], self._actor(), self.module.deviation(), number * EPISODES + i) for i in drawn
        ]
        played, alone = self._play(jobs, workers), [self._alone[i] for i in drawn]
        batch = batch_of(self.module, played, alone)
        figures = {"gain": _gain(played, alone), **improve(self.module, self.optimiser, batch)}
        if (number + 1) % TRIAL_STEPS == 0 or number == self.steps - 1:
            figures["trial_gain"] = self._try(workers)
        if number == self.steps - 1:
            figures["failing_gain"] = self._prepare_for_faults(workers)
        return figures

    def _try(self, workers: Workers) -> float:
        """Gain of the policy without exploration on the held-out episodes; keeps it where it is the best so far."""
        jobs = [Episode(s, self._actor(), None, i) for i, s in enumerate(self._scenarios[EPISODES:])]
        gain = _gain(self._play(jobs, workers), self._alone[EPISODES:])
        if gain > self._best_gain[0]:
            self._best_gain, self._best = np.array([gain]), {n: w.copy() for n, w in self.module.weights().items()}
        return gain

    def _prepare_for_faults(self, workers: Workers) -> float:
        """Make kinds of resources dearer while something fails, where that pays over whole runs; returns what it gained.

        What is let in too cheaply, an upload that is due 20 s later, say, is paid for when a fault has made its resource
        scarce: too late for the discount of a step, and hidden by the luck of the few episodes that end in congestion.
        So each kind is tried by itself, on top of those that were kept, and judged by the middle half of the episodes.
        """
        scenarios = [trouble(self.scenario, index) for index in range(TROUBLES)]

        def rewards(failing: NDArray[np.floating]) -> NDArray[np.float64]:
            weights = {n: w.astype(np.float64) for n, w in (self._best | {"failing": failing}).items()}
            played = self._play([Episode(s, weights, None, i) for i, s in enumerate(scenarios)], workers)
            return np.array([p.reward.astype(np.float64).mean() for p in played])

        kept, gained = self._best["failing"], 0.0
        reached = rewards(kept)
        for kind in range(len(KINDS)):
            tried = kept + DEARER * np.eye(len(KINDS), dtype=np.float32)[kind]
            found = rewards(tried)
            gain = _middle(found - reached)
            if gain > DEARER_GAIN:
                kept, reached, gained = tried, found, gained + gain
        self._best = self._best | {"failing": kept}
        return gained

    def _actor(self) -> dict[str, NDArray[np.float64]]:
        return {name: weight.astype(np.float64) for name, weight in self.module.weights().items()}

    def _play(self, jobs: Sequence[Episode], workers: Workers) -> list[Trajectory]:
        found = {job.seed: played for job, played in workers.map(play, jobs, lambda job: f"episode {job.seed}")}
        return [found[job.seed] for job in jobs]

    def weights(self) -> Arrays:
        """See Training: the best policy so far, not the last."""
        return self._best

    def state(self) -> dict[str, NDArray[np.floating]]:
        """See Training."""
        return super().state() | {f"best.{n}": w for n, w in self._best.items()} | {"best_gain": self._best_gain}

    def restore(self, state: Arrays) -> None:
        """See Training."""
        super().restore(state)
        self._best = {name: np.asarray(state[f"best.{name}"]) for name in SHAPES}
        self._best_gain = np.asarray(state["best_gain"], np.float64)


def _middle(values: NDArray[np.float64]) -> float:
    """Mean of the middle half."""
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _gain(played: Sequence[Trajectory], alone: Sequence[Trajectory]) -> float:
    """Mean reward of episodes over that of the same without a policy."""
    pairs = zip(played, alone, strict=True)
    return float(np.mean([p.reward.astype(np.float64).mean() - a.reward.mean() for p, a in pairs]))
