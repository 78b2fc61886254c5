"""`gainnet bench longrun --resume DIR` measures each (setting, matcher) once, and anew where what it depends on changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from gainnet.apps import bench
from gainnet.scenario.scenario import Scenario

KINDS = ("greedy", "price", "neural", "drl", "hindsight")


@pytest.fixture
def longrun(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, list[str]]:
    """The benchmark, and what it measured: figures of the kind's place in KINDS, a hundredth more at each seed."""
    module = bench._module(bench.FOLDER / "longrun.py")
    measured: list[str] = []

    def sample(kind: str, seeds: int) -> dict[str, list[float | None]]:
        measured.append(kind)
        first = KINDS.index(kind)
        return {metric: [first + 0.01 * seed for seed in range(seeds)] for metric in module.METRICS}

    def matcher(kind: str, scenario: Scenario, seeds: int) -> dict[str, list[float | None]]:
        return sample(kind, seeds)

    def bounds(scenario: Scenario, seeds: int) -> dict[str, list[float | None]]:
        return sample("hindsight", seeds)

    monkeypatch.setattr(module, "_matcher", matcher)
    monkeypatch.setattr(module, "_bounds", bounds)
    monkeypatch.setattr(module, "_can_train", lambda: False)
    return module, measured


def test_differences_are_paired_by_seed(longrun: tuple[ModuleType, list[str]]) -> None:
    module, measured = longrun
    figures = module.figures()
    assert measured == [*KINDS] * 3
    assert figures["faults.drl.return_mean"] == pytest.approx(3.045)
    assert figures["faults.drl_minus_price.return_mean"] == pytest.approx(2.0)
    assert figures["faults.drl_minus_price.return_ci95"] == pytest.approx(0.0, abs=1e-12)
    assert figures["faults.price.return_ci95"] > 0.0


@pytest.mark.untraced
def test_what_is_kept_is_not_measured_again(longrun: tuple[ModuleType, list[str]], tmp_path: Path) -> None:
    module, measured = longrun
    figures = module.figures(resume=tmp_path)
    (tmp_path / "dense-price.json").unlink()
    other = json.loads((tmp_path / "faults-drl.json").read_text())
    other["notes"]["drl"] = "another checkpoint"
    (tmp_path / "faults-drl.json").write_text(json.dumps(other))
    measured.clear()
    assert module.figures(resume=tmp_path) == figures
    assert measured == ["price", "drl"]
