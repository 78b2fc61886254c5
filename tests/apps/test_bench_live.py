"""`gainnet bench live`: the same requests for every router, figures as they are meant, parts measured once."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from gainnet.apps import bench
from gainnet.errors import InputError
from gainnet.scenario.load import load


@pytest.fixture(scope="module")
def live() -> ModuleType:
    return bench._module(bench.FOLDER / "live.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of ten minutes, one request a second."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for second in np.sort(rng.uniform(0.0, 600.0, 600)):
        minute, rest = divmod(float(second), 60.0)
        lines.append(f"2023-11-16 18:{int(minute):02d}:{rest:09.6f},{rng.integers(1, 8000)},{rng.integers(1, 900)}")
    (folder / "conv.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_slice_is_the_same_each_time_and_fits_the_service(live: ModuleType, data: Path) -> None:
    scenario, trace = load("lab"), data / "conv.csv"
    made = live.requests(trace, scenario, 1)
    assert made == live.requests(trace, scenario, 1)
    assert made != live.requests(trace, scenario, 2)
    assert 0.7 < len(made) / (live.RATE_PER_S * (live.WARM_S + live.SPAN_S)) < 1.3
    for one in made:
        assert 2 <= len(one.prompt) <= 400
        assert 2 <= one.output_token <= 100
        assert one.deadline_s == pytest.approx(3.0 + 0.05 * one.output_token)
        assert one.headers.keys() == {"x-gainnet-deadline-ms", "x-gainnet-quality-min", "x-gainnet-end"}
    assert {one.end for one in made} == set(range(4))
    assert {one.quality_min for one in made} == {0.45, 0.60, 0.80}
    with pytest.raises(InputError, match=r"no conv\.csv"):
        live.figures(data / "none")


def test_what_counts_is_whole_in_time_and_good_enough(live: ModuleType) -> None:
    wanted = [live.Wanted(0.0, [3], 10, 2.0, 0.6, 0)] * 5
    got = [
        live.Got(200, "cloud", True, 1.0, 0.1, [0.1] * 9, 10),
        live.Got(200, "end", True, 1.0, 0.2, [0.1] * 9, 10),  # not good enough
        live.Got(200, "cloud", True, 3.0, 0.3, [0.1] * 9, 10),  # late
        live.Got(200, "cloud", False, 2.0, 0.4, [0.1], 0),  # cut
        live.Got(429, "", False, 0.01),
    ]
    made = live.sample(list(zip(wanted, got, strict=True)), {"cloud": 0.8, "end": 0.5})
    assert made["satisfaction"] == pytest.approx(0.2)
    assert made["answered"] == pytest.approx(0.6)
    assert (made["refused"], made["latency_p50_s"], made["on_end"]) == (0.2, 1.0, pytest.approx(1 / 3))
    assert live.sample([(wanted[0], got[4])], {})["latency_p50_s"] is None
    load_ = live.served(wanted[:3], got[:3])
    assert load_["tpot_p50_s"] == pytest.approx(0.1)
    assert (load_["itl_p99_s"], load_["e2e_p50_s"]) == (pytest.approx(0.1), 1.0)
    assert load_["output_token_per_s"] == pytest.approx(10.0)


@pytest.mark.untraced
def test_parts_are_measured_once_and_pairs_are_of_one_slice(
    live: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def replayed(folder: Path, name: str, wanted: Any, scenario: Any) -> dict[str, float]:
        order.append(name)
        seed = 0.1 if wanted[0].at_s == first[0] else 0.2
        return dict.fromkeys(live.SAMPLED, seed + 0.01 * list(live.ROUTERS).index(name)) | {"behind": 0.02}

    first = [live.requests(data / "conv.csv", load("lab"), 0, True)[0].at_s]
    monkeypatch.setattr(live, "_replayed", replayed)
    monkeypatch.setattr(live, "_virtual_run", lambda name, wanted, _: replayed(tmp_path, name, wanted, _))
    monkeypatch.setattr(live, "_loaded", lambda *_: {"load.answered": 1.0, "load.inf.itl_p50_s": None})
    found = live.figures(data, tmp_path, True)
    names = list(live.ROUTERS)
    assert order[:8] == [*names, *names[1:], names[0]]
    assert found["price.satisfaction_mean"] == pytest.approx(0.15)
    assert found["price_minus_cloud.satisfaction_mean"] == pytest.approx(-0.02)
    assert found["price_minus_cloud.satisfaction_ci95"] == pytest.approx(0.0, abs=1e-9)
    assert (found["behind"], found["load.answered"]) == (0.02, 1.0)
    assert found["virtual.price_minus_cloud.satisfaction_mean"] == pytest.approx(-0.02)
    order.clear()
    assert live.figures(data, tmp_path, True) == found
    assert len(order) == 8  # only what is virtual
    assert all(math.isfinite(value) for value in found.values())


def test_streams_are_timed_open_loop(live: ModuleType) -> None:
    asked: list[dict[str, Any]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())
        asked.append(body)
        if body["seed"] == 1:
            return web.Response(status=429)
        response = web.StreamResponse(headers={"x-gainnet-tier": "edge"})
        await response.prepare(request)
        for text in ("a", "", "b"):
            await response.write(b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n")
        if body["seed"] == 2:
            await response.write(b'data: {"error": {"message": "lost"}}\n\n')
        usage = {"choices": [], "usage": {"completion_tokens": 2}}
        await response.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        return response

    async def main() -> Any:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        wanted = [live.Wanted(0.02 * number, [3, 4], 2 + number // 2, 5.0) for number in range(3)]
        try:
            return await live.open_loop(f"http://127.0.0.1:{runner.addresses[0][1]}", "m", wanted)
        finally:
            await runner.cleanup()

    got = asyncio.run(main())
    assert [(one.status, one.whole, one.tier) for one in got] == [
        (200, True, "edge"), (429, False, ""), (200, False, "edge"),
    ]  # fmt: skip
    assert (got[0].output_token, len(got[0].gaps_s)) == (2, 1)
    assert 0.0 < got[0].first_s <= got[0].latency_s
    assert asked[0]["stream_options"] == {"include_usage": True}


def test_a_virtual_lab_serves_what_it_can(live: ModuleType) -> None:
    scenario = load("lab")
    wanted = [live.Wanted(0.1 * number, [3] * 20, 5, 5.0, 0.45, number % 4) for number in range(12)]
    wanted += [live.Wanted(1.0, [3] * 20, 90, 1.0, 0.8, 0)]  # nobody is as fast
    got, busy = live.replayed(scenario, "nearest", wanted, 0.0)
    assert [one.whole for one in got] == [True] * 12 + [False]
    assert {one.tier for one in got[:12]} == {"end"}
    # Five steps of an end's weights, and its link both ways.
    assert got[0].latency_s == pytest.approx(5 * 1.1284e9 / 35.84e9 + 0.01, rel=0.05)
    assert [tier for tier, _ in busy] == ["cloud", "edge", "edge", "end", "end", "end", "end"]
    assert sum(busy_s for _, busy_s in busy) > 1.0
    assert [one.whole for one in live.replayed(scenario, "cloud", wanted, 0.0)[0]] == [True] * 12 + [False]
