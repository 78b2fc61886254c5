"""Several matchers on the same network, demand and seeds, run side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gainnet.errors import ScenarioError
from gainnet.measurement import metrics
from gainnet.measurement.comparison import Comparison, Figures, figures
from gainnet.measurement.kept import Kept
from gainnet.measurement.record import Record
from gainnet.run import simulate
from gainnet.scenario import document
from gainnet.scenario.load import change
from gainnet.scenario.scenario import Scenario
from gainnet.workers.start import start

_WARM_UP_S = 2.0
Key = tuple[int, str, int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A field that is set to one value after the other."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One run: what to run, and whether its whole record is wanted or only its figures."""

    key: Key
    scenario: Scenario
    whole: bool


def parse_sweep(text: str) -> Sweep:
    """``path.to.value=v1,v2,...``, each value YAML; ScenarioError where it is not that."""
    path, equals, given = text.partition("=")
    if not equals or not path.strip() or not given.strip():
        raise ScenarioError(f"--sweep {text!r}: must read path.to.value=v1,v2,... like network.ends=50,100,200")
    values = document.read(f"[{given}]", f"--sweep {path.strip()}")
    return Sweep(path.strip(), tuple(values))


def parse_arms(matchers: str, variants: Sequence[str], learning: str = "") -> dict[str, tuple[str, ...]]:
    """Overrides of each arm, by name: one for each matcher, or for each arm of the knowledge loop, then the variants.

    Args:
        matchers: kinds, separated by commas.
        variants: ``NAME=path=value`` each, a change of the last of those.
        learning: arms of the knowledge loop, separated by commas; then ``matchers`` is one kind at most.
    """
    kinds = [kind.strip() for kind in matchers.split(",") if kind.strip()]
    learnt = [arm.strip() for arm in learning.split(",") if arm.strip()]
    if not kinds and not learnt:
        raise ScenarioError("--matchers: give at least one, like greedy,price, or --arms")
    if learnt and len(kinds) > 1:
        raise ScenarioError("--matchers: give one at most beside --arms")
    arms: dict[str, tuple[str, ...]] = {}
    matcher = tuple(f"orchestrator.matcher={kind}" for kind in kinds)
    for arm in learnt:
        _add(arms, arm, (*matcher, f"knowledge.arm={arm}"), "--arms")
    for kind in () if learnt else kinds:
        _add(arms, kind, (f"orchestrator.matcher={kind}",), "--matchers")
    for text in variants:
        name, equals, setting = text.partition("=")
        if not equals or not name.strip() or "=" not in setting:
            raise ScenarioError(f"--arm {text!r}: must read NAME=path=value, like siloed=orchestrator.pools=siloed")
        _add(arms, name.strip(), (*arms[(learnt or kinds)[-1]], setting), "--arm")
    return arms


def _add(arms: dict[str, tuple[str, ...]], name: str, overrides: tuple[str, ...], option: str) -> None:
    if name in arms:
        raise ScenarioError(f"{option}: {name!r} is there twice")
    arms[name] = overrides


def compare(
    scenario: Scenario,
    arms: Mapping[str, Sequence[str]],
    reference: str,
    seeds: int,
    sweep: Sweep | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
    ray: str | None = None,
    kept: Kept | None = None,
) -> tuple[Comparison, Record | None]:
    """Run every (value, arm, seed), the same seeds for every arm.

    Args:
        scenario: what to run; the seeds are its own and those that follow.
        arms: overrides of each arm, by name (see `parse_arms`).
        reference: the arm that the others are compared to.
        seeds: how many, at least one.
        sweep: a field to vary.
        workers: how many run at once, None for as many as there are CPUs; without Ray, 1 is this process.
        progress: called with the runs done and the runs in all.
        ray: a Ray cluster to run on (see `gainnet.workers.start.start`), or None.
        kept: runs that are not made again, and where those that are done are kept; None for neither.

    Returns:
        The comparison, in the order of the arguments whatever ended first, and the whole record of the reference's run
        at the first value and the first seed, None where it was kept.

    Raises:
        ScenarioError: an arm or a value is not allowed; before anything has run.
        InputError: Ray is not installed or cannot be reached.
        GainnetError: a worker process died at every try of the same run.
        OutputError: a run cannot be kept.
    """
    values = sweep.values if sweep else (None,)
    all_seeds = tuple(range(scenario.seed, scenario.seed + seeds))
    jobs = [
        Job((index, arm, seed), _variant(scenario, sweep, value, overrides, seed),
            whole=(index, arm, seed) == (0, reference, scenario.seed))
        for index, value in enumerate(values)
        for arm, overrides in arms.items()
        for seed in all_seeds
    ]  # fmt: skip
    runs: dict[Key, Figures] = {}
    for job in jobs:
        known = None if kept is None else kept.figures(job.scenario, whole=job.whole)
        if known is not None:
            runs[job.key] = known
    missing = [job for job in jobs if job.key not in runs]
    warm = {job.key[1]: _short(job.scenario) for job in missing}
    record: Record | None = None
    with start(workers, ray) as hired:
        for first in warm.values():
            simulate(first)  # compiles, so that no worker of this machine does
        for job, (found, whole) in hired.map(run_one, missing, _name):
            runs[job.key], record = found, whole or record
            if kept is not None:
                kept.keep(job.scenario, found, whole)
            if progress is not None:
                progress(len(runs), len(jobs))
    ordered = {job.key: runs[job.key] for job in jobs}
    path = sweep.path if sweep else None
    return Comparison(scenario.name, tuple(arms), reference, all_seeds, path, values, ordered), record


def _variant(scenario: Scenario, sweep: Sweep | None, value: Any, overrides: Sequence[str], seed: int) -> Scenario:
    swept = (f"{sweep.path}={json.dumps(value, default=str)}",) if sweep else ()
    return change(scenario, (*overrides, *swept), seed=seed)


def run_one(job: Job) -> tuple[Figures, Record | None]:
    """The figures of one run, and its record where the job wants it whole."""
    if job.scenario.knowledge is None:
        record = simulate(job.scenario).record
    else:
        from gainnet.knowledge.loop import learn  # needs torch, which other runs do not

        record = learn(job.scenario).record
    assert record is not None, "simulate closes its recorder"
    return figures(metrics.report(record)), record if job.whole else None


def _short(scenario: Scenario) -> Scenario:
    """The first seconds of a scenario, without a knowledge loop: what there is to compile is compiled in them."""
    return scenario.model_copy(update={"knowledge": None, "duration_s": min(_WARM_UP_S, scenario.duration_s)})


def _name(job: Job) -> str:
    _, arm, seed = job.key
    return f"{arm}, seed {seed}"
