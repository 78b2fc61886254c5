"""The real traces."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.exists():
        pytest.skip(f"the real traces are not here: no folder {DATA}")
    return DATA
