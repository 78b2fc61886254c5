"""How anything is trained: steps that can be stopped, saved, and gone on with, bit for bit.

A training draws everything random in a step from its seed and the number of the step, so its state is its weights and
its optimiser's moments. They are kept as safetensors beside the curve. The finished weights of a learned matcher are a
checkpoint for the scenario's ``orchestrator.matcher.checkpoint`` (or ``policy``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from gainnet.measurement.results import Writer
from gainnet.orchestrator import checkpoint
from gainnet.scenario.load import dump
from gainnet.scenario.scenario import Scenario
from gainnet.workers.workers import Workers

Arrays = Mapping[str, NDArray[np.floating]]
Figures = Mapping[str, float]
SCENARIO = "scenario.yaml"


class Training(ABC):
    """A model in training.

    Attributes:
        kind: of training.
        steps: how many steps it takes.
        module: what learns.
        optimiser: what moves it.
    """

    kind: str
    steps: int
    module: torch.nn.Module
    optimiser: torch.optim.Optimizer

    @abstractmethod
    def prepare(self, workers: Workers) -> None:
        """Make what it learns from; called once, also before a training goes on."""

    @abstractmethod
    def step(self, number: int, workers: Workers) -> Figures:
        """The step of this number, from 0; returns the figures of the curve."""

    @abstractmethod
    def begun(self) -> Mapping[str, str]:
        """Text files, by name, that a training is begun with again to go on."""

    @abstractmethod
    def learnt(self, notes: Mapping[str, str]) -> Mapping[str, Writer]:
        """What is written when the last step is taken; ``notes`` go where files have notes."""

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Everything that the next steps depend on."""
        found = {f"module.{name}": tensor.cpu().numpy().copy() for name, tensor in self.module.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            found |= {
                f"optimiser.{index}.{name}": torch.as_tensor(value).cpu().numpy() for name, value in moments.items()
            }
        return found

    def restore(self, state: Arrays) -> None:
        """Go on from a state."""
        tensors = {name: torch.as_tensor(array.copy()) for name, array in state.items()}
        prefix = "module."
        self.module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


class MatcherTraining(Training):
    """A learned matcher in training on a scenario.

    Attributes:
        scenario: what it learns from.
    """

    scenario: Scenario

    @abstractmethod
    def weights(self) -> Arrays:
        """The weights of the checkpoint, as of now."""

    def begun(self) -> Mapping[str, str]:
        """See Training: the resolved scenario."""
        return {SCENARIO: dump(self.scenario)}

    def learnt(self, notes: Mapping[str, str]) -> Mapping[str, Writer]:
        """See Training: the checkpoint."""
        weights, said = self.weights(), {"scenario": self.scenario.name, "seed": str(self.scenario.seed), **notes}
        return {f"{self.kind}.safetensors": lambda path: checkpoint.write(path, self.kind, weights, said)}
