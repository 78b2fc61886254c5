"""The openai package against a whole lab, as `gainnet bench live` has it do: text, images, errors, adapters that move."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import uvloop

from gainnet.apps import bench
from gainnet.scenario.load import load
from gainnet.serving import lab as labs
from gainnet.serving.lab import FILE, Lab

PATIENCE_S = 300.0
"""For machines with much else to do."""


@pytest.mark.slow
@pytest.mark.untraced
def test_the_openai_client_does_all_that_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labs, "READY_S", PATIENCE_S)
    module = bench._module(bench.FOLDER / "_openai_client.py")

    async def main() -> dict[str, str]:
        lab = Lab(load("lab"), tmp_path, nodes="cloud=1,edge=1,end=0", router="nearest")
        try:
            await lab.start()
            found: dict[str, str] = await module.checked(json.loads((tmp_path / FILE).read_text()), tmp_path)
            return found
        finally:
            await lab.close()

    found = uvloop.run(asyncio.wait_for(main(), PATIENCE_S))
    checks = ("models", "chat", "stream", "completion", "embedding", "image", "errors", "adapters")
    assert found == dict.fromkeys(checks, "")
