"""Services as a scenario would give them, and states of a network that only keeps time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gainnet.demand.demand import Demand
from gainnet.demand.task import Tasks
from gainnet.network.state import Health, LinkView, Load, NetworkState
from gainnet.scenario import demand as scenario

ARTIFACTS = ("small", "large", "painter", "manga", "ink")

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GENTD26 = "gmt_create,predict_type,predict_status,num_images_per_prompt,num_inference_steps,num_lora\n"
CHAT = AZURE + "".join(f"2023-11-16 18:15:{second:02}.5000000,{100 + second},{second}\n" for second in range(41))


def written(folder: Path, content: str) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    return path


def state(time_s: float, factor: float = 1.0) -> NetworkState:
    """A network without ends at that time, under that demand factor."""
    none, table = np.zeros(0), np.zeros((0, 0))
    health = Health(none > 0, none > 0, none, none > 0, demand_factor=factor)
    whole = none.astype(np.int64)
    load = Load(none, none, whole, none, table, table > 0, table, table.astype(np.int64), table, none, none, health)
    links = LinkView(table, table, table)
    candidate = table.astype(np.int64)
    nowhere = np.zeros((0, 2))
    return NetworkState(0, time_s, nowhere, nowhere, candidate, none > 0, links, links, none, table, table, load)


def constant(value: float) -> dict[str, Any]:
    return {"kind": "constant", "value": value}


def text(arrivals: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {"kind": "text", "models": ["small", "large"], "deadline_s": 2.0, "quality_min": constant(0.5)}
    return {**given, "arrivals": arrivals, "prompt_token": constant(100), "output_token": constant(40), **changes}


def image(arrivals: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {"kind": "image", "models": ["painter"], "deadline_s": 5.0, "quality_min": constant(0.6)}
    return {**given, "arrivals": arrivals, "steps": constant(30), "adapters": ["ink", "manga"], **changes}


def poisson(rate: float) -> dict[str, Any]:
    return {"kind": "poisson", "rate_per_end_per_s": rate}


def demand(services: dict[str, Any], **changes: Any) -> Demand:
    config = scenario.Demand.model_validate({"services": services})
    given = {"ends": 10, "seed": 1, "frame_s": 0.1, "duration_s": 60.0} | changes
    return Demand(config, ARTIFACTS, **given)


def collect(
    source: Demand, duration_s: float, factor: Callable[[float], float] = lambda _: 1.0, frame_s: float = 0.1
) -> list[Tasks]:
    """The tasks of every frame, the one at time 0 first."""
    frames = range(round(duration_s / frame_s) + 1)
    return [source.arrive(state(frame * frame_s, factor(frame * frame_s))) for frame in frames]


def joined(frames: list[Tasks], name: str) -> np.ndarray:
    return np.concatenate([getattr(tasks, name) for tasks in frames])


def dispersion(time_s: np.ndarray, duration_s: float, window_s: float) -> float:
    count = np.histogram(time_s, bins=round(duration_s / window_s), range=(0.0, duration_s))[0]
    return float(count.var() / count.mean())
