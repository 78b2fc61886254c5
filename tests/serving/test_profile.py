"""Profiles of machines whose speed is known, of a real small node, and the cards that are made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainnet.apps import cli
from gainnet.apps.profiling import Asked, shown
from gainnet.apps.profiling import _profiled as profiled
from gainnet.errors import GainnetError, InputError
from gainnet.models import hub
from gainnet.network.compute_kernel import decode_step_s, prefill_s
from gainnet.scenario import document
from gainnet.scenario.load import dump, load
from gainnet.scenario.models import LanguageModel
from gainnet.serving import profile
from gainnet.serving.profile import Profile, Protocol, Server, Subject
from gainnet.serving.profile_fit import Points, architecture, fit
from serving.nodes import SHAPE, language, run, served

MODEL = LanguageModel(parameters=1e6, layers=4, width=128, kv_heads=2, head_width=32, weight_byte=4.0, quality=0.6)
FLOP, BYTE, KV = 4e9, 2e9, 16.0
OVERHEAD_S = 0.003
FLAT = (2.0 * 1e6, 2.0 * 4 * 128, 2.0 * 4 * 2 * 32 * KV, 4e6, FLOP, BYTE)


class Roofline(Subject):
    """A machine that is what the simulator thinks, on a clock of its own; `noise` disturbs each time."""

    def __init__(self, noise: float = 0.0, judges: bool = True, besides: tuple[float, float] = (0.0, 0.0)) -> None:
        self.now_s, self.asked = 0.0, 0
        self._flat = (*FLAT, *besides)
        self._noise, self._judges, self._rng = noise, judges, np.random.default_rng(0)

    async def answer(self, prompts: Sequence[int], output: int) -> None:
        self.asked += len(prompts)
        mean = sum(prompts) / len(prompts)
        took_s = OVERHEAD_S + sum(prefill_s(float(prompt), *self._flat) for prompt in prompts)
        took_s += sum(decode_step_s(float(len(prompts)), mean + k, *self._flat) for k in range(1, output))
        self.now_s += took_s * (1.0 + self._noise * self._rng.exponential())

    async def judge(self, draft: int) -> float | None:
        return OVERHEAD_S + 1e-3 * draft if self._judges else None

    async def load(self, adapter: str) -> float:
        assert adapter == "ink"
        return 0.25


def measured(subject: Roofline, **protocol: Any) -> Profile:
    return asyncio.run(profile.measure(subject, Protocol(**protocol), lambda: subject.now_s))


@pytest.mark.untraced
def test_a_machine_that_is_what_the_simulator_thinks_is_found() -> None:
    steps: list[tuple[str, int, int]] = []
    subject = Roofline()
    made = asyncio.run(
        profile.measure(subject, Protocol(repeats=1), lambda: subject.now_s, lambda *now: steps.append(now))
    )
    assert made.overhead_s == pytest.approx(OVERHEAD_S, rel=0.1)
    assert made.verify_s[4] == pytest.approx(4e-3, rel=0.05)
    assert sorted(set(made.points.batch)) == [1.0, 2.0, 4.0, 8.0]
    found = fit(made.points, MODEL)
    assert found.residual < 0.01
    assert found.flop_per_s == pytest.approx(FLOP, rel=0.02)
    assert found.byte_per_s == pytest.approx(BYTE, rel=0.02)
    assert steps[-1][1] == steps[-1][2]


@pytest.mark.untraced
def test_what_software_takes_is_told_from_what_the_machine_does() -> None:
    found = fit(measured(Roofline(besides=(4e-3, 5e-4)), repeats=1).points, MODEL)
    assert found.residual < 0.01
    assert found.flop_per_s == pytest.approx(FLOP, rel=0.05)
    besides_s = found.step_overhead_s + 4e6 / found.byte_per_s  # and reading the weights, which looks the same
    assert besides_s == pytest.approx(4e-3 + 4e6 / BYTE, rel=0.05)
    assert found.text_overhead_s == pytest.approx(5e-4, rel=0.2)


def test_texts_that_decode_together_differ_in_length() -> None:
    assert profile.spread(100, 1) == (100,)
    lengths = profile.spread(100, 16)
    assert sum(lengths) / 16 == pytest.approx(100.0, rel=0.01)
    assert np.std(np.log(lengths)) == pytest.approx(profile.SPREAD, rel=0.1)
    assert min(profile.spread(1, 8)) == 1


@pytest.mark.untraced
def test_noise_costs_accuracy_and_no_more() -> None:
    made = measured(Roofline(noise=0.05), repeats=9, adapter="ink", drafts=(1, 4))
    found = fit(made.points, MODEL)
    assert found.residual < 0.2
    assert found.flop_per_s == pytest.approx(FLOP, rel=0.25)
    assert made.adapter_s == 0.25
    silent = measured(Roofline(judges=False), repeats=1, slots=3)
    assert silent.verify_s == {}
    assert silent.points.batch.max() == 3.0


def test_a_clock_that_stands_still_is_no_measurement() -> None:
    with pytest.raises(GainnetError, match="too busy"):
        asyncio.run(profile.measure(Roofline(), Protocol(repeats=1), lambda: 0.0))
    none = np.zeros(0)
    with pytest.raises(GainnetError, match="nothing to fit"):
        fit(Points(none, none, none, none, none), MODEL)


@pytest.mark.untraced
def test_a_busy_machine_is_measured_for_longer() -> None:
    steps: list[tuple[str, int, int]] = []
    subject, round_of = Roofline(judges=False), Roofline(judges=False)
    asyncio.run(profile.measure(round_of, Protocol(repeats=1), lambda: round_of.now_s))
    busy = round_of.asked  # of two rounds, one of which counts

    def clock() -> float:
        return subject.now_s if subject.asked >= busy else 0.0

    made = asyncio.run(profile.measure(subject, Protocol(repeats=1), clock, lambda *now: steps.append(now)))
    assert subject.asked == busy * 3 // 2
    assert (made.points.prefill_s > 0.0).all()
    assert steps[-1][1] == steps[-1][2] == len(steps)


def test_the_card_makes_a_scenario_and_tables(tmp_path: Path) -> None:
    made = measured(Roofline(), repeats=1, adapter="ink")
    found = fit(made.points, MODEL)
    sections = profile.card("llama-3.2-3b", "edge", made, found, load_s=2.0, adapter_byte=1e5)
    machine = sections["network"]["edge"]["hardware"]
    assert machine["load_byte_per_s"] == pytest.approx(2e6)
    assert machine["request_overhead_s"] == made.overhead_s
    assert machine["step_overhead_s"] == found.step_overhead_s
    assert sections["models"]["llama-3.2-3b-adapter"]["load_s"] == pytest.approx(0.2)
    again = document.read(document.write(sections), "card")
    whole = profile.merged(document.read(dump(load("lab")), "lab"), again)
    file = tmp_path / "lab.yaml"
    file.write_text(document.write(whole))
    scenario = load(str(file))
    assert scenario.models["llama-3.2-3b"].kind == "language"
    assert scenario.network.edge.hardware.batch_max == 8  # type: ignore[union-attr]
    with pytest.raises(SystemExit) as ended:
        cli.main(["validate", str(file)])
    assert ended.value.code == 0
    times, rest = shown(made, found)
    assert times.row_count == len(made.points.prompt_token) + len(made.points.step_s)
    assert rest.row_count == 5 + len(made.verify_s) + 1


def test_shapes_come_from_presets_and_folders(tmp_path: Path) -> None:
    hub.save(language(), tmp_path)
    found = architecture(str(tmp_path), quality=0.7)
    assert found.parameters == sum(tensor.numel() for tensor in language().model.parameters())
    assert (found.layers, found.width, found.kv_heads, found.weight_byte) == (SHAPE.layers, SHAPE.width, 1, 4.0)
    assert found.quality == 0.7
    assert architecture("llama-3.1-8b", weight_byte=4.0).weight_byte == 4.0
    for given, said in (("llama", "did you mean"), ("sdxl", "diffusion model")):
        with pytest.raises(InputError, match=said):
            architecture(given)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 32)
    with pytest.raises(InputError, match="no safetensors file"):
        architecture(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json"):
        architecture(str(tmp_path))


@pytest.mark.slow
def test_a_real_node_is_profiled() -> None:
    async def main() -> None:
        async with served() as node:
            server = Server(node.http, node.node.url, "m")
            await server.answer((5, 7), 3)
            assert node.node.engine.stats().counters.generated_tokens >= 6
            assert await server.judge(4) is not None
            with pytest.raises(InputError, match="404"):
                await Server(node.http, node.node.url, "other").answer((5,), 3)
            with pytest.raises(InputError, match="adapters"):
                await server.load("ink")
            assert await server.post("/nothing", {}, absent=(404,)) == {}
            with pytest.raises(InputError, match="127"):
                await Server(node.http, "http://127.0.0.1:9", "m").answer((1,), 1)
            asked = Asked(node.node.url + "/v1", context=64, repeats=1, slots=2)
            made, found, tree = await profiled(asked)
            assert made.points.batch.tolist() == [1.0, 2.0]
            assert found.flop_per_s > 0.0
            assert list(tree["models"]) == ["m"]
            with pytest.raises(InputError, match="--model other"):
                await profiled(Asked(node.node.url, model="other"))
            with pytest.raises(InputError, match="127"):
                await profiled(Asked("http://127.0.0.1:9"))

    run(main())


def test_the_command_profiles_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.save(language(), tmp_path / "small")
    out = tmp_path / "card.yaml"
    options = ["--context", "64", "--repeats", "1", "--slots", "2", "--tier", "end"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["profile", str(tmp_path / "small"), *options, "--out", str(out)])
    said = capsys.readouterr().err
    assert (ended.value.code, "residual" in said) == (0, True), said
    tree = document.read(out.read_text(), "card")
    assert tree["network"]["end"]["resident"] == ["small"]
    assert tree["network"]["end"]["hardware"]["batch_max"] == 2
    assert json.loads(json.dumps(tree)) == tree
    for wrong, reason in (
        (["nowhere"], "neither an address"),
        ([str(tmp_path / "small"), "--model", "m"], "is for an address"),
        ([str(tmp_path / "small"), "--tier", "sky"], "--tier sky"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["profile", *wrong])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
