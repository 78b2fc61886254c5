"""What a lab consists of: the nodes of a scenario, their models and links, and the gateway's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gainnet.errors import InputError
from gainnet.inference.tempo import Machine
from gainnet.models import card as cards
from gainnet.network import compute
from gainnet.scenario.complaint import nearest
from gainnet.scenario.demand import Image, Text
from gainnet.scenario.knowledge import SmallModel
from gainnet.scenario.models import LanguageModel, card
from gainnet.scenario.scenario import Scenario
from gainnet.serving.links import Shape, Site
from gainnet.serving.router import FIXED

TIERS = ("cloud", "edge", "end")
MOST = {"cloud": 1, "edge": 2, "end": 4}
"""How many of each tier a lab has, where the scenario has more and nothing else is said."""
SMALL = {
    "cloud": SmallModel(layers=4, width=128, heads=4, kv_heads=2, vocabulary=512, context=1024),
    "edge": SmallModel(layers=3, width=96, heads=3, kv_heads=1, vocabulary=512, context=1024),
    "end": SmallModel(layers=2, width=64, heads=2, kv_heads=1, vocabulary=512, context=1024),
}
"""What each tier's nodes run where no folder is given: random weights, one tokenizer, so that one may draft for another."""
SLOTS = {"cloud": 8, "edge": 4, "end": 2}
"""Few, so that a network that is busy asks no more of two cores than they can do."""
RADIO_LATENCY_S = 0.005
"""One way over the radio, to an end."""
DRAIN_S = 5.0
IMAGE_MODEL = "image-model"
"""By what a node knows its image model: the one that comes with gainnet stands for whatever the scenario names."""


@dataclass(frozen=True, slots=True)
class Part:
    """A node of a lab.

    Attributes:
        name: of the node and its link.
        tier: of the node.
        end: its number, for ends.
        models: its own id of each public model.
        shape: of its link to the gateway, at the start.
        machine: whose time its steps take: that of the scenario.
        quality: of its answers.
        images: its own id of each public model that draws.
        step_s: time of a step of an image on its machine, None where it draws none.
        price_per_s: of its machine's busy second, energy included.
    """

    name: str
    tier: str
    end: int | None
    models: Mapping[str, str]
    shape: Shape
    machine: Machine
    quality: float
    images: Mapping[str, str]
    step_s: float | None
    price_per_s: float

    @property
    def public(self) -> str:
        """The public model that people ask for: the service, which any tier may answer."""
        return list(self.models)[-1]


def counts(scenario: Scenario, given: str = "") -> dict[str, int]:
    """How many nodes of each tier: as given (``cloud=1,edge=2,end=4``), else of the scenario, but at most `MOST`.

    InputError for another tier, or more than the scenario has.
    """
    has = {"cloud": 1, "edge": scenario.network.edges, "end": scenario.network.ends}
    found = {tier: min(has[tier], MOST[tier]) for tier in TIERS}
    for item in given.split(",") if given else ():
        tier, _, number = item.strip().partition("=")
        if tier not in TIERS or not number.isdecimal():
            raise InputError(f"--nodes {item}: must be TIER=NUMBER, of {', '.join(TIERS)}{nearest(tier, TIERS)}")
        if int(number) > has[tier]:
            raise InputError(f"--nodes {item}: the scenario {scenario.name} has {has[tier]} of tier {tier}")
        found[tier] = int(number)
    if not any(found.values()):
        raise InputError("--nodes: there is nothing left to start")
    return found


