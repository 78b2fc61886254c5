"""Routers say which node answers a request; the fixed ones are the arms that prices are compared with."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gainnet.errors import GainnetError

Kind = Literal["chat", "completion", "embedding", "image"]
TIERS = ("end", "edge", "cloud")
Sure = Callable[[Sequence[float]], bool]


class Refused(GainnetError):
    """A request that is not served: what the client reads, with the HTTP status it is told.

    Attributes:
        status: of HTTP.
        message: one line for people.
        retry_after_s: when to come back, where coming back may help.
        code: for programs, as `model_not_found`.
        param: the field of the request that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after_s: float | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after_s, self.code, self.param = (
            status, message, retry_after_s, code, param,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, before it is routed.

    Attributes:
        kind: of request.
        model: public id that it names.
        end: number of the end that asks, None where it is asked at the gateway.
        prompt_token: estimated before tokenising, a quarter of its bytes.
        output_token: the most it asks for, or the default.
        deadline_s: time left, None without a deadline.
        quality_min: least quality that it accepts, None where any will do.
        tenant: who asks; empty where no keys are configured.
        session: requests of one conversation share it.
        step: denoising steps of an image, 0 where it doesn't say.
        image: images asked for, 0 where none are.
        together: whether two models may answer it: one text, without log-probabilities.
    """

    kind: str
    model: str
    end: int | None
    prompt_token: int
    output_token: int
    deadline_s: float | None
    quality_min: float | None
    tenant: str
    session: str | None
    together: bool = False
    step: int = 0
    image: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request may go.

    Attributes:
        node: name of the node.
        url: of the node, without `/v1`.
        model: id by which the node knows the model.
        why: one phrase for people.
        verifier: the node whose model answers, by what this one drafts; None: this node's own model does.
        sure: whether its answer may be shown, by the log-probabilities of its tokens; None: it may.
        audit: what is asked as well, to learn from.
        begun_by: the node that takes the first steps of images; empty: this one does; None: this one may choose.
    """

    node: str
    url: str
    model: str
    why: str
    verifier: str | None = None
    sure: Sure | None = None
    audit: Target | None = None
    begun_by: str | None = None

    @property
    def way(self) -> str:
        """How it answers: whole, cascade, speculation or sharing."""
        if self.begun_by:
            return "sharing"
        return "speculation" if self.verifier is not None else "whole" if self.sure is None else "cascade"


@dataclass(frozen=True, slots=True)
class Route:
    """The choice, then where to go if it fails before the first byte."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request that was sent to a target ended.

    Attributes:
        ok: a whole answer came from it.
        at_fault: none came, and the node is to blame: not the client, who left, nor a full queue.
        latency_s: from sending to the last byte.
        first_byte_s: from sending to the first byte; None where none came.
        prompt_token: as counted by the node, else estimated.
        output_token: as counted by the node, else estimated.
    """

    ok: bool
    at_fault: bool
    latency_s: float
    first_byte_s: float | None
    prompt_token: int
    output_token: int


@dataclass(frozen=True, slots=True)
class Place:
    """A node as routers see it.

    Attributes:
        name: of the node.
        url: of the node, without `/v1`.
        tier: end, edge or cloud.
        models: the node's own id of each public model that it serves; may change as adapters come and go.
        end: number of the end that this node is, for nodes of that tier.
        quality: of its answers, in [0, 1]; None where nobody says.
    """

    name: str
    url: str
    tier: str
    models: Mapping[str, str] = field(default_factory=dict)
    end: int | None = None
    quality: float | None = None

    def target(self, model: str, why: str) -> Target:
        """This node as the target of a request for a model that it serves."""
        return Target(self.name, self.url, self.models[model], why)


@dataclass(frozen=True, slots=True)
class NodeView:
    """How a node is, as a router heard: whether it may be asked, and how many requests run and wait there."""

    up: bool
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class View:
    """What a router knows that people may want to see; nothing by default.

    Attributes:
        scenario: name of the scenario that it prices.
        cells: where radio sites stand, (x, y) in m.
        ends: where each end is, (x, y) in m, and its cell, -1 where none serves it.
        places: where nodes stand, (x, y) in m, by name; those that stand somewhere.
        nodes: how nodes are, by name; those that were heard of.
        prices: what a whole resource of each kind is worth, in the objective's currency.
    """

    scenario: str = ""
    cells: tuple[tuple[float, float], ...] = ()
    ends: tuple[tuple[float, float, int], ...] = ()
    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)


