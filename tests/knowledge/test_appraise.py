"""What was measured of an adapter is known from then on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gainnet.knowledge import appraise
from gainnet.knowledge.gate import Scores
from gainnet.knowledge.setting import Setting
from gainnet.knowledge.tuning import Tuner
from gainnet.models.low_rank import Factors, LowRank


def adapter(value: float) -> LowRank:
    return LowRank({"layer": Factors(np.full((1, 2), value, np.float32), np.ones((2, 1), np.float32))}, 2.0, "base")


def test_an_adapter_is_measured_once_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(_tuner: Any, found: Any, _setting: Any) -> Scores:
        measured.append(appraise.PLAIN if found is None else found.digest())
        return Scores({"a": float(len(measured))}, 1.0)

    monkeypatch.setattr(appraise, "_appraised", measure)
    monkeypatch.setattr(appraise, "APPRAISED_MAX", 2)
    large, small, setting = object.__new__(Tuner), object.__new__(Tuner), object.__new__(Setting)
    object.__setattr__(setting, "tuner", large)
    object.__setattr__(setting, "appraised", {})
    x, y = adapter(1.0).digest(), adapter(2.0).digest()
    first = appraise.appraise(large, adapter(1.0), setting)
    assert appraise.appraise(large, adapter(1.0), setting) is first
    appraise.appraise(large, None, setting)
    appraise.appraise(large, None, setting)
    assert measured == [x, appraise.PLAIN]
    appraise.appraise(large, adapter(2.0), setting)
    assert list(setting.appraised) == [appraise.PLAIN, y]
    appraise.appraise(small, adapter(2.0), setting)  # the ends' model: never kept
    assert measured == [x, appraise.PLAIN, y, y]
