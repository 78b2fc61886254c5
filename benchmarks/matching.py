"""How good and how fast the matchers are: gaps to the optimum, decision times, and the validity of every bound."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from gainnet.orchestrator.matcher import Matcher, build
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem
from gainnet.scenario.matcher import MatcherConfig

KINDS = ("random", "end", "nearest", "edge", "cloud", "greedy", "price")
EXACT_SIZES = (20, 40, 80)
LARGE_SIZE = 1000
SCARCITIES = (1.5, 2.0, 3.0, 4.0)
REPEATS = 5
"""Decisions timed for each problem; the first, which may compile, is not."""

_CONFIG: TypeAdapter[MatcherConfig] = TypeAdapter(MatcherConfig)


def problems(tasks: int, count: int, seed: int) -> Iterator[Problem]:
    """``count`` problems of ``tasks`` tasks, from contended to starved, on a network that grows with the tasks."""
    path = Path(__file__).parent.parent / "tests" / "orchestrator" / "problems.py"
    spec = importlib.util.spec_from_file_location("matching_problems", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    cells = int(np.clip(tasks // 10, 3, 20))
    for index in range(count):
        rng = np.random.default_rng([seed, tasks, index])
        yield module.network(rng, tasks, SCARCITIES[index % len(SCARCITIES)], cells=cells, edges=cells)


def figures(quick: bool = False) -> dict[str, float]:
    """Mean gap and median decision time of each matcher by number of tasks, and how many bounds were invalid.

    ``<matcher>.n<tasks>.gap_mean`` is relative to the exact matcher's plan up to 80 tasks (optimal, or the best that it
    and the price matcher have after a minute), and to the price matcher's bound at 1000. ``decision_s_p50`` is of cold
    decisions (no prices from a last frame);
    ``price.n<tasks>.warm_decision_s_p50`` of warm ones. ``bound_violations`` counts bounds below the value of the
    exact plan, over all matchers and problems.
    """
    found: dict[str, float] = {"bound_violations": 0.0}
    for tasks in EXACT_SIZES[:2] if quick else EXACT_SIZES:
        found_violations = found["bound_violations"]
        found |= _compare(tasks, 4, exact_s=10.0 if quick else 60.0)
        found["bound_violations"] += found_violations
    found_violations = found["bound_violations"]
    found |= _compare(LARGE_SIZE, 1 if quick else 4, exact_s=None)
    found["bound_violations"] += found_violations
    return found


def _compare(tasks: int, count: int, exact_s: float | None) -> dict[str, float]:
    """The figures of one size; ``exact_s`` limits the exact matcher, None does without it."""
    matchers = {kind: build(_CONFIG.validate_python({"kind": kind})) for kind in KINDS}
    gaps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "warm")}
    invalid = 0
    for problem in problems(tasks, count, seed=1):
        plans = {kind: _timed(matcher, problem, np.zeros(problem.rows)) for kind, matcher in matchers.items()}
        reference = plans["price"][0].bound
        if exact_s is not None:
            exact = build(_CONFIG.validate_python({"kind": "exact", "time_limit_s": exact_s, "relative_gap": 1e-4}))
            best = exact.match(problem, np.zeros(problem.rows), np.random.default_rng(1)).value
            reference = max(best, plans["price"][0].value)
            invalid += sum(plan.bound < reference * (1.0 - 1e-9) for plan, _ in plans.values())
        for kind, (plan, seconds) in plans.items():
            gaps[kind].append(1.0 - plan.value / reference)
            times[kind].append(seconds)
        times["warm"].append(_timed(matchers["price"], problem, plans["price"][0].price)[1])
    found = {f"{kind}.n{tasks}.gap_mean": float(np.mean(gaps[kind])) for kind in KINDS}
    found |= {f"{kind}.n{tasks}.decision_s_p50": float(np.median(times[kind])) for kind in KINDS}
    found[f"price.n{tasks}.warm_decision_s_p50"] = float(np.median(times["warm"]))
    found["bound_violations"] = float(invalid)
    return found


def _timed(matcher: Matcher, problem: Problem, warm: np.ndarray) -> tuple[Plan, float]:
    """A plan, and the median time of the decisions after the first, in s."""
    plans = [matcher.match(problem, warm, np.random.default_rng(1)) for _ in range(REPEATS)]
    return plans[0], float(np.median([plan.decision_s for plan in plans[1:]]))
