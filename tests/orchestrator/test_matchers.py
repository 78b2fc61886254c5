"""One contract for every matcher, judged by the independent checker and by the exact matcher."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from problems import CLOUD, EDGE, END, Column, assemble, assignment, network
from pydantic import TypeAdapter, ValidationError

from gainnet.orchestrator.bound import ascend, dual_bound
from gainnet.orchestrator.checker import value_of, violations
from gainnet.orchestrator.matcher import build
from gainnet.orchestrator.plan import Plan, Status
from gainnet.orchestrator.problem import Problem
from gainnet.scenario.matcher import MATCHER_KINDS, MatcherConfig

ADAPTER: TypeAdapter[MatcherConfig] = TypeAdapter(MatcherConfig)
NONE = (-1, -1)
TIERS = {"end": END, "edge": EDGE, "cloud": CLOUD}


def match(kind: str, problem: Problem, *, seed: int = 1, warm: np.ndarray | None = None, **knobs: object) -> Plan:
    matcher = build(ADAPTER.validate_python({"kind": kind, **knobs}))
    prices = np.zeros(problem.rows) if warm is None else warm
    return matcher.match(problem, prices, np.random.default_rng(seed))


@cache
def drawn(index: int) -> tuple[Problem, Plan]:
    """A problem of the contract suite and its optimum."""
    rng = np.random.default_rng(index)
    scarcity = (0.0, 0.8, 1.5, 3.0)[index % 4]
    problem = assignment(rng, 3, 12) if index == 4 else network(rng, 6 + 2 * index, scarcity, cells=3, edges=3)
    return problem, match("exact", problem, relative_gap=0.0)


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("kind", MATCHER_KINDS)
@pytest.mark.untraced
def test_contract(kind: str, index: int) -> None:
    problem, best = drawn(index)
    assert best.status is Status.OPTIMAL
    plan = match(kind, problem)
    assert violations(problem, plan) == []
    assert plan.value == pytest.approx(value_of(problem, plan))
    assert plan.value <= best.value * (1.0 + 1e-6)
    assert plan.bound >= best.value * (1.0 - 1e-9)
    assert 0.0 <= plan.gap <= 1.0
    assert plan.decision_s > 0.0
    assert np.isfinite(plan.price).all()
    # The prices alone repeat a certificate: an equal split of set-ups bounds less tightly, but bounds.
    assert dual_bound(problem, plan.price) >= best.value * (1.0 - 1e-9)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_same_generator_same_plan(kind: str) -> None:
    problem, _ = drawn(2)
    first, again = match(kind, problem, seed=3), match(kind, problem, seed=3)
    np.testing.assert_array_equal(first.choice, again.choice)
    np.testing.assert_array_equal(first.price, again.price)
    assert (first.value, first.bound) == (again.value, again.bound)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_no_tasks(kind: str) -> None:
    plan = match(kind, assemble([], np.ones(3), [(0, 1.0, 1.0)]))
    assert plan.status is Status.EMPTY
    assert (len(plan.choice), len(plan.price), plan.value, plan.bound, plan.gap) == (0, 3, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_nothing_to_give(kind: str) -> None:
    column = Column(5.0, {0: 1.0}, NONE, EDGE, True)
    bare = assemble([[column], [], [Column(-1.0, {}, NONE, END, False)]], np.zeros(1))
    plan = match(kind, bare)
    assert violations(bare, plan) == []
    np.testing.assert_array_equal(plan.choice, -1)
    assert (plan.value, plan.bound, plan.status) == (0.0, 0.0, Status.OPTIMAL)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_no_rows(kind: str) -> None:
    tasks = [[Column(1.0, {}, NONE, tier, tier == EDGE) for tier in (END, EDGE, CLOUD)]] * 2
    plan = match(kind, assemble(tasks, np.zeros(0)))
    assert (plan.value, plan.status) == (2.0, Status.OPTIMAL)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_one_row_is_a_knapsack(kind: str) -> None:
    sizes = [(60.0, 10.0), (100.0, 20.0), (120.0, 30.0)]
    problem = assemble([[Column(value, {0: size}, NONE, EDGE, True)] for value, size in sizes], np.array([50.0]))
    plan = match(kind, problem)
    assert violations(problem, plan) == []
    assert plan.bound >= 220.0
    if kind in ("price", "exact"):
        assert plan.value == pytest.approx(220.0)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_units_do_not_matter(kind: str) -> None:
    rng = np.random.default_rng(7)
    plain = network(rng, 12, 1.5, cells=3, edges=3)
    unit = rng.uniform(1e-6, 1e12, plain.rows)
    large = Problem(
        plain.task_ptr, plain.value * 1e12, plain.demand_ptr, plain.demand_row,
        plain.demand_amount * unit[plain.demand_row], plain.capacity * unit, plain.row_id, plain.setup,
        plain.setup_row, plain.setup_size * unit[plain.setup_row], plain.setup_cost * 1e12, plain.tier, plain.nearest,
    )  # fmt: skip
    plan = match(kind, large)
    assert violations(large, plan) == []
    assert plan.value / 1e12 == pytest.approx(match(kind, plain).value, rel=0.02)


@pytest.mark.parametrize("kind", ["greedy", "price", "exact"])
def test_a_shared_set_up_is_paid_once(kind: str) -> None:
    share = [[Column(1.0, {0: 1.0}, (0, 1), EDGE, True), Column(0.3, {}, NONE, END, False)] for _ in range(4)]
    problem = assemble(share, np.array([4.0, 3.0]), [(1, 2.0, 0.4), (1, 1.0, 0.2)])
    plan = match(kind, problem)
    assert violations(problem, plan) == []
    np.testing.assert_array_equal(plan.choice, [0, 2, 4, 6])
    assert plan.value == pytest.approx(4.0 - 0.6)
    assert plan.status is Status.OPTIMAL


@pytest.mark.parametrize("kind", ["price", "exact"])
def test_a_set_up_too_dear_for_one_is_opened_for_many(kind: str) -> None:
    tasks = [[Column(1.0, {0: 1.0}, (0, -1), EDGE, True), Column(0.3, {}, NONE, END, False)] for _ in range(4)]
    problem = assemble(tasks, np.array([4.0]), [(-1, 0.0, 2.5)])
    assert match(kind, problem).value == pytest.approx(1.5)


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_set_ups_and_demands_share_memory(kind: str) -> None:
    # Weights 2 and cache 1 of 2.5: each alone would fit.
    column = Column(1.0, {0: 1.0}, (0, 0), EDGE, True)
    plan = match(kind, assemble([[column]], np.array([2.5]), [(0, 2.0, 0.0)]))
    assert (plan.choice[0], plan.bound) == (-1, 0.0)


@pytest.mark.parametrize("kind", ["end", "edge", "cloud", "nearest"])
def test_fixed_places_stay_in_place(kind: str) -> None:
    problem, _ = drawn(1)
    plan = match(kind, problem)
    taken = plan.choice[plan.choice >= 0]
    assert len(taken) > 0
    if kind == "nearest":
        assert (problem.nearest[taken] == 1).all()
    else:
        assert (problem.tier[taken] == TIERS[kind]).all()


def test_random_serves_whoever_fits() -> None:
    problem, _ = drawn(0)
    plans = [match("random", problem, seed=seed) for seed in range(3)]
    assert all((plan.choice >= 0).all() for plan in plans)
    assert len({tuple(plan.choice) for plan in plans}) == 3


def test_price_is_optimal_where_nothing_is_scarce() -> None:
    problem, best = drawn(0)
    plan = match("price", problem)
    assert plan.status is Status.OPTIMAL
    assert plan.value == pytest.approx(best.value)


@pytest.mark.untraced
def test_price_is_near_the_optimum_and_warm_prices_help() -> None:
    gaps, saved = [], []
    for seed in range(6):
        problem = network(np.random.default_rng(seed), 20, 1.5)
        best = match("exact", problem, time_limit_s=10.0, relative_gap=1e-3)
        plan = match("price", problem)
        gaps.append(1.0 - plan.value / best.value)
        warm = match("price", problem, warm=plan.price, iterations=10)
        saved.append(1.0 - warm.bound / match("price", problem, iterations=10).bound)
    assert np.mean(gaps) < 0.02
    assert np.mean(saved) > 0.0


@pytest.mark.compiles
def test_price_on_generalised_assignment() -> None:
    problem = assignment(np.random.default_rng(5), 5, 40)
    price, bound = ascend(problem, np.zeros(problem.rows), 300)
    plan = match("price", problem)
    assert violations(problem, plan) == []
    assert (plan.choice >= 0).all()
    # Values are 1000 less the cost, which is about 40 a job: the gap is that of the costs.
    assert bound - plan.value < 0.1 * (40 * 1000.0 - plan.value)
    assert (price >= 0.0).all()


def test_price_knobs_are_read() -> None:
    problem = network(np.random.default_rng(3), 30, 2.0)
    bare = match("price", problem, perturbations=0, effort=0)
    assert match("price", problem, perturbations=20, effort=0).value > bare.value
    assert match("price", problem, perturbations=0, effort=40).value > bare.value
    assert match("price", problem, iterations=200).bound < match("price", problem, iterations=3).bound


def test_exact_answers_at_its_time_limit() -> None:
    problem = network(np.random.default_rng(2), 60, 1.0, cells=6, edges=6)
    plan = match("exact", problem, time_limit_s=0.05)
    assert plan.status is Status.TIME_LIMIT
    assert violations(problem, plan) == []
    assert 0.0 < plan.gap < 0.2


def test_exact_keeps_standard_output_clean(capfd: pytest.CaptureFixture[str]) -> None:
    match("exact", network(np.random.default_rng(2003), 20, 2.0, setup_cost=1.0), time_limit_s=2.0)
    assert capfd.readouterr().out == ""


def test_unusable_warm_prices_do_no_harm() -> None:
    problem, best = drawn(3)
    for guess in (np.nan, np.inf, -1.0, 1e300):
        plan = match("price", problem, warm=np.full(problem.rows, guess))
        assert violations(problem, plan) == []
        assert plan.bound >= best.value * (1.0 - 1e-9)


def test_configurations_are_strict() -> None:
    with pytest.raises(ValidationError, match="random"):
        ADAPTER.validate_python({"kind": "best"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        ADAPTER.validate_python({"kind": "price", "speed": 1})
    assert set(MATCHER_KINDS) == {
        "random", "end", "nearest", "edge", "cloud", "greedy", "local", "price", "neural", "drl", "diffusion", "exact",
    }  # fmt: skip
