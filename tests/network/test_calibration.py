"""The 3GPP calibration of benchmarks/, on the contributed curves where they are at hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "calibration_3gpp"
TOLERANCE_DB = {"p5": 3.0, "p50": 1.5, "p95": 3.0}


def errors(name, monkeypatch):
    if not (DATA / name).is_file():
        pytest.skip(f"../shared/data/calibration_3gpp/{name} is missing")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("calibration").figures(DATA / name, quick=True)


@pytest.mark.parametrize(("name", "count"), [("umi_large_scale.json", 18), ("isac_uav_phase1.json", 30)])
def test_drops_agree_with_the_median_company(name, count, monkeypatch):
    found = errors(name, monkeypatch)
    assert len(found) == count
    for key, error in found.items():
        assert abs(error) <= TOLERANCE_DB[key.rsplit(".", 1)[1].split("_")[0]], key
