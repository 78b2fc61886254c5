"""Long runs on unseen seeds: the learned matcher beside the others, an off-the-shelf learner, and what hindsight allows.

Every setting is run for a minute on the same ten seeds by every matcher; intervals of differences are paired by seed.
With a folder to resume, every (setting, matcher) is kept there as soon as it is measured, and what is there of the same
scenario, seeds and checkpoints is not measured again: the whole takes an hour or so and can be stopped at any time.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import runpy
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gainnet.compare import compare
from gainnet.demand.trace import read
from gainnet.hindsight.hindsight import hindsight
from gainnet.measurement.comparison import figures as figures_of
from gainnet.measurement.interval import Interval, interval, paired
from gainnet.measurement.metrics import report
from gainnet.measurement.record import Recorder
from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.outlook import RESIDUAL_MAX, Outlook, Steering
from gainnet.run import Run
from gainnet.scenario.load import change, dump, load
from gainnet.scenario.matcher import MATCHER_KINDS
from gainnet.scenario.scenario import Scenario

MATCHERS = ("greedy", "price", "neural", "drl")
LEARNED, PPO, HINDSIGHT = "drl", "ppo", "hindsight"
TRAINED_ON = "dense"
"""The setting that PPO is trained on, as drl was; it is tried on all."""
METRICS = ("satisfaction", "return")
FIRST_SEED, SEEDS, QUICK_SEEDS = 9001, 10, 2
QUICK_S = 20.0
PPO_STEPS, QUICK_PPO_STEPS = 20_000, 500
PPO_FRAMES_A_STEP = 5
PPO_ROLLOUT = 240
"""Steps between updates: two episodes of a minute."""
PPO_SEED = 1
ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "runs" / "longrun"
HEXAGONAL = (
    # 13 sites 179 m apart cover what 13 cells of vehicular-dense do; vehicles drive straight to random places.
    "network.topology={kind: hexagonal, sites: 13, inter_site_m: 179.0}",
    "network.mobility={kind: waypoint, speed_min_m_per_s: 5.0, speed_max_m_per_s: 17.0, pause_max_s: 0.0}",
)
TRACES = {"assistant": "azure_llm_2023/conv.csv", "pictures": "gentd26/requests.csv"}

MEANING = {
    "satisfaction_mean": "mean over the seeds of the share of satisfied tasks among those due in the run",
    "satisfaction_ci95": "half-width of its 95 % interval; of drl_minus_X, of the difference paired by seed",
    "return_mean": "mean of the value of satisfied tasks less weighed cost, over the value of the tasks due",
    "return_ci95": "half-width of its 95 % interval; of drl_minus_X, of the difference paired by seed",
    "hindsight.satisfaction_mean": "no matcher can exceed this: dual bound of a relaxed offline optimum, all arrivals known",
    "hindsight.return_mean": "the same for the return",
    "ppo.satisfaction_mean": "Stable-Baselines3's PPO steering price, trained on dense; needs stable-baselines3",
    "drl.satisfaction_mean": "the learned matcher; absent, with its differences, where this version has none",
    "traces": "vehicular-dense fed by the recorded traces, the same requests at every seed, sped up to its load; needs --data",
}

Sample = dict[str, list[float | None]]


def settings(data: Path | None, quick: bool) -> dict[str, Scenario]:
    """The settings by name, at the first seed."""
    base = load("vehicular-dense", seed=FIRST_SEED, duration_s=QUICK_S if quick else None)
    faults = runpy.run_path(str(ROOT / "docs" / "results" / "make.py"))["FAULTS"]
    found = {"dense": base, "faults": change(base, [faults]), "hexagonal": change(base, HEXAGONAL)}
    if data is not None:
        found["traces"] = change(base, [_replay(base, name, data / path) for name, path in TRACES.items()])
    return found


def _replay(base: Scenario, service: str, path: Path) -> str:
    """The override that replays a trace for a service, sped up to the service's own mean rate over the whole trace.

    It begins where the run's window of the trace has about that rate: some windows have a tenth of it, some twice.
    """
    trace = read(path)
    arrivals: Any = base.demand.services[service].arrivals  # type: ignore[union-attr]
    rate_per_s = arrivals.rate_per_end_per_s * base.network.ends
    speed = rate_per_s * trace.length_s / len(trace)
    begins = np.arange(0.0, trace.length_s, base.duration_s * speed)
    rates = np.histogram(trace.time_s, begins)[0] / base.duration_s
    start_s = begins[np.abs(rates - rate_per_s).argmin()]
    replay = f"{{kind: trace, path: {path.resolve()}, speed: {speed:.6g}, start_s: {start_s:.6g}}}"
    return f"demand.services.{service}.arrivals={replay}"


def figures(data: Path | None = None, quick: bool = False, resume: Path | None = None) -> dict[str, float]:
    """``<setting>.<matcher>.<metric>_mean`` and ``_ci95``, and the same of ``<setting>.drl_minus_<matcher>``.

    Args:
        data: the folder of the traces; without it the setting ``traces`` is left out.
        quick: two seeds of 20 s, and little training of PPO.
        resume: the folder in which what is measured is kept and looked for; remove it where the code has changed.
    """
    seeds = QUICK_SEEDS if quick else SEEDS
    found: dict[str, float] = {}
    for name, scenario in settings(data, quick).items():
        samples = _samples(name, scenario, seeds, quick, resume)
        for kind, sample in samples.items():
            found |= _named(f"{name}.{kind}", {metric: interval(sample[metric]) for metric in METRICS})
        if LEARNED not in samples:
            continue
        for kind in samples:
            if kind != LEARNED:
                pairs = {metric: paired(samples[LEARNED][metric], samples[kind][metric]) for metric in METRICS}
                found |= _named(f"{name}.{LEARNED}_minus_{kind}", pairs)
    return found


def _samples(name: str, scenario: Scenario, seeds: int, quick: bool, resume: Path | None) -> dict[str, Sample]:
    """What everything reaches on a setting, by seed: from the folder where it is there, and measured where it is not."""
    steps = QUICK_PPO_STEPS if quick else PPO_STEPS

    def off_the_shelf() -> Sample:
        return _off_the_shelf(_trained(settings(None, quick)[TRAINED_ON], steps), scenario, seeds)

    measures: dict[str, Callable[[], Sample]] = {
        kind: partial(_matcher, kind, scenario, seeds) for kind in MATCHERS if kind in MATCHER_KINDS
    }
    measures[HINDSIGHT] = lambda: _bounds(scenario, seeds)
    if _can_train():
        measures[PPO] = off_the_shelf
    notes = {"scenario": dump(scenario), "seeds": str(seeds), "ppo_steps": str(steps)}
    return {
        kind: measure() if resume is None else _kept(resume / f"{name}-{kind}.json", notes | _weights(kind), measure)
        for kind, measure in measures.items()
    }


def _weights(kind: str) -> dict[str, str]:
    """Digests of the checkpoints that a matcher uses."""
    used = {LEARNED: (LEARNED, "neural"), "neural": ("neural",)}.get(kind, ())
    return {name: hashlib.sha256(checkpoint.shipped(name).read_bytes()).hexdigest() for name in used}


def _kept(path: Path, notes: Mapping[str, str], measure: Callable[[], Sample]) -> Sample:
    """The sample in a file where it was measured under the same notes, else a new one, which is kept there."""
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["notes"] == notes:
            return {metric: list(kept["sample"][metric]) for metric in METRICS}
    sample = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".writing")
    written.write_text(json.dumps({"notes": notes, "sample": sample}, indent=1), encoding="utf-8")
    written.replace(path)
    return sample


def _named(prefix: str, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Figures of intervals; those without a mean or a width (too few seeds) are left out."""
    parts = {
        f"{prefix}.{metric}_{part}": value
        for metric, found in intervals.items()
        for part, value in (("mean", found.mean), ("ci95", found.half_width))
    }
    return {name: value for name, value in parts.items() if value is not None}


