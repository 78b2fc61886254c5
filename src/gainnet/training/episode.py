"""What the single, the vectorised and the many-agent environments share: one run at a time, seen and acted upon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium.spaces import Box, Dict, Graph, GraphInstance, Space
from jaxtyping import Float
from numpy.typing import NDArray

from gainnet.execution.outcome import Result
from gainnet.orchestrator.outlook import OVERALL_FEATURES, RESOURCE_FEATURES, Outlook
from gainnet.orchestrator.plan import Plan
from gainnet.run import Run
from gainnet.training.setting import GRAPH, Setting

Reals: TypeAlias = Box[np.float32]
Observation: TypeAlias = dict[str, NDArray[np.float32]] | GraphInstance

_RESOURCE_LOW = [-3.0 if name == "bid" else 0.0 for name in RESOURCE_FEATURES]
_RESOURCE_HIGH = [2.0] * len(RESOURCE_FEATURES)


def box(low: Any, high: Any, shape: tuple[int, ...]) -> Reals:
    """A float32 box; ``low`` and ``high`` are broadcast to the shape."""
    least, most = (np.broadcast_to(np.asarray(bound, np.float32), shape).copy() for bound in (low, high))
    return Box(least, most, shape, np.float32)


def resource_box(resources: int, left: int = 0) -> Reals:
    """RESOURCE_FEATURES of so many shared resources, and ``left`` further columns in [0, 1]."""
    low, high = [*_RESOURCE_LOW, *[0.0] * left], [*_RESOURCE_HIGH, *[1.0] * left]
    return box(low, high, (resources, len(low)))


def overall_box() -> Reals:
    """OVERALL_FEATURES."""
    return box(0.0, 2.0, (len(OVERALL_FEATURES),))


class Episode(ABC):
    """Episodes of an environment, one after the other.

    Attributes:
        setting: the environment's options.
        run: the episode's run; its scenario has the episode's seed.
        frame: frames that are over.
        over: whether all of them are; a step then changes nothing.
        served, ended: tasks that were satisfied, and that ended in any way, in the last step.
        action_space: what `step` takes.
        boxes: what `fill` fills.
        graphs: what `graph` returns.
    """

    action_space: Space[Any]
    boxes: Dict
    graphs: Graph

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.begin(setting.scenario.seed)

    @property
    def observation_space(self) -> Space[Any]:
        """The space of `observe`."""
        return self.graphs if self.setting.observation == GRAPH else self.boxes

    @property
    def shared(self) -> int:
        """Number of shared resources: the cells' bands, the fixed machines' time, the links."""
        pool = self.run.orchestrator.pool
        return pool.end_start + pool.links

    def begin(self, seed: int) -> None:
        """Begin an episode of this scenario seed."""
        self.run = Run(self.setting.scenario.model_copy(update={"seed": seed}))
        self.frame = self.served = self.ended = 0
        self.over = False

    @abstractmethod
    def step(self, action: Any) -> tuple[float, bool]:
        """Act; the reward, and whether the episode is over."""

    @abstractmethod
    def fill(self, out: Mapping[str, NDArray[np.float32]]) -> None:
        """Write the padded observation into arrays of the shapes of `boxes`."""

    @abstractmethod
    def graph(self) -> GraphInstance:
        """The observation as a graph."""

    def info(self) -> dict[str, Any]:
        """What is worth knowing and not to be learned from; the same keys every time."""
        return {
            "seed": self.run.scenario.seed, "frame": self.frame, "served": self.served, "ended": self.ended,
        }  # fmt: skip

    def observe(self) -> Observation:
        """The observation, in arrays of its own."""
        if self.setting.observation == GRAPH:
            return self.graph()
        out = {name: np.empty(space.shape or (), np.float32) for name, space in self.boxes.items()}
        self.fill(out)
        return out

    def _commit(self, plan: Plan | None = None) -> float:
        """End the frame that was begun with a plan, or do a whole frame with the scenario's matcher; its reward."""
        done = self.run.step() if plan is None else self.run.commit(plan)
        self.frame += 1
        self.over = self.frame >= self.run.scenario.frames
        self.served += int(np.count_nonzero(done.outcomes.result == Result.SERVED))
        self.ended += len(done.outcomes)
        return self.setting.reward.of(self.run, done)

    def _look(self) -> Outlook:
        """The outlook on the frame to come."""
        run = self.run
        return run.orchestrator.outlook(run.execution.load, self.frame * run.scenario.frame_s)


def written(out: NDArray[np.float32], values: Float[np.ndarray, ...], space: Reals) -> None:
    """Write values into a float32 array, kept within the bounds of a space."""
    np.clip(values, space.low, space.high, out=out, casting="unsafe")
