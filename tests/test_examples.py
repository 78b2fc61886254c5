"""The examples run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
QUICK = {"train_ppo": ["--steps", "64", "--rollout", "8", "--seeds", "2", "--episode-s", "1"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.untraced
@pytest.mark.slow
@pytest.mark.untraced
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), *QUICK.get(path.stem, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert "served" in capsys.readouterr().out
