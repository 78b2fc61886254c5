"""How good and how fast the matchers are: gaps to the optimum, decision times, and the validity of every bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from pydantic import TypeAdapter

from gainnet.orchestrator.matcher import Matcher, build
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem
from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.scenario.matcher import MatcherConfig

KINDS = ("random", "end", "nearest", "edge", "cloud", "greedy", "price", "neural", "diffusion")
EXACT_SIZES = (20, 40, 80)
LARGE_SIZE = 1000
PROBLEMS = 8
WARM_UP_FRAMES = 30
GROWN = (
    "network.topology.cells=100", "network.topology.blocks_x=10", "network.topology.blocks_y=10", "network.cloud.count=16",
)  # fmt: skip
REPEATS = 5
"""Decisions timed for each problem; the first, which may compile, is not."""

MEANING = {
    "certified_gap_mean": "mean gap to the plan's own bound: what it can promise without knowing the optimum",
    "optimal_share": "share of the problems that the exact matcher solved to optimality in a minute",
    "gap_mean": "mean relative gap to the exact plan (to price's bound at 1000 tasks)",
    "warm_decision_s_p50": "median decision time from the last prices, s",
    "decision_s_p50": "median decision time from nothing, s",
    "bound_violations": "plans whose bound was below the exact value; must be 0",
}

_CONFIG: TypeAdapter[MatcherConfig] = TypeAdapter(MatcherConfig)


def problems(tasks: int, count: int, seed: int) -> Iterator[Problem]:
    """``count`` problems of exactly ``tasks`` tasks, posed by the built-in vehicular scenarios in the middle of a run.

    Each has ten vehicles a task, so that about that many tasks arrive in a frame; every second one is posed without
    foresight, which leaves more contention to the matcher. 200 vehicles are what `vehicular` serves with ease, 800 more
    than it can; 10,000 get a hundred cells and their edges.
    """
    for index in range(count):
        name = ("vehicular", "vehicular-dense")[index % 2]
        overrides = [f"network.ends={10 * tasks}", f"seed={seed + index}", *(GROWN if tasks > max(EXACT_SIZES) else ())]
        run = Run(load(name, overrides + ["orchestrator.foresight=0"] * (index // 2 % 2)))
        for _ in range(WARM_UP_FRAMES):
            run.step()
        while (problem := run.observe()).tasks < tasks:
            run.commit(run.match())
        yield first_tasks(problem, tasks)


def first_tasks(problem: Problem, tasks: int) -> Problem:
    """The problem with its first ``tasks`` tasks only."""
    patterns = int(problem.task_ptr[tasks])
    entries = int(problem.demand_ptr[patterns])
    return dataclasses.replace(
        problem,
        task_ptr=problem.task_ptr[: tasks + 1],
        value=problem.value[:patterns],
        demand_ptr=problem.demand_ptr[: patterns + 1],
        demand_row=problem.demand_row[:entries],
        demand_amount=problem.demand_amount[:entries],
        setup=problem.setup[:patterns],
        tier=problem.tier[:patterns],
        nearest=problem.nearest[:patterns],
    )


def figures(quick: bool = False) -> dict[str, float]:
    """Mean gap and median decision time of each matcher by number of tasks, and how many bounds were invalid.

    ``<matcher>.n<tasks>.gap_mean`` is relative to the exact matcher's plan up to 80 tasks (optimal, or the best that anyone
    has after a minute: see ``exact.n<tasks>.optimal_share``), and to the price matcher's bound at 1000.
    ``decision_s_p50`` is of cold decisions (no prices from a last frame);
    ``price.n<tasks>.warm_decision_s_p50`` of warm ones. ``bound_violations`` counts bounds below the value of the
    exact plan, over all matchers and problems.
    """
    found: dict[str, float] = {"bound_violations": 0.0}
    for tasks in EXACT_SIZES[:2] if quick else EXACT_SIZES:
        found_violations = found["bound_violations"]
        found |= _compare(tasks, 4 if quick else PROBLEMS, exact_s=10.0 if quick else 60.0)
        found["bound_violations"] += found_violations
    found_violations = found["bound_violations"]
    found |= _compare(LARGE_SIZE, 2 if quick else 4, exact_s=None)
    found["bound_violations"] += found_violations
    return found


def _compare(tasks: int, count: int, exact_s: float | None) -> dict[str, float]:
    """The figures of one size; ``exact_s`` limits the exact matcher, None does without it."""
    matchers = {kind: build(_CONFIG.validate_python({"kind": kind})) for kind in KINDS}
    gaps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "warm")}
    certified: dict[str, list[float]] = {kind: [] for kind in KINDS}
    invalid, optimal = 0, []
    for problem in problems(tasks, count, seed=1):
        plans = {kind: _timed(matcher, problem, np.zeros(problem.rows)) for kind, matcher in matchers.items()}
        reference = plans["price"][0].bound
        if exact_s is not None:
            exact = build(_CONFIG.validate_python({"kind": "exact", "time_limit_s": exact_s, "relative_gap": 1e-6}))
            best = exact.match(problem, np.zeros(problem.rows), np.random.default_rng(1))
            optimal.append(best.status is Status.OPTIMAL)
            reference = max(best.value, *(plan.value for plan, _ in plans.values()))
            invalid += sum(plan.bound < reference * (1.0 - 1e-9) for plan, _ in plans.values())
        for kind, (plan, seconds) in plans.items():
            gaps[kind].append(1.0 - plan.value / reference)
            certified[kind].append(plan.gap)
            times[kind].append(seconds)
        times["warm"].append(_timed(matchers["price"], problem, plans["price"][0].price)[1])
    found = {f"{kind}.n{tasks}.gap_mean": float(np.mean(gaps[kind])) for kind in KINDS}
    found |= {f"{kind}.n{tasks}.certified_gap_mean": float(np.mean(certified[kind])) for kind in KINDS}
    if optimal:
        found[f"exact.n{tasks}.optimal_share"] = float(np.mean(optimal))
    found |= {f"{kind}.n{tasks}.decision_s_p50": float(np.median(times[kind])) for kind in KINDS}
    found[f"price.n{tasks}.warm_decision_s_p50"] = float(np.median(times["warm"]))
    found["bound_violations"] = float(invalid)
    return found


def _timed(matcher: Matcher, problem: Problem, warm: np.ndarray) -> tuple[Plan, float]:
    """A plan, and the median time of the decisions after the first, in s."""
    plans = [matcher.match(problem, warm, np.random.default_rng(1)) for _ in range(REPEATS)]
    return plans[0], float(np.median([plan.decision_s for plan in plans[1:]]))
