"""The gateway's own router over two nodes of a benchmark: it hears what a gateway would tell it, and says where requests go.

Its scenario has the benchmark's two machines and nothing else: an end, and a cloud at so many ms. The models' cards are
those that the machines stand in for, with the quality that was measured. What it knows of the models together it is told
as by nodes and audits: calibrated confidences, acceptance, the time of drafts over that of whole requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gainnet.execution.telemetry import Drafting, NodeState
from gainnet.inference.calibration import Plan, confidences
from gainnet.orchestrator.ways import Beginning
from gainnet.scenario.models import MODELS
from gainnet.scenario.scenario import Scenario
from gainnet.serving.fleet import Fleet
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Place, Refused, Sure, Target

SMALL, LARGE, PAINTER = "small", "large", "painter"
END, CLOUD = "end-0", "cloud"
DEADLINE_S, VALUE = 20.0, 0.02
"""Of every request; the value in dollars, of which a part is lost by each second, as who waits says."""
_NOTHING = {"kind": "poisson", "rate_per_end_per_s": 0.0}
FRAME_S = 0.1


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer of the small model: how sure it was of its tokens, and whether it is the larger one's."""

    logprobs: Sequence[float]
    good: bool


def scenario(services: Sequence[str], machines: tuple[str, str], cards: tuple[str, str], **more: Any) -> Scenario:
    """Two machines, an end's and the cloud's, with a model each of these cards.

    Args:
        services: public models.
        machines: hardware of the end and of the cloud.
        cards: the models that theirs stand in for.
        more: ``small`` and ``quality_min``, qualities; ``rtt_s``; ``waiting_per_s``, dollars; ``collaboration``.
    """
    size = {"kind": "constant", "value": 16.0}
    least = {"kind": "constant", "value": more["quality_min"]}
    text = {
        "kind": "text", "arrivals": _NOTHING, "models": [SMALL, LARGE], "deadline_s": DEADLINE_S, "value": VALUE,
        "quality_min": least, "prompt_token": size, "output_token": size,
    }  # fmt: skip
    qualities = zip((SMALL, LARGE), cards, (more["small"], 1.0), strict=True)
    models = {own: MODELS[known].model_copy(update={"quality": good}) for own, known, good in qualities}
    return _two(
        dict.fromkeys(services, text),
        models,
        machines,
        (SMALL, LARGE),
        more["rtt_s"],
        more["waiting_per_s"],
        more["collaboration"],
    )


def pictures(machines: tuple[str, str], card: str, rtt_s: float, waiting_per_s: float) -> Scenario:
    """Two machines that draw with a model of that card, of which nothing but steps takes time."""
    free = {"text_flop": 0.0, "decode_flop": 0.0, "overhead_s": 0.0, "image_bit": 1e4}
    image = {
        "kind": "image", "arrivals": _NOTHING, "models": [PAINTER], "deadline_s": DEADLINE_S, "value": VALUE,
        "quality_min": {"kind": "constant", "value": 0.0}, "steps": {"kind": "constant", "value": 10.0},
    }  # fmt: skip
    models = {PAINTER: MODELS[card].model_copy(update=free)}
    return _two({PAINTER: image}, models, machines, (PAINTER, PAINTER), rtt_s, waiting_per_s, {"sharing": True})


def _two(
    services: dict[str, Any],
    models: dict[str, Any],
    machines: tuple[str, str],
    resident: tuple[str, str],
    rtt_s: float,
    waiting_per_s: float,
    collaboration: dict[str, Any],
) -> Scenario:
    weight = waiting_per_s * DEADLINE_S / VALUE
    return Scenario.model_validate({
        "name": "two", "duration_s": 1e6, "frame_s": FRAME_S,
        "models": {name: card.model_dump() for name, card in models.items()},
        "network": {
            "topology": {"kind": "hexagonal", "sites": 1, "inter_site_m": 150.0},
            "mobility": {"kind": "waypoint", "speed_min_m_per_s": 0.01, "speed_max_m_per_s": 0.02, "pause_max_s": 10.0},
            "ends": 1,
            "radio": {"carrier_hz": 3.5e9, "bandwidth_hz": 100e6, "path_loss": "umi", "base_station": "micro"},
            "end": {"hardware": machines[0], "resident": [resident[0]]},
            "edge": {"hardware": "edge-accelerator", "resident": []},
            "cloud": {"hardware": machines[1], "resident": [resident[1]]},
            "backhaul": {"cloud_latency_s": rtt_s / 2.0},
        },
        "demand": {"services": services},
        "orchestrator": {"objective": {"latency_weight": weight}, "foresight": 0.0},
        "collaboration": collaboration,
    })  # fmt: skip


