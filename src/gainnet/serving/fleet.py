"""Real nodes in the place of a scenario's machines, and real requests as its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from gainnet.demand.service import sampler
from gainnet.errors import InputError
from gainnet.scenario.demand import AnyService, Distribution, Image, Text
from gainnet.scenario.scenario import Scenario
from gainnet.serving.router import Ask, Place, Refused

KINDS: Mapping[str, str] = {"chat": "text", "completion": "text", "embedding": "text", "image": "image"}
"""The kind of service that answers each kind of request."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which real nodes stand for which machines of the scenario; None (or left out): nothing stands there.

    A node serves a card of the scenario where one of its public models has that name, or is listed in ``roots``; what
    else it serves is an adapter of its card, where it has one.

    Attributes:
        cloud: the cloud.
        edges: edge 0, 1, ...
        ends: ends by number.
        roots: the card that each public model is, or is an adapter of, where that isn't its own name; may change.
    """

    cloud: Place | None = None
    edges: tuple[Place | None, ...] = ()
    ends: Mapping[int, Place] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, places: Sequence[Place], roots: Mapping[str, str] | None = None) -> Fleet:
        """Places in their order: the one cloud, the edges, the ends by their numbers.

        Errors: InputError for two clouds, an end without a number, or two of the same.
        """
        clouds = [place for place in places if place.tier == "cloud"]
        ends = [place for place in places if place.tier == "end"]
        if len(clouds) > 1:
            raise InputError(f"nodes: {clouds[0].name!r} and {clouds[1].name!r} are both the cloud: a scenario has one")
        numbered: dict[int, Place] = {}
        for place in ends:
            if place.end is None or place.end in numbered:
                raise InputError(f"nodes.{place.name}.end: each node of tier end needs a number of its own")
            numbered[place.end] = place
        edges = tuple(place for place in places if place.tier == "edge")
        return cls(clouds[0] if clouds else None, edges, numbered, roots or {})


@dataclass(frozen=True, slots=True)
class Wish:
    """A request in the scenario's terms.

    Attributes:
        ask: the request.
        service: index of its service.
        card: artifact that must answer, -1 where any of the service's may.
        only: nodes that have the adapter it names; None: any.
    """

    ask: Ask
    service: int
    card: int
    only: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """What tasks of a service are like where the request doesn't say: medians of the scenario's distributions."""

    quality: float
    deadline_s: float
    per_token_s: float
    value: float
    token_bit: float
    prompt_bit: float
    step: float
    image: float
    per_step_s: float


class Catalogue:
    """Translates between public models, nodes' own models, and the scenario's services and cards.

    Attributes:
        places: the real node of each machine, numbered as in `gainnet.network.state`; None for none.
        sizes: of each service.

    Errors: InputError for a fleet with machines that the scenario doesn't have, or none that serves any of its cards.
    """

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        network = scenario.network
        if len(fleet.edges) > network.edges:
            raise InputError(f"nodes: {len(fleet.edges)} edges, the scenario has {network.edges}")
        for end, place in fleet.ends.items():
            if not 0 <= end < network.ends:
                raise InputError(f"nodes.{place.name}.end = {end}: the scenario has ends 0 to {network.ends - 1}")
        fixed = [fleet.cloud, *fleet.edges, *[None] * (network.edges - len(fleet.edges))]
        self.places: list[Place | None] = [*fixed, *(fleet.ends.get(end) for end in range(network.ends))]
        self.fixed = len(fixed)
        self._artifacts, self._roots = scenario.artifacts, fleet.roots
        self._services = scenario.demand.services
        self._text_cards = {
            name for service in self._services.values() if service.kind == "text" for name in service.models
        }
        self.sizes = [_sizes(service) for service in scenario.demand.services.values()]
        self._wishes: dict[tuple[str, str], tuple[int, int, frozenset[int] | None]] = {}
        self._fitting = [
            np.array([name in service.models for name in self._artifacts]) for service in self._services.values()
        ]
        if not self.served().any():
            raise InputError(f"nodes: none serves a model of the scenario: {', '.join(self._artifacts)}")

    def place(self, node: int) -> Place:
        """The real node of a machine that has one."""
        place = self.places[node]
        assert place is not None, "a pattern's node is real"
        return place

    def served(self) -> Bool[np.ndarray, "node artifact"]:
        """Which cards each node can answer with now, by what the places list."""
        self._wishes.clear()
        served = np.zeros((len(self.places), len(self._artifacts)), np.bool_)
        for node, place in enumerate(self.places):
            if place is not None:
                served[node] = self.artifacts(place.models)
        return served

    def artifacts(self, models: Mapping[str, str] | Sequence[str]) -> Bool[np.ndarray, " artifact"]:
        """The cards among public models."""
        found = np.zeros(len(self._artifacts), np.bool_)
        for card in map(self._card, models):
            if card >= 0:
                found[card] = True
        return found

    def resident(self, node: int, ids: Sequence[str]) -> Bool[np.ndarray, " artifact"]:
        """The cards among a node's own ids."""
        place, named = self.places[node], set(ids)
        models = place.models if place is not None else {}
        return self.artifacts([public for public, own in models.items() if own in named])

    def wish(self, ask: Ask) -> Wish:
        """A request in the scenario's terms.

        Raises:
            Refused: 404 for a model that no service of its kind knows, 400 for an end that isn't there.
        """
        if ask.end is not None and not 0 <= ask.end < len(self.places) - self.fixed:
            raise Refused(400, f"there is no end {ask.end}", code="unknown_end")
        found = self._wishes.get((ask.kind, ask.model))
        if found is None:
            found = self._wishes[ask.kind, ask.model] = self._find(KINDS[ask.kind], ask.model)
        return Wish(ask, *found)

    def _find(self, kind: str, model: str) -> tuple[int, int, frozenset[int] | None]:
        """Service, card and nodes that a request for a public model is about, as in Wish."""
        card = self._card(model)
        for index, (name, service) in enumerate(self._services.items()):
            if service.kind == kind and (name == model or (card >= 0 and self._artifacts[card] in service.models)):
                only = None
                if card >= 0 and self._artifacts[card] != model:
                    only = frozenset(n for n, p in enumerate(self.places) if p is not None and model in p.models)
                return index, -1 if name == model else card, only
        raise Refused(404, f"no {kind} service knows the model {model!r}", code="model_not_found", param="model")

    def fitting(self, wish: Wish) -> Bool[np.ndarray, " artifact"]:
        """The cards that may answer a request."""
        if wish.card < 0:
            return self._fitting[wish.service]
        return np.asarray(np.arange(len(self._artifacts)) == wish.card)

    def own_id(self, place: Place, artifact: int, ask: Ask) -> str:
        """The id by which a node knows the model that answers."""
        name = self._artifacts[artifact]
        for public in (ask.model, name):
            if public in place.models:
                return place.models[public]
        return next(own for public, own in place.models.items() if self._roots.get(public) == name)

    def _card(self, public: str) -> int:
        name = public if public in self._artifacts else self._roots.get(public) or self._adapted(public)
        return self._artifacts.index(name) if name in self._artifacts else -1

    def _adapted(self, public: str) -> str:
        """The text model that all nodes with an adapter serve besides; empty where there are several, or it is none."""
        if public in self._services:
            return ""
        having = [place.models for place in self.places if place is not None and public in place.models]
        cards = {name for models in having for name in models if name in self._text_cards}
        return cards.pop() if len(cards) == 1 else ""


def _sizes(service: AnyService) -> Sizes:
    quality, step, image, prompt_bit, token_bit, per_token_s = _median(service.quality_min), 0.0, 0.0, 0.0, 0.0, 0.0
    deadline_s, per_step_s = service.deadline_s, 0.0
    if isinstance(service, Image):
        step, image, prompt_bit = _median(service.steps), _median(service.images), service.prompt_bit
        per_step_s = service.deadline_per_step_s
        deadline_s += per_step_s * step
    if isinstance(service, Text):
        token_bit, per_token_s = service.bit_per_token, service.deadline_per_token_s
    return Sizes(quality, deadline_s, per_token_s, service.value, token_bit, prompt_bit, step, image, per_step_s)


def _median(distribution: Distribution) -> float:
    """A value that the distribution takes, with about as many below as above."""
    drawn = sampler(distribution)(np.random.default_rng(0), 999)
    return float(np.sort(drawn)[499])
