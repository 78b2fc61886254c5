"""`bench soak` notices requests that are lost and streams that end silently, and its faults come of all kinds by the seed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import numpy as np
import pytest
import uvloop

from gainnet.apps import bench


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    """The benchmark."""
    return bench._module(bench.FOLDER / "soak.py")


def test_it_sees_how_requests_end(soak: ModuleType) -> None:
    client_of = sys.modules["_soak"].Client
    ends = {
        "": "ok", "error event": "broken", "no done": "silent", "cut": "silent", "close": "lost", "garbage": "lost",
        "500": "lost", "not json": "lost",
    }  # fmt: skip

    async def main() -> None:
        odd = soak.Odd("odd")
        await odd.start()
        async with aiohttp.ClientSession() as session:
            client = client_of(session, [])
            for how, end in ends.items():
                stream = end in ("broken", "silent")
                found: Any = await client.ask("m", f"fault:{how}@odd", stream=stream, at=odd.url)
                assert found.how == end, how
            assert client.ended["lost"] == 4
            assert len(client.wrong) == 6
        await odd.close()

    uvloop.run(asyncio.wait_for(main(), 60.0))


def test_faults_are_of_all_kinds_by_the_seed(soak: ModuleType, tmp_path: Path) -> None:
    async def kinds(seed: int) -> list[str]:
        async with aiohttp.ClientSession() as session:
            found: list[str] = soak.Soak(session, tmp_path, np.random.default_rng(seed))._kinds(200)
        return found

    first, again, other = (asyncio.run(kinds(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 200
    assert set(first[: len(soak.Soak.KINDS)]) == set(soak.Soak.KINDS)
