"""Nodes are asked whether they are well; what one probe says by chance changes nothing."""

from __future__ import annotations

from fakes import Place, scene, until

from gainnet.serving.settings import ProbeSetting
from gainnet.serving.upstream import Health

OFTEN = {"every_s": 0.01, "timeout_s": 1.0, "rise": 3, "fall": 3}


def test_health_has_hysteresis() -> None:
    setting = ProbeSetting(rise=2, fall=3)
    health = Health()
    assert health.up
    said = [health.heard(well, setting) for well in (True, False, False, True, False, False, False)]
    assert said == [False] * 6 + [True]
    assert not health.up
    assert [health.heard(well, setting) for well in (True, False, True, True)] == [False, False, False, True]
    assert health.up
    first = Health()
    assert first.heard(False, setting)  # nothing speaks against the first probe
    assert not first.up


@scene(tiers="edge cloud", probes=OFTEN, breaker={"failures": 1, "rest_s": 1_000.0})
async def test_a_node_that_is_down_is_not_asked_and_one_that_is_back_is(place: Place) -> None:
    edge, cloud = place.nodes
    await until(lambda: edge.probed > 0 and cloud.probed > 0)
    assert (await place.post())[1]["x-gainnet-node"] == "edge-0"
    edge.how = "500"
    assert (await place.post())[1]["x-gainnet-node"] == "cloud-1"  # its breaker is open for long
    edge.ready = 503
    await until(lambda: not place.state.upstreams["edge-0"].health.up)
    asked = len(edge.asked)
    assert (await place.post())[1]["x-gainnet-node"] == "cloud-1"
    assert len(edge.asked) == asked
    assert (await place.get("/ready"))[0] == 200
    assert b'gainnet:node_up{node="edge-0"} 0' in (await place.get("/metrics", True))[1]
    cloud.ready = 500
    await until(lambda: not place.state.ready())
    status, _, said = await place.post()
    assert (status, said["error"]["code"]) == (503, "no_node")
    assert (await place.get("/ready"))[0] == 503
    edge.how, edge.ready = "well", 404  # a server that has no such page, but answers
    await until(place.state.ready)
    assert (await place.post())[1]["x-gainnet-node"] == "edge-0"  # its breaker does not wait any longer


@scene(tiers="edge", probes=OFTEN | {"timeout_s": 0.2})
async def test_a_node_that_is_gone(place: Place) -> None:
    await until(lambda: place.nodes[0].probed > 0)
    await place.nodes[0].close()
    await until(lambda: not place.state.ready())
    assert (await place.post())[0] == 503
