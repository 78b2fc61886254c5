"""What every matcher is, and how a scenario's choice of one becomes it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.matchers import diffusion, drl, neural
from gainnet.orchestrator.matchers.diffusion import Diffusion
from gainnet.orchestrator.matchers.drl import Actor
from gainnet.orchestrator.matchers.exact import Exact
from gainnet.orchestrator.matchers.greedy import Greedy
from gainnet.orchestrator.matchers.local import Local
from gainnet.orchestrator.matchers.neural import Neural
from gainnet.orchestrator.matchers.price import Price
from gainnet.orchestrator.matchers.random import Random
from gainnet.orchestrator.matchers.tier import FixedTier
from gainnet.orchestrator.outlook import Policy
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem
from gainnet.scenario import matcher as scenario


@runtime_checkable
class Matcher(Protocol):
    """Chooses one pattern a task, or refuses it. Frozen and without state: the last frame is in ``warm``."""

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:
        """A feasible plan with its certificate.

        ``warm`` holds a first guess of the price of each row (value per unit), zeros where there is none; it bears on
        speed and certificate, never on feasibility. ``rng`` drives whatever is random: same state, same plan.
        """
        ...


def build(config: scenario.MatcherConfig) -> Matcher:
    """The matcher that a scenario asks for."""
    match config:
        case scenario.Random():
            return Random(config.iterations)
        case scenario.End() | scenario.Nearest() | scenario.Edge() | scenario.Cloud():
            return FixedTier(config.kind, config.iterations)
        case scenario.Greedy():
            return Greedy(config.iterations)
        case scenario.Local():
            return Local(config.iterations)
        case scenario.Price():
            return Price(config.iterations, config.perturbations, config.effort, config.relative_gap)
        case scenario.Neural() | scenario.Drl():
            finish = Price(config.iterations, config.perturbations, config.effort, config.relative_gap)
            return Neural(neural.load(config.checkpoint), finish)
        case scenario.Diffusion():
            finish = Price(config.iterations, config.perturbations, config.effort, config.relative_gap)
            weights, predictor = diffusion.load(config.denoiser), neural.load(config.checkpoint)
            return Diffusion(weights, predictor, config.samples, finish)
        case scenario.Exact():
            return Exact(config.time_limit_s, config.relative_gap)


def policy(config: scenario.MatcherConfig) -> Policy | None:
    """What steers the problems of the matcher that a scenario asks for, if anything does."""
    return Actor(drl.load(config.policy)) if isinstance(config, scenario.Drl) else None


def staleness_s(config: scenario.MatcherConfig) -> float:
    """How long a broadcast is under way to whoever decides; the controller itself need not wait."""
    return config.staleness_s if isinstance(config, scenario.Local) else 0.0