def parts(scenario: Scenario, number: Mapping[str, int]) -> tuple[Part, ...]:
    """The nodes, from the cloud down. InputError where no text service of the scenario runs on any of them."""
    network = scenario.network
    texts = {name: service for name, service in scenario.demand.services.items() if isinstance(service, Text)}
    wanted = {model for service in texts.values() for model in service.models}
    machines = {"cloud": network.cloud, "edge": network.edge, "end": network.end}
    backhaul = network.backhaul
    shapes = {
        "cloud": Shape(latency_s=backhaul.cloud_latency_s, rate_bit_per_s=backhaul.cloud_bit_per_s),
        "edge": Shape(latency_s=backhaul.ring_latency_s, rate_bit_per_s=backhaul.ring_bit_per_s or 1e9),
        "end": Shape(latency_s=RADIO_LATENCY_S),
    }
    found = []
    for tier in TIERS:
        held = [name for name in machines[tier].resident if name in wanted and _language(name, scenario)]
        public = [*held, *(name for name, service in texts.items() if set(held) & set(service.models))]
        drawing = dict.fromkeys(_drawing(scenario, machines[tier].resident), IMAGE_MODEL)
        for index in range(number[tier] if held else 0):
            name = "cloud" if tier == "cloud" else f"{tier}-{index}"
            models = dict.fromkeys(public, f"{tier}-model")
            machine, quality = _machine(scenario, tier, index, held)
            end = index if tier == "end" else None
            step_s, price_per_s = _painter(scenario, tier, index, drawing)
            found.append(Part(name, tier, end, models, shapes[tier], machine, quality, drawing, step_s, price_per_s))
    if not found:
        raise InputError(f"{scenario.name}: no text service runs on what cloud, edges or ends hold (`resident`)")
    return tuple(found)


def _node(scenario: Scenario, tier: str, index: int) -> tuple[compute.Nodes, int]:
    """The machines of a scenario, and which of them a node stands for."""
    nodes = compute.build(scenario.network, clouds=1, edges=scenario.network.edges)
    return nodes, {"cloud": 0, "edge": 1, "end": 1 + scenario.network.edges}[tier] + index


def _painter(scenario: Scenario, tier: str, index: int, drawing: Mapping[str, str]) -> tuple[float | None, float]:
    """Time of a step of an image with the largest model that a node draws with, None for none; price of its busy second."""
    nodes, node = _node(scenario, tier, index)
    named = [name for name in drawing if name not in scenario.demand.services]
    known = cards.build(named, scenario.models)
    step_s = float(known.step_flop.max() / nodes.flop_per_s[node] / nodes.count[node]) if named else None
    energy = (nodes.peak_w[node] - nodes.idle_w[node]) * scenario.orchestrator.objective.energy_price_per_j
    return step_s, float((nodes.price_per_s[node] + energy) * nodes.count[node])


def _machine(scenario: Scenario, tier: str, index: int, held: Sequence[str]) -> tuple[Machine, float]:
    """The machine of a node, with the largest of the models that it holds, and that model's quality."""
    nodes, node = _node(scenario, tier, index)
    known = cards.build(held, scenario.models)
    model = int(known.size_byte.argmax())
    return Machine(
        float(nodes.count[node]), float(nodes.flop_per_s[node]), float(nodes.byte_per_s[node]),
        float(known.size_byte[model]), float(known.flop_per_token[model]),
        float(known.attention_flop_per_token2[model]), float(known.kv_byte_per_token[model]),
    ), float(known.quality[model])  # fmt: skip


def _drawing(scenario: Scenario, resident: Sequence[str]) -> list[str]:
    """The image models among those, and the services that they answer."""
    services = {name: service for name, service in scenario.demand.services.items() if isinstance(service, Image)}
    held = [name for name in resident if any(name in service.models for service in services.values())]
    return [*held, *(name for name, service in services.items() if set(held) & set(service.models))]


def _language(name: str, scenario: Scenario) -> bool:
    return isinstance(card(name, scenario.models), LanguageModel)


