"""What a frame was worth to the network: the reward of every learner and the return of every run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gainnet.execution.outcome import Result
from gainnet.run import Frame, Run


@dataclass(frozen=True, slots=True)
class Reward:
    """A weighted sum of a frame's QoS and cost, each relative to what the scenario's demand asks for in a frame.

    Attributes:
        satisfaction: weight of the tasks that ended satisfied, over the tasks that arrive in a frame on the mean.
        value: weight of the value of those tasks, over the value that arrives in a frame on the mean.
        cost: weight of the frame's cost (machine time and energy, times the objective's own weight), over that value.
        energy: weight of the frame's energy in J, over 1 kJ a frame.
    """

    satisfaction: float = 0.5
    value: float = 0.5
    cost: float = 0.5
    energy: float = 0.0

    def of(self, run: Run, frame: Frame) -> float:
        """The reward of a frame of a run; 1 where all that arrives on the mean is served at no cost, less the rest."""
        demand, frame_s = run.demand, run.scenario.frame_s
        outcomes, usage = frame.outcomes, frame.usage
        served = outcomes.result == Result.SERVED
        tasks = max(demand.rate_per_s * frame_s, 1e-12)
        worth = max(demand.value_per_s * frame_s, 1e-12)
        cost = run.scenario.orchestrator.objective.cost_weight * usage.cost
        return float(
            self.satisfaction * np.count_nonzero(served) / tasks
            + self.value * outcomes.value[served].sum() / worth
            - self.cost * cost / worth
            - self.energy * (usage.radio_energy_j + usage.compute_energy_j) / 1e3
        )