def _matcher(kind: str, scenario: Scenario, seeds: int) -> Sample:
    """A matcher, by seed."""
    arms = {kind: (f"orchestrator.matcher={kind}",)}
    found, _ = compare(scenario, arms, kind, seeds, workers=os.cpu_count() or 1)
    return {metric: found.sample(0, kind, metric) for metric in METRICS}


def _seeded(scenario: Scenario, seeds: int) -> list[Scenario]:
    return [change(scenario, seed=scenario.seed + index) for index in range(seeds)]


def _bounds(scenario: Scenario, seeds: int) -> Sample:
    """The hindsight bounds, by seed."""
    workers = min(os.cpu_count() or 1, seeds)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(hindsight, _seeded(scenario, seeds)))
    return {"satisfaction": [bound.satisfaction for bound in found], "return": [bound.value_return for bound in found]}


def _can_train() -> bool:
    needed = ("stable_baselines3", "gymnasium", "gainnet.training.env")
    return all(find_spec(module) is not None for module in needed)


class _Agent:
    """Steers a run as the environment would have it: one action for several frames, from what is known at the first."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._frame = 0
        self._steering = Steering(np.zeros(0), 0.0)

    def steer(self, outlook: Outlook) -> Steering:
        """See `gainnet.orchestrator.outlook.Policy`."""
        if self._frame % PPO_FRAMES_A_STEP == 0:
            seen = {"resource": outlook.resource, "overall": outlook.overall}
            spaces = self._model.observation_space.spaces
            observation = {
                name: np.clip(values, spaces[name].low, spaces[name].high).astype(np.float32)
                for name, values in seen.items()
            }
            action = np.asarray(self._model.predict(observation, deterministic=True)[0], np.float64)
            self._steering = Steering(RESIDUAL_MAX * action[:-1], max(0.0, float(action[-1])))
        self._frame += 1
        return self._steering


def _off_the_shelf(model: Any, scenario: Scenario, seeds: int) -> Sample:
    """PPO on a setting with as many resources as that which it was trained on, by seed."""
    sample: Sample = {metric: [] for metric in METRICS}
    for given in _seeded(change(scenario, ["orchestrator.matcher=price"]), seeds):
        recorder, run = Recorder(given), Run(given)
        run.orchestrator.policy = _Agent(model)
        for _ in range(given.frames):
            run.step(recorder)
        reached = figures_of(report(recorder.close(run.execution.still_open(given.frames * given.frame_s))))
        for metric in METRICS:
            sample[metric].append(reached[metric])
    return sample


def _trained(scenario: Scenario, steps: int) -> Any:
    """The model that ``runs/longrun`` keeps, or a new one; episodes have seeds of the environment's own drawing."""
    import gymnasium
    import torch
    from stable_baselines3 import PPO as Ppo

    import gainnet.training.env  # registers the environment

    assert gainnet.training.env is not None
    torch.set_num_threads(1)
    kept = KEPT / f"{TRAINED_ON}-{scenario.duration_s:g}s-{steps}.zip"
    if kept.exists():
        return Ppo.load(kept, device="cpu")
    env = gymnasium.make(
        "GainNet/ISCC-v0",
        scenario=change(scenario, ["orchestrator.matcher=price"]),
        action="steering",
        frames_per_step=PPO_FRAMES_A_STEP,
    )
    model = Ppo(
        "MultiInputPolicy", env, n_steps=PPO_ROLLOUT, batch_size=PPO_ROLLOUT // 4, gamma=0.98, seed=PPO_SEED,
        policy_kwargs={"log_std_init": -1.5}, device="cpu",
    )  # fmt: skip
    model.learn(steps)
    KEPT.mkdir(parents=True, exist_ok=True)
    model.save(kept)
    return model
