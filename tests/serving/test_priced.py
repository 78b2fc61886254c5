"""Prices route real requests: up the tiers in overload, around what is dead, to the dear only where it pays."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import numpy as np
import pytest
from campus import LARGE, MIDDLE, PAINTER, SMALL, World, ask, fleet, place

from gainnet.errors import InputError
from gainnet.execution.outcome import Outcomes, Result
from gainnet.execution.telemetry import FAILURES, REST_S
from gainnet.measurement.metrics import report
from gainnet.run import simulate
from gainnet.scenario.load import load
from gainnet.serving import priced
from gainnet.serving.fleet import Catalogue, Fleet
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Place, Refused, Route


def crowd(number: int, seed: int, **more: Any) -> list[Ask]:
    rng = np.random.default_rng(seed)
    return [ask(int(rng.integers(24)), prompt_token=int(rng.integers(100, 500)), **more) for _ in range(number)]


def shares(world: World) -> dict[str, float]:
    total = sum(world.chosen.values())
    return {tier: world.chosen[tier] / total for tier in ("end", "edge", "cloud", "429")}


def refusal(world: World, request: Ask) -> Refused:
    [refused] = world.decide(request)
    assert isinstance(refused, Refused)
    return refused


@pytest.mark.untraced
def test_overload_moves_requests_up_the_tiers() -> None:
    light, heavy = World(), World()
    for frame in range(15):
        light.frame(*crowd(1, frame))
        heavy.frame(*crowd(20, frame))
    assert shares(light)["end"] > 0.9
    assert shares(heavy)["end"] < 0.6
    assert shares(heavy)["edge"] + shares(heavy)["cloud"] > 0.2


def test_what_the_end_is_not_good_enough_for_goes_up() -> None:
    world = World()
    assert world.one(ask(quality_min=0.3)).node == "end-0"
    assert world.one(ask(quality_min=0.55)).node.startswith("edge-")
    assert world.one(ask(quality_min=0.75)).node == "cloud"
    assert refusal(world, ask(quality_min=0.99)).code == "no_quality"


def test_a_model_of_ends_only_needs_to_know_which_end_asks() -> None:
    world = World()
    assert world.one(ask(model=SMALL)).node == "end-0"
    refused = refusal(world, ask(None, model=SMALL))
    assert (refused.status, refused.code) == (400, "end_missing")
    assert world.one(ask(model=SMALL)).node == "end-0"


@pytest.mark.untraced
def test_a_dear_cloud_is_used_only_when_it_pays() -> None:
    cheap, dear = World(), World(["orchestrator.objective.cost_weight=20"])
    for frame in range(15):
        for world in (cheap, dear):
            world.frame(*crowd(10, frame, quality_min=0.55))
    assert cheap.chosen["cloud"] > 0
    assert dear.chosen["cloud"] == 0
    assert dear.chosen["edge"] > 0


def test_a_far_cloud_is_used_only_in_time() -> None:
    far = World(["network.backhaul.cloud_latency_s=1.8"])
    assert refusal(far, ask(quality_min=0.75)).code == "overloaded"
    assert far.one(ask(quality_min=0.75, deadline_s=30.0)).node == "cloud"


def test_a_node_that_does_not_answer_is_left_alone_until_it_does() -> None:
    world = World()
    home = world.one(ask(quality_min=0.55)).node
    world.router.telemetry(home, None)
    assert world.router.seen()["nodes"][home]["up"] is False
    others = {target.node for route in world.decide(*[ask(quality_min=0.55)] * 5) for target in route.targets}
    assert home not in others
    world.frame(*[ask(quality_min=0.55)] * 3)
    world.tell(home)
    assert world.router.seen()["nodes"][home]["up"] is True
    routes = [route for _ in range(10) for route in world.decide(*[ask(quality_min=0.55)] * 3)]
    assert home in {route.targets[0].node for route in routes if isinstance(route, Route)}


def test_the_only_node_down_means_503() -> None:
    world = World()
    world.router.telemetry("cloud", None)
    refused = refusal(world, ask(quality_min=None, model=LARGE))
    assert (refused.status, refused.code) == (503, "no_node")
    assert refused.retry_after_s is not None


def test_failures_in_a_row_rest_a_node_and_requests_go_on_elsewhere() -> None:
    world = World(record=True)
    home = world.one(ask(quality_min=0.55)).node
    world.quiet(10)
    world.dead.add(home)
    ups = []
    for _ in range(8):
        world.frame(*[ask(quality_min=0.55, deadline_s=8.0)] * 4)
        ups.append(world.router.seen()["nodes"][home]["up"])
    assert False in ups
    assert world.answered[home] == 1
    world.dead.clear()
    world.quiet(round(REST_S / world.scenario.frame_s) * 2 + 1)
    assert world.router.seen()["nodes"][home]["up"] is True
    world.quiet(20)
    record = world.router.finish()
    assert record is not None
    assert set(record.tasks["result"]) <= {Result.SERVED, Result.LATE, Result.REJECTED}
    assert record.tasks["retry"].sum() >= FAILURES


def test_what_fails_everywhere_has_failed() -> None:
    world = World(record=True)
    world.dead = {"cloud", *(f"edge-{edge}" for edge in range(3))}
    world.decide(ask(quality_min=0.55))
    ended = world.quiet(20)
    assert [int(r) for outcomes in ended for r in outcomes.result] == [Result.FAILED]


@pytest.mark.untraced
def test_the_same_inputs_give_the_same_decisions() -> None:
    def routes() -> list[str]:
        world, said = World(), []
        for frame in range(8):
            for request in crowd(6, frame, quality_min=0.4):
                said += [repr(answer) for answer in world.decide(request)]
            world.frame()
        return said

    assert routes() == routes()


def test_a_run_is_reported_as_a_simulated_one() -> None:
    world = World(record=True)
    for frame in range(15):
        world.frame(*crowd(8, frame))
    under_way = world.router.live.under_way
    record = world.router.finish()
    assert record is not None
    assert world.router.finish() is record
    written = report(record)
    simulated = simulate(load("campus", duration_s=1.0)).record
    assert simulated is not None
    assert _keys(written) == _keys(report(simulated))
    tasks = written["tasks"]
    assert tasks["arrived"] == 15 * 8
    assert tasks["open"] == under_way > 0
    assert sum(n for name, n in tasks.items() if name != "arrived") == tasks["arrived"]
    assert written["energy_j"]["total"] > 0.0
    assert written["network"]["flop"] > 0.0
    assert 0.5 < written["qos"]["latency_s"]["p50"] < 1.5


def _keys(tree: Any) -> Any:
    """The keys of a report; of what is named after models or statuses none."""
    if not isinstance(tree, dict):
        return None
    return {key: None if key in ("models", "status") else _keys(value) for key, value in tree.items()}


def test_late_answers_are_late() -> None:
    world = World()
    world.decide(ask(deadline_s=2.0))
    world.slow = {}
    number = next(iter(world.router._sent))
    world.router.ended(number, Ended(True, False, 2.5, 0.1, 200, 40))
    world.router.ended(number, Ended(True, False, 2.5, 0.1, 200, 40))
    assert world.router.tick() is not None
    done = world.router.finish()
    assert done is None


def test_what_is_wrong_with_a_request_is_said() -> None:
    world = World()
    for request, status, code in [
        (ask(model="gpt"), 404, "model_not_found"),
        (ask(model="pictures"), 404, "model_not_found"),
        (ask(24), 400, "unknown_end"),
        (ask(deadline_s=0.0), 504, "deadline_exceeded"),
        (ask(deadline_s=0.001), 429, "overloaded"),
    ]:
        refused = refusal(world, request)
        assert (refused.status, refused.code) == (status, code)
    refused, route = world.decide(ask(24), ask())
    assert isinstance(refused, Refused)
    assert isinstance(route, Route)


def test_a_card_that_is_named_answers() -> None:
    world = World()
    for model in (SMALL, MIDDLE, LARGE):
        target = world.one(ask(model=model, quality_min=None, deadline_s=None))
        assert target.model == f"own/{model}"
    assert world.one(ask(model=MIDDLE, quality_min=0.1)).model == f"own/{MIDDLE}"


def test_what_is_asked_at_the_gateway_never_runs_on_an_end() -> None:
    world = World()
    for _ in range(5):
        asks = [ask(None, session=session) for session in (None, "a", "b", "a")]
        routes = [route for route in world.decide(*asks) if isinstance(route, Route)]
        assert routes
        for route in routes:
            assert not any(target.node.startswith("end") for target in route.targets)


def test_an_adapter_goes_where_it_is() -> None:
    roots = {"notes@v7": MIDDLE}
    of = fleet(roots=roots)
    world = World(of=of)
    with pytest.raises(Refused, match="no text service knows"):
        world.router.catalogue.wish(ask(model="other@v1"))
    models = of.edges[1].models
    assert isinstance(models, dict)
    models["notes@v7"] = "notes-7"
    world.router.models_changed()
    [route] = world.decide(ask(model="notes@v7", quality_min=None))
    assert isinstance(route, Route)
    assert [(target.node, target.model) for target in route.targets] == [("edge-1", "notes-7")]
    del models[MIDDLE]
    world.router.models_changed()
    assert world.router.catalogue.own_id(of.edges[1], world.scenario.artifacts.index(MIDDLE), ask()) == "notes-7"


def test_pictures_are_drawn() -> None:
    world = World()
    for model in ("pictures", PAINTER):
        target = world.one(ask(3, kind="image", model=model, quality_min=None, deadline_s=None, output_token=0))
        assert target.model == f"own/{PAINTER}"
    world.quiet(9)
    assert sum(world.answered.values()) == 2


def test_why_is_a_phrase_for_people() -> None:
    world = World()
    [route] = world.decide(ask(quality_min=0.55))
    assert isinstance(route, Route)
    first, *others = route.targets
    assert first.why.startswith(f"{first.node}: ")
    assert "s expected, 0." in first.why
    assert f"{others[0].node} " in first.why
    assert all(target.why.endswith(f"; if {first.node} fails") for target in others)
    assert len({target.node for target in route.targets}) == len(route.targets) > 1
    alone = world.one(ask(quality_min=0.75))
    assert alone.why.endswith("no other node would do")


@pytest.mark.untraced
def test_output_that_is_mostly_shorter_than_asked_is_expected_shorter() -> None:
    world = World()
    for frame in range(20):
        world.frame(ask(frame % 24, output_token=400, deadline_s=20.0))
    world.quiet(15)
    world.decide(ask(output_token=400, deadline_s=20.0))
    [request] = world.router.live._open.values()
    assert request.of("output_token") == pytest.approx(40.0, rel=0.05)


def test_routes_are_decided_together_and_frames_tick() -> None:
    async def main() -> None:
        router = Priced(load("campus", ["frame_s=0.02"]), fleet())
        await router.start()
        before = router.decided[0]
        waiting = [asyncio.create_task(router.route(ask(end))) for end in range(20)]
        gone = asyncio.create_task(router.route(ask(20)))
        await asyncio.sleep(0.0)
        gone.cancel()
        routes = await asyncio.gather(*waiting)
        assert router.decided[0] == before + 20
        with pytest.raises(Refused, match="no end 99"):
            await router.route(ask(99))
        for request, route in zip(range(20), routes, strict=True):
            router.ended(router.sent(ask(request), route.targets[0]), Ended(True, False, 0.5, 0.1, 200, 40))
        began_s = router.now_s
        while router.live.under_way:
            assert router.now_s - began_s < 5.0
            await asyncio.sleep(0.01)
        await router.close()
        await router.close()
        assert router.seen()["under_way"] == 0

    asyncio.run(main())


def test_a_router_that_fails_lets_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        router = Priced(load("campus"), fleet())
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        monkeypatch.setattr(router, "_decide", lambda *_: 1 / 0)
        with pytest.raises(Refused) as refused:
            await router.route(ask())
        assert refused.value.status == 500

    asyncio.run(main())


def test_frames_that_fall_behind_are_not_caught_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        now = [0.0]
        router = Priced(load("campus"), fleet(), clock=lambda: now[0])
        now[0] = 50.0
        ticking = asyncio.create_task(router._tick_on())
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        assert router.now_s < 0.3
        ticking.cancel()

    with caplog.at_level(logging.WARNING, "gainnet.serving.priced"):
        asyncio.run(main())
    assert "s behind" in caplog.text


def test_frames_that_stop_are_complained_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        router = Priced(load("campus", ["frame_s=0.01"]), fleet())
        monkeypatch.setattr(router, "rehearse", lambda: None)
        await router.start()
        monkeypatch.setattr(router, "tick", lambda: 1 / 0)
        assert router._ticking is not None
        with pytest.raises(ZeroDivisionError):
            await router._ticking

    asyncio.run(main())
    assert "requests go on at the last prices" in caplog.text


def test_unknown_names_and_numbers_are_passed_over() -> None:
    world = World()
    world.router.telemetry("nobody", None)
    world.router.ended(99, Ended(True, False, 0.1, 0.1, 1, 1))
    assert world.router.sent(ask(), priced.Target("edge-0", "", "", "")) > 0


def test_a_fleet_must_fit_its_scenario() -> None:
    scenario = load("campus")
    with pytest.raises(InputError, match="both the cloud"):
        Fleet.of([place("cloud"), place("cloud")])
    with pytest.raises(InputError, match=r"nodes\.end-1\.end"):
        Fleet.of([place("end-1")])
    with pytest.raises(InputError, match="4 edges, the scenario has 3"):
        Catalogue(scenario, Fleet(edges=tuple(place(f"edge-{e}") for e in range(4))))
    with pytest.raises(InputError, match="ends 0 to 23"):
        Catalogue(scenario, Fleet.of([place("end-24", 24)]))
    with pytest.raises(InputError, match="none serves a model"):
        Catalogue(scenario, Fleet(cloud=Place("cloud", "", "cloud", {"gpt": "gpt"})))


def test_a_scenario_of_one_node_routes_to_it() -> None:
    world = World(of=Fleet(edges=(None, place("edge-1"))))
    [route] = world.decide(ask(5))
    assert isinstance(route, Route)
    assert [target.node for target in route.targets] == ["edge-1"]
    outcomes: list[Outcomes] = world.quiet(10)
    assert [int(n) for found in outcomes for n in found.node] == [2]
    assert not math.isnan(sum(float(found.energy_j.sum()) for found in outcomes))