class Router(ABC):
    """Chooses the target of each request, and hears what became of it."""

    @abstractmethod
    async def route(self, ask: Ask) -> Route:
        """Where the request goes. May wait for a tick of at most 1 ms to be decided with others.

        Raises:
            Refused: it is not served at all, or not now.
        """

    def sent(self, ask: Ask, target: Target) -> int:  # noqa: ARG002
        """The request goes to this target now; the number is for `ended`."""
        return 0

    def ended(self, number: int, how: Ended) -> None:  # noqa: B027
        """What was sent under this number is over, well or not."""

    def judged(self, small: Target, logprobs: Sequence[float], said: str, answer: str) -> None:  # noqa: B027
        """What a small model says to a request, and how sure it is of its tokens, where another gave this answer."""

    def view(self) -> View:
        """What people may see of it."""
        return View()

    async def start(self) -> None:  # noqa: B027
        """Begin what runs beside requests."""

    async def close(self) -> None:  # noqa: B027
        """End what `start` began."""


class _Fixed(Router):
    """Places in a fixed order that only the model, its quality and the end that asks matter to."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)

    async def route(self, ask: Ask) -> Route:
        """See `Router.route`."""
        return Route(self._ordered(ask))

    def _ordered(self, ask: Ask) -> tuple[Target, ...]:
        able = [place for place in self._places if ask.model in place.models and place.end in (None, ask.end)]
        if not able:
            raise Refused(503, f"no node that may answer this request serves {ask.model!r}", code="no_node")
        least = ask.quality_min
        good = [place for place in able if least is None or place.quality is None or place.quality >= least]
        if not good:
            raise Refused(503, f"no node has a model of quality {least:g}", code="no_quality")
        if len(good) > 1:
            good.sort(key=lambda place: self._rank(place, ask))
        return tuple(place.target(ask.model, self._why(place)) for place in good)

    @abstractmethod
    def _rank(self, place: Place, ask: Ask) -> int: ...

    @abstractmethod
    def _why(self, place: Place) -> str: ...


class Nearest(_Fixed):
    """The lowest tier that serves the model well enough.

    Where there are several nodes of it, every end has one of its own, by its number; what is asked at the gateway goes
    to the first in the settings.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__(places)
        tiers = [[place.name for place in places if place.tier == tier] for tier in TIERS]
        self._among = {name: (names.index(name), len(names)) for names in tiers for name in names}

    def _rank(self, place: Place, ask: Ask) -> int:
        number, count = self._among[place.name]
        return TIERS.index(place.tier) * len(self._places) + (number - (ask.end or 0)) % count

    def _why(self, place: Place) -> str:
        return f"nearest: lowest tier with the model is {place.tier}"


class Cloud(_Fixed):
    """The cloud, and lower tiers only where it fails."""

    def _rank(self, place: Place, ask: Ask) -> int:  # noqa: ARG002
        return -TIERS.index(place.tier)

    def _why(self, place: Place) -> str:
        return "cloud first" if place.tier == "cloud" else "the cloud failed or lacks the model"


class RoundRobin(_Fixed):
    """Every node that serves the model in turn."""

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__(places)
        self._turn = itertools.count()

    def _ordered(self, ask: Ask) -> tuple[Target, ...]:
        targets = super()._ordered(ask)
        first = next(self._turn) % len(targets)
        return targets[first:] + targets[:first]

    def _rank(self, place: Place, ask: Ask) -> int:  # noqa: ARG002
        return 0

    def _why(self, place: Place) -> str:  # noqa: ARG002
        return "its turn"


FIXED: Mapping[str, Callable[[Sequence[Place]], Router]] = {
    "nearest": Nearest,
    "cloud": Cloud,
    "round_robin": RoundRobin,
}
