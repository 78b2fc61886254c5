"""What a person writes about orchestration: the objective, the pools, the frame and the matcher."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gainnet.scenario.matcher import MatcherConfig, Price
from gainnet.scenario.quantity import Count, Fraction, NonNegative, Positive, Section


class Objective(Section):
    """What a plan is worth: the value of satisfied tasks less ``cost_weight`` times what they cost.

    Cost is in the currency of ``price_per_s`` of the hardware: busy machine time, plus energy at ``energy_price_per_j``
    (the default is 0.30 a kWh). ``latency_weight`` gives up to that fraction of a task's value for ending early.
    """

    cost_weight: NonNegative = 1.0
    energy_price_per_j: NonNegative = 0.30 / 3.6e6
    latency_weight: Fraction = 0.1


class Silos(Section):
    """The ablation without integration: fixed parts of every cell's band and of every machine's time."""

    kind: Literal["siloed"] = "siloed"
    sensing_share: Fraction = 0.2
    uplink_share: Fraction = 0.3
    learning_share: Fraction = 0.2
    image_share: Fraction = 0.3
    perception_share: Fraction = 0.25

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.sensing_share + self.uplink_share >= 1.0:
            raise ValueError("sensing_share + uplink_share must be below 1: the downlink has the rest")
        if self.learning_share + self.image_share + self.perception_share >= 1.0:
            raise ValueError("learning_share + image_share + perception_share must be below 1: text has the rest")
        return self


class Universal(Section):
    """Universal resource pools: any process may draw on any row."""

    kind: Literal["universal"] = "universal"


class ZFrame(Section):
    """The Z-shaped frame: strokes of consecutive frames overlap, so every pool works all the time."""

    kind: Literal["z"] = "z"


class SerialFrame(Section):
    """The ablation without overlap: a frame senses, then transmits, then computes, each in its share of the time."""

    kind: Literal["serial"] = "serial"
    radio_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5


class Orchestrator(Section):
    """How the network is orchestrated.

    The horizon grows geometrically from one frame to ``horizon_s`` by ``slot_growth``. A task waits at most
    ``patience_s`` to be admitted. Stages are planned to use ``pace`` of the time to the deadline, and ``reserve`` of every
    row is kept for what was not foreseen. ``foresight`` is the rate at which the worth of time to come is learned (0:
    none, every frame is matched as if no task arrived after it). Each task may use its ``cells_considered`` strongest
    cells, and behind each its edge, up to ``edges_considered - 1`` other edges, and the cloud.
    """

    matcher: MatcherConfig = Price()
    objective: Objective = Objective()
    pools: Annotated[Universal | Silos, Field(discriminator="kind")] = Universal()
    frame: Annotated[ZFrame | SerialFrame, Field(discriminator="kind")] = ZFrame()
    slot_growth: Annotated[float, Field(ge=1.5, le=8.0)] = 3.0
    horizon_s: Positive = 10.0
    patience_s: NonNegative = 0.5
    foresight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    pace: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    reserve: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    cells_considered: Annotated[int, Field(ge=1, le=8)] = 2
    edges_considered: Count = 2
