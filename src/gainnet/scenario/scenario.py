"""A scenario: one frozen value that says everything a run depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from gainnet.scenario.collaboration import Collaboration
from gainnet.scenario.demand import Demand, Image
from gainnet.scenario.execution import CellOutage, EdgeDown, EndDown, Execution, LinkDegradation
from gainnet.scenario.knowledge import Knowledge
from gainnet.scenario.models import Adapter, Card, card
from gainnet.scenario.network import Network
from gainnet.scenario.orchestrator import Orchestrator
from gainnet.scenario.quantity import Positive, Section


class Scenario(Section):
    """The network, its demand, how it is orchestrated and executed, for how long, from which seed."""

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    duration_s: Positive = 60.0
    frame_s: Annotated[float, Field(ge=1e-3, le=1.0)] = 0.1
    network: Network
    models: dict[str, Card] = Field(default={})
    demand: Demand
    orchestrator: Orchestrator = Orchestrator()
    collaboration: Collaboration = Collaboration()
    execution: Execution = Execution()
    knowledge: Knowledge | None = None

    @property
    def frames(self) -> int:
        """Number of whole frames in the run, at least one."""
        return max(1, round(self.duration_s / self.frame_s))

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of all models and adapters in use, models before adapters, each in order of first mention."""
        names = dict.fromkeys(name for _, name in self._mentioned())
        bases = {n: c.base for n in names if isinstance(c := card(n, self.models), Adapter)}
        names |= dict.fromkeys(bases.values())
        return (*(n for n in names if n not in bases), *bases)

    def _mentioned(self) -> Iterator[tuple[str, str]]:
        """Every model or adapter that is named, after the path of the field that names it."""
        for service_name, service in self.demand.services.items():
            where = f"demand.services.{service_name}"
            yield from ((f"{where}.models", name) for name in service.models)
            if isinstance(service, Image):
                yield from ((f"{where}.adapters", name) for name in service.adapters)
        for tier in ("end", "edge", "cloud"):
            yield from ((f"network.{tier}.resident", name) for name in getattr(self.network, tier).resident)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for where, name in self._mentioned():
            try:
                found = card(name, self.models)
                if isinstance(found, Adapter):
                    where = f"models.{name}.base"
                    card(found.base, self.models)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        for service_name, service in self.demand.services.items():
            wanted = {"text": "language", "perception": "language", "learning": "language", "image": "diffusion"}
            for name in service.models:
                if (kind := card(name, self.models).kind) != wanted[service.kind]:
                    raise ValueError(
                        f"demand.services.{service_name}.models: {name!r} is a {kind} model, "
                        f"a service of kind {service.kind!r} needs a {wanted[service.kind]} model"
                    )
        return self

    @model_validator(mode="after")
    def _faults_name_what_exists(self) -> Self:
        cells = self.network.cells
        edges = self.network.edges
        for index, fault in enumerate(self.execution.faults):
            where = f"execution.faults.{index}"
            if isinstance(fault, CellOutage) and fault.cell >= cells:
                raise ValueError(f"{where}.cell = {fault.cell}, but the network has cells 0 to {cells - 1}")
            if isinstance(fault, EdgeDown | LinkDegradation) and fault.edge is not None and fault.edge >= edges:
                raise ValueError(f"{where}.edge = {fault.edge}, but the network has edges 0 to {edges - 1}")
            ends = fault.ends if isinstance(fault, EndDown) and fault.ends is not None else ()
            if ends and max(ends) >= self.network.ends:
                raise ValueError(f"{where}.ends: {max(ends)}, but the network has ends 0 to {self.network.ends - 1}")
        return self

    @model_validator(mode="after")
    def _knowledge_names_what_exists(self) -> Self:
        config = self.knowledge
        if config is None:
            return self
        for field, kind in (("service", "learning"), ("requests", "text")):
            name = getattr(config, field)
            found = self.demand.services.get(name)
            if found is None or found.kind != kind:
                fitting = [n for n, s in self.demand.services.items() if s.kind == kind]
                raise ValueError(
                    f"knowledge.{field}: {name!r} is no service of kind {kind!r}: {', '.join(fitting) or 'none'}"
                )
        asked = self.demand.services[config.requests].models
        for tier in ("end", "edge", "cloud"):
            if (name := getattr(config.cards, tier)) not in asked:
                raise ValueError(
                    f"knowledge.cards.{tier}: {name!r} is not among demand.services.{config.requests}.models"
                )
        if config.poison is not None and config.poison.edge >= self.network.edges:
            raise ValueError(
                f"knowledge.poison.edge = {config.poison.edge}, but there are edges 0 to {self.network.edges - 1}"
            )
        return self
