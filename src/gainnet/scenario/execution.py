"""What a person writes about execution: faults, retries and the fluid model's time step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gainnet.scenario.quantity import NonNegative, Positive, PositiveFraction, Section


class Span(Section):
    """A fault that begins at ``begin_s`` and ends at ``end_s`` of the run."""

    begin_s: NonNegative
    end_s: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end_s <= self.begin_s:
            raise ValueError("end_s must be after begin_s")
        return self


class EdgeDown(Span):
    """An edge machine is down: what it ran is lost and tried again elsewhere; it comes back with an empty memory."""

    kind: Literal["edge_down"] = "edge_down"
    edge: Annotated[int, Field(ge=0)]


class EndDown(Span):
    """Ends are down: ``ends``, or a ``fraction`` of all, drawn at random.

    What ran on them, or elsewhere for them, is lost and tried again; what they ask meanwhile is refused; they come back
    with an empty memory.
    """

    kind: Literal["end_down"] = "end_down"
    ends: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    fraction: PositiveFraction | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.ends is None) == (self.fraction is None):
            raise ValueError("give either ends (a list) or fraction (of all ends)")
        return self


class CellOutage(Span):
    """A cell transmits nothing; its edge still computes."""

    kind: Literal["cell_outage"] = "cell_outage"
    cell: Annotated[int, Field(ge=0)]


class SensingOutage(Span):
    """No sounding and no radar: what was known goes stale, perception tasks cannot sense."""

    kind: Literal["sensing_outage"] = "sensing_outage"


class DemandSurge(Span):
    """All arrival rates are multiplied by ``factor``."""

    kind: Literal["demand_surge"] = "demand_surge"
    factor: Annotated[float, Field(ge=0.0, le=100.0)]


class LinkDegradation(Span):
    """The backhaul links of an edge (or all, where ``edge`` is None) keep ``factor`` of their rate."""

    kind: Literal["link_degradation"] = "link_degradation"
    factor: Annotated[float, Field(ge=0.0, le=1.0)]
    edge: Annotated[int, Field(ge=0)] | None = None


class ControllerOutage(Span):
    """The controller is out: nothing new is broadcast, and every edge answers by itself at the last prices."""

    kind: Literal["controller_outage"] = "controller_outage"


Fault = Annotated[
    EdgeDown | EndDown | CellOutage | SensingOutage | DemandSurge | LinkDegradation | ControllerOutage,
    Field(discriminator="kind"),
]


class Execution(Section):
    """How plans are carried out in simulation.

    A frame is cut into ``steps`` steps of fluid processor sharing. A task whose machine failed, whose target was missed
    or whose link broke is tried again up to ``retries`` times while its deadline allows. A task that is ``late`` by
    more than ``abandon_s`` fails.
    """

    steps: Annotated[int, Field(ge=1, le=64)] = 4
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    abandon_s: NonNegative = 2.0
    faults: tuple[Fault, ...] = ()
