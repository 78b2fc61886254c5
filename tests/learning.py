"""A network of two cells whose four ends learn a model of a few thousand weights, in a second or two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gainnet.scenario.scenario import Scenario
from tiny import constant, scenario

if TYPE_CHECKING:
    from gainnet.knowledge.arm import Arm

TINY = {
    "layers": 2, "width": 16, "heads": 2, "kv_heads": 1, "vocabulary": 300, "context": 64, "steps": 2, "batch": 2,
    "learning_rate": 0.01,
}  # fmt: skip
CARD = {
    "kind": "language",
    "parameters": 1e8,
    "layers": 4,
    "width": 512,
    "kv_heads": 2,
    "head_width": 64,
    "quality": 0.3,
}


def learning_scenario(*, seed: int = 0, duration_s: float = 4.0, **knowledge: Any) -> Scenario:
    """Two edges with two ends each; a round every two seconds."""
    base = scenario(cells=((0.0, 0.0), (400.0, 0.0)), ends=4).model_dump(mode="json")
    names = {"end": "small", "edge": "middle", "cloud": "large"}
    base["models"] |= dict.fromkeys(names.values(), CARD)
    for tier, name in names.items():
        base["network"][tier]["resident"] = [*base["network"][tier]["resident"], name]
    base["network"]["mobility"] = {
        "kind": "waypoint", "speed_min_m_per_s": 0.1, "speed_max_m_per_s": 0.2, "pause_max_s": 1.0,
    }  # fmt: skip
    base["demand"]["services"]["notes"] = {
        "kind": "text", "models": list(names.values()), "deadline_s": 3.0, "quality_min": constant(0.1),
        "arrivals": {"kind": "poisson", "rate_per_end_per_s": 0.5}, "prompt_token": constant(50), "output_token": constant(10),
    }  # fmt: skip
    loop = {
        "service": "learning", "requests": "notes", "cards": names, "rounds": 2, "period_s": 2.0, "deadline_s": 1.5,
        "foundation": {"kind": "small", **TINY}, "end_model": TINY,
        "data": {"kind": "synthetic", "train": 24, "held": 8, "public": 60},
        "ranks": [2], "edge_rank": 4, "batch": 4, "test": 1,
        "distillation": {"samples": 4, "steps": 1}, "rehearsal": {"texts": 4},
    }  # fmt: skip
    base |= {"seed": seed, "duration_s": duration_s, "knowledge": loop | knowledge}
    return Scenario.model_validate(base)


def untaught(kind: str, **knowledge: Any) -> Arm:
    """An arm before its first round."""
    from gainnet.knowledge import setting
    from gainnet.knowledge.arms import build

    config = learning_scenario(arm=kind, **knowledge).knowledge
    assert config is not None
    return build(setting.build(config, 0, np.array([0, 0, 1, 1]), 2, lambda _what, _done, _total: None))