def node_tree(
    part: Part,
    model: Path,
    adapters: Path,
    site: Site,
    *,
    paced: bool,
    verifiers: Mapping[str, Any] | None = None,
    above: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of a node at a site, which takes its machine's time (``paced``), or as long as it takes here."""
    images = {
        "ids": [IMAGE_MODEL], "width": 4, "share": {}, "above": None if above is None else dict(above),
        "step_s": part.step_s if paced else None,
    }  # fmt: skip
    return {
        "verifiers": dict(verifiers or {}),
        "name": part.name, "tier": part.tier, "listen": {"host": site.host, "port": site.port}, "ids": [f"{part.tier}-model"],
        "model": {"kind": "pretrained", "name": str(model), "context": _context(model)},
        "machine": asdict(part.machine) if paced else None,
        "images": images if part.images else None,
        "adapters": {"root": str(adapters)}, "slots": SLOTS[part.tier], "threads": 1, "timeouts": {"drain_s": DRAIN_S},
    }  # fmt: skip


def verifiers(
    part: Part, found: Sequence[Part], urls: Mapping[str, str], models: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """The nodes of higher tiers whose models have a node's own tokenizer: where they are found over their links."""
    own = _tokenizer(models[part.tier])
    above = TIERS[: TIERS.index(part.tier)]
    return {
        other.name: {"url": urls[other.name], "model": f"{other.tier}-model"}
        for other in found
        if other.tier in above and own is not None and _tokenizer(models[other.tier]) == own
    }


def above(part: Part, found: Sequence[Part], urls: Mapping[str, str], scenario: Scenario) -> dict[str, Any] | None:
    """The node that may begin the images of a node below it, over its link, and what seconds are worth."""
    others = [other for other in found if other.images and TIERS.index(other.tier) < TIERS.index(part.tier)]
    if not part.images or not others:
        return None
    services = [service for service in scenario.demand.services.values() if isinstance(service, Image)]
    objective, other = scenario.orchestrator.objective, others[0]
    # What a second is worth to who waits, by the objective of the orchestrator (`gainnet.orchestrator.worth_kernel`).
    waiting = max(service.value * objective.latency_weight / service.deadline_s for service in services)
    prices = {
        "here_per_s": objective.cost_weight * part.price_per_s,
        "above_per_s": objective.cost_weight * other.price_per_s, "waiting_per_s": waiting,
    }  # fmt: skip
    return {"url": urls[other.name], "model": IMAGE_MODEL, "prices": prices, "name": other.name}


def _tokenizer(model: Path) -> bytes | None:
    """Of a model; None where there is none, which its node says better."""
    path = model / "tokenizer.json"
    return path.read_bytes() if path.is_file() else None


def _context(model: Path) -> int:
    from pydantic_core import from_json

    try:
        positions = from_json((model / "config.json").read_bytes()).get("max_position_embeddings", 512)
    except (OSError, ValueError, AttributeError):
        raise InputError(f"model {model}: has no config.json of a model") from None
    return min(int(positions), 1_024)


def gateway_tree(
    scenario: str, found: tuple[Part, ...], urls: Mapping[str, str], router: str, port: int, adapters: Path
) -> dict[str, Any]:
    """The settings of the gateway of a scenario's lab, whose nodes are found there, over their links."""
    if router not in (*FIXED, "priced"):
        raise InputError(f"--router {router}: must be one of {', '.join((*FIXED, 'priced'))}{nearest(router, FIXED)}")
    nodes = [
        {
            "name": part.name, "tier": part.tier, "url": urls[part.name],
            "models": {**part.models, **part.images}, "end": part.end, "quality": part.quality,
        }
        for part in found
    ]  # fmt: skip
    kinds: tuple[str, ...] = ("chat", "completion", "embedding")
    public = dict.fromkeys((model for part in found for model in part.models), kinds)
    public |= dict.fromkeys((model for part in found for model in part.images), ("image",))
    return {
        "listen": {"port": port}, "admin": {"port": 0}, "nodes": nodes,
        "models": {model: {"kinds": kinds} for model, kinds in public.items()}, "router": router,
        "adapters": {"root": str(adapters)}, "scenario": scenario, "page": True,
        "timeouts": {"drain_s": DRAIN_S},
    }  # fmt: skip
