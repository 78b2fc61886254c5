"""Fixed routers keep to the least quality that is asked for, and the nearest edge is every end's own."""

from __future__ import annotations

import asyncio

import pytest

from gainnet.scenario.load import load
from gainnet.serving.fleet import Catalogue, Fleet
from gainnet.serving.router import FIXED, Ask, Place, Refused

MODELS = {"m": "own"}
PLACES = (
    Place("cloud", "", "cloud", MODELS, None, 0.8),
    Place("edge-0", "", "edge", MODELS, None, 0.6),
    Place("edge-1", "", "edge", MODELS),
    Place("end-3", "", "end", MODELS, 3, 0.4),
)


def order(router: str, end: int | None, least: float | None) -> list[str]:
    ask = Ask("chat", "m", end, 10, 10, None, least, "", None)
    return [target.node for target in asyncio.run(FIXED[router](PLACES).route(ask)).targets]


def test_the_nearest_edge_is_every_ends_own() -> None:
    assert order("nearest", None, None) == ["edge-0", "edge-1", "cloud"]
    assert order("nearest", 2, None) == ["edge-0", "edge-1", "cloud"]
    assert order("nearest", 3, None) == ["end-3", "edge-1", "edge-0", "cloud"]


def test_models_that_are_not_good_enough_are_not_asked() -> None:
    assert order("nearest", 3, 0.6) == ["edge-1", "edge-0", "cloud"]  # edge-1 doesn't say how good it is
    assert order("cloud", 3, 0.7) == ["cloud", "edge-1"]
    assert order("round_robin", 3, 0.4) == ["cloud", "edge-0", "edge-1", "end-3"]
    known = FIXED["nearest"](PLACES[:2])
    with pytest.raises(Refused, match=r"quality 0\.9") as refused:
        asyncio.run(known.route(Ask("chat", "m", None, 10, 10, None, 0.9, "", None)))
    assert (refused.value.status, refused.value.code) == (503, "no_quality")


def test_an_adapter_is_one_of_the_card_beside_it() -> None:
    cloud, edge = "llama-3.1-70b-int8", "llama-3.2-3b"
    models = [{cloud: "c", "assistant": "c", "domain@v1": "domain@v1"}, {edge: "e", "assistant": "e", "both": "both"}]
    models = [own | {"digits": "digits", "pictures": "digits"} for own in models]
    places = [Place("cloud", "", "cloud", models[0] | {"both": "both"}), Place("edge-0", "", "edge", models[1])]
    catalogue = Catalogue(load("lab"), Fleet.of(places))
    wish = catalogue.wish(Ask("chat", "domain@v1", None, 10, 10, None, None, "", None))
    assert (catalogue.fitting(wish).sum(), wish.only) == (1, frozenset({0}))
    assert catalogue.own_id(places[0], wish.card, wish.ask) == "domain@v1"
    with pytest.raises(Refused, match="both"):
        catalogue.wish(Ask("chat", "both", None, 10, 10, None, None, "", None))
    with pytest.raises(Refused, match="domain"):
        catalogue.wish(Ask("image", "domain@v1", None, 10, 10, None, None, "", None))
    assert catalogue.wish(Ask("image", "pictures", None, 10, 10, None, None, "", None)).only is None