def drawn(made: Scenario, beginners: Mapping[str, Beginning], steps: int) -> Target:
    """Where the router sends an end's request for an image, where the end's node said this of who may begin it."""
    models = {PAINTER: PAINTER}
    fleet = Fleet(
        cloud=Place(CLOUD, "http://cloud", "cloud", models), ends={0: Place(END, "http://end", "end", models, 0)}
    )
    router = Priced(made, fleet, clock=lambda: 0.0)
    router.telemetry(CLOUD, NodeState("cloud", (PAINTER,), (PAINTER,)))
    router.telemetry(END, NodeState("end", (PAINTER,), (PAINTER,), beginners=beginners))
    ask = Ask("image", PAINTER, 0, 8, 0, DEADLINE_S, None, "", None, step=steps, image=1)
    [route] = router.decide([ask])
    if isinstance(route, Refused):
        raise route
    return route.targets[0]


class Chooser:
    """A router that is told what happens to the requests that it routes, at its own time.

    Attributes:
        router: the router.
    """

    def __init__(self, made: Scenario, digest: str) -> None:
        """For a small model of these weights."""
        self._now_s, self._digest, self._made = 0.0, digest, made
        models = {name: {name: own} for name, own in ((SMALL, SMALL), (LARGE, LARGE))}
        fleet = Fleet(
            cloud=Place(CLOUD, "http://cloud", "cloud", models[LARGE]),
            ends={0: Place(END, "http://end", "end", models[SMALL], 0)},
        )
        self.router = Priced(made, fleet, clock=lambda: self._now_s)
        self._cards = tuple(made.artifacts.index(name) for name in (SMALL, LARGE))
        self.heard(Drafting())

    def judged(self, model: str, answers: Sequence[Judged]) -> None:
        """Answers that both models gave to what was asked of a public model, as audits tell them."""
        small, large = self._cards
        for one in answers:
            sure = confidences(one.logprobs)
            self.router.partners.calibrations.judged(f"{model} {self._digest} {small} {large}", sure, one.good, 0.0)

    def heard(self, drafting: Drafting) -> None:
        """The nodes say how they are; the small model's, how drafts did."""
        tell = self.router.telemetry
        tell(CLOUD, NodeState("cloud", (LARGE,), (LARGE,)))
        tell(END, NodeState("end", (SMALL,), (SMALL,), digest=self._digest, verifiers={CLOUD: drafting}))

    def plan(self, model: str) -> Plan:
        """What its cascades would do; it must have been told enough answers."""
        small, large = self._cards
        known = self.router.partners.calibrations.of(f"{model} {self._digest} {small} {large}", 0.0)
        return known.plan(self._made.collaboration.good)

    def sure(self, model: str) -> Sure:
        """Whether it lets a small model's answer be shown."""
        wish = self.router.catalogue.wish(self._ask(model, 16, 16))
        return self.router.partners.sure(wish, self.router.catalogue.fixed, *self._cards)

    def choose(self, model: str, prompt_token: int, output_token: int) -> tuple[Ask, Target]:
        """Where a request goes."""
        ask = self._ask(model, prompt_token, output_token)
        [route] = self.router.decide([ask])
        if isinstance(route, Refused):
            raise route
        return ask, route.targets[0]

    def answered(self, ask: Ask, target: Target, latency_s: float, output_token: int) -> None:
        """It was answered so; the time that it took passes."""
        number = self.router.sent(ask, target)
        end_s = self._now_s + latency_s
        while self.router.next_s <= end_s:
            self._now_s = self.router.next_s
            self.router.tick()
        self._now_s = end_s
        self.router.ended(number, Ended(True, False, latency_s, latency_s, ask.prompt_token, output_token))

    @staticmethod
    def _ask(model: str, prompt_token: int, output_token: int) -> Ask:
        return Ask("chat", model, 0, prompt_token, output_token, DEADLINE_S, None, "", None, together=True)
