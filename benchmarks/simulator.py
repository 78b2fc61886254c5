"""How fast the whole loop runs: beside mobile-env in the same process, against real time, and as networks grow."""

from __future__ import annotations

import resource
import time
from statistics import median

from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.scenario.scenario import Scenario

MEANING = {
    "small.frames_per_s": "13 cells x 30 ends, whole loop with `price`",
    "small.peer_steps_per_s": "mobile-env's mobile-large-central-v0 (13 stations x 30 users), same process",
    "small.ratio": "ours over the peer's; at least 30",
    "large.real_time_factor": "19 cells x 1,000 ends, simulated seconds per second at 0.1 s frames; at least 10",
    "scaling.cost_ratio": "cost per end and frame at 10,000 ends over that at 1,000 (as many ends a cell); at most 1.5",
    "scaling.end_frame_s": "cost per end and frame at 10,000 ends",
    "peak_memory_byte": "largest resident memory of the process",
}
ENDS_PER_CELL = 1000 / 19


def figures(quick: bool = False) -> dict[str, float]:
    """Measure on one thread; ``quick`` runs a tenth of the frames and leaves the 10,000 ends out."""
    scale = 0.1 if quick else 1.0
    small, peer = _beside_peer(round(2000 * scale), round(100 * scale))
    found = {"small.frames_per_s": small}
    if peer is not None:
        found |= {"small.peer_steps_per_s": peer, "small.ratio": small / peer}
    large = _frames_per_s(_network(19, 1000), round(300 * scale))
    found["large.real_time_factor"] = 0.1 * large
    if not quick:
        thousand = _frames_per_s(_grown(1000), 100)
        many = _frames_per_s(_grown(10_000), 30)
        found["scaling.end_frame_s"] = 1.0 / many / 10_000
        found["scaling.cost_ratio"] = (1.0 / many / 10_000) / (1.0 / thousand / 1000)
    found["peak_memory_byte"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return found


def _network(cells: int, ends: int, blocks: int = 4) -> Scenario:
    """The built-in `vehicular`, with its demand for each end, at another size."""
    return load(
        "vehicular",
        [
            f"network.topology.cells={cells}",
            f"network.topology.blocks_x={blocks}",
            f"network.topology.blocks_y={blocks}",
            f"network.ends={ends}",
            "duration_s=600",
        ],
    )


def _grown(ends: int) -> Scenario:
    """As many ends for each cell, and cells for each area, at any size; the cloud grows with them."""
    cells = round(ends / ENDS_PER_CELL)
    blocks = max(1, round((cells * 25 / 13) ** 0.5) - 1)
    while (blocks + 1) ** 2 < cells:
        blocks += 1
    grown = _network(cells, ends, blocks)
    cloud = grown.network.cloud.model_copy(update={"count": max(1, round(grown.network.cloud.count * ends / 1000))})
    return grown.model_copy(update={"network": grown.network.model_copy(update={"cloud": cloud})})


def _frames_per_s(scenario: Scenario, frames: int, parts: int = 3) -> float:
    """Median over parts of the run, after a warm-up that fills the network with running tasks."""
    run = Run(scenario)
    for _ in range(max(20, frames // 4)):
        run.step()
    rates = []
    for _ in range(parts):
        began = time.perf_counter()
        for _ in range(max(1, frames // parts)):
            run.step()
        rates.append(max(1, frames // parts) / (time.perf_counter() - began))
    return median(rates)


def _beside_peer(frames: int, steps: int) -> tuple[float, float | None]:
    """Ours and the peer's rate, measured in turns so that both meet the same machine."""
    scenario = _network(13, 30)
    try:
        import gymnasium
        import mobile_env  # noqa: F401
    except ImportError:
        return _frames_per_s(scenario, frames), None
    peer = gymnasium.make("mobile-large-central-v0")
    ours, theirs = [], []
    for turn in range(3):
        ours.append(_frames_per_s(scenario, frames // 3, parts=1))
        peer.reset(seed=turn)
        actions = [peer.action_space.sample() for _ in range(steps // 3 + 1)]
        began = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = peer.step(action)
            if terminated or truncated:
                peer.reset()
        theirs.append(len(actions) / (time.perf_counter() - began))
    peer.close()
    return median(ours), median(theirs)


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name:28s} {value:.6g}   {MEANING[name]}")  # noqa: T201
