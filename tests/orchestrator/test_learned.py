"""Learned matchers: their checkpoints, what they predict, and what a policy does to a problem."""

from __future__ import annotations

import dataclasses
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from problems import network
from pydantic import TypeAdapter

from gainnet.errors import InputError
from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.bound import columns_of, dual_bound, unit_price
from gainnet.orchestrator.checker import violations
from gainnet.orchestrator.kernels.denoise import denoise
from gainnet.orchestrator.kernels.unrolled import stakes
from gainnet.orchestrator.matcher import build
from gainnet.orchestrator.matchers import diffusion, drl, neural
from gainnet.orchestrator.outlook import KINDS, OVERALL_FEATURES, RESOURCE_FEATURES, Outlook, Policy, Steering
from gainnet.orchestrator.problem import Problem
from gainnet.run import Run
from gainnet.scenario.load import load
from gainnet.scenario.matcher import MATCHER_KINDS, MatcherConfig

ADAPTER: TypeAdapter[MatcherConfig] = TypeAdapter(MatcherConfig)
LEARNED = {"neural": neural, "drl": drl, "diffusion": diffusion}


@pytest.mark.parametrize("kind", LEARNED)
def test_the_shipped_checkpoint_is_small_and_sound(kind: str) -> None:
    assert checkpoint.shipped(kind).stat().st_size < 1_000_000
    weights = LEARNED[kind].load(None)
    assert set(weights) == set(LEARNED[kind].SHAPES)


def _saved(path: Path, **changes: object) -> Path:
    weights = {name: np.asarray(w) for name, w in neural.load(None).items()}
    weights |= {name: np.asarray(w) for name, w in changes.items() if name in weights}
    notes = {name: str(value) for name, value in changes.items() if name not in weights}
    checkpoint.write_state(path, "neural", {n: w.astype(np.float32) for n, w in weights.items()}, notes)
    return path


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = _saved(tmp_path / "own.safetensors")
    for name, weight in neural.load(path).items():
        np.testing.assert_array_equal(weight, neural.load(None)[name])
    build(ADAPTER.validate_python({"kind": "neural", "checkpoint": str(path)}))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(pickle.dumps({"inward": [1.0]})), "pickled code"),
        (lambda path: path.write_bytes(b"PK\x03\x04 a torch archive"), "pickled code"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no complete safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:5]), "no complete safetensors"),
        (lambda path: path.write_bytes(b""), "no complete safetensors"),
        (lambda path: _saved(path, version="0"), "version '0': must be '1'"),
        (lambda path: _saved(path, kind="drl"), "'drl' weights: must be 'neural'"),
        (lambda path: _saved(path, inward=np.zeros((3, 3))), "inward has shape"),
        (lambda path: _saved(path, inward_bias=np.full(32, np.nan)), "no finite numbers"),
        (lambda path: checkpoint.write(path, "neural", {"other": np.zeros(2)}, {}), "has weights other"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path: Path, spoil, complaint: str) -> None:
    path = _saved(tmp_path / "bad.safetensors")
    spoil(path)
    with pytest.raises(InputError, match=complaint) as caught:
        neural.load(path)
    assert "\n" not in str(caught.value)
    assert "bad.safetensors" in str(caught.value)


def test_predicted_prices_beat_none_and_ignore_what_is_never_scarce() -> None:
    excess = []
    for seed in range(6):
        problem = network(np.random.default_rng(seed), 40, 2.0, setup_cost=0.0)
        columns = columns_of(problem)
        price, _ = neural.predict(neural.load(None), columns, problem.rows)
        assert np.isfinite(price).all()
        assert (price >= 0.0).all()
        _, stake, _ = stakes(columns, problem.rows)
        assert (price[stake == 0.0] == 0.0).all()
        free = dual_bound(problem, np.zeros(problem.rows))
        excess.append(dual_bound(problem, unit_price(price, problem.capacity)) / free)
    assert np.mean(excess) < 0.95


def test_predictions_have_no_units_and_no_order() -> None:
    problem = network(np.random.default_rng(5), 20, 2.0)
    weights, columns = neural.load(None), columns_of(problem)
    price, _ = neural.predict(weights, columns, problem.rows)
    scaled = dataclasses.replace(
        problem,
        value=problem.value * 1e3,
        setup_cost=problem.setup_cost * 1e3,
        demand_amount=problem.demand_amount * 7.0,
        setup_size=problem.setup_size * 7.0,
        capacity=problem.capacity * 7.0,
    )
    other, _ = neural.predict(weights, columns_of(scaled), problem.rows)
    np.testing.assert_allclose(other, price * 1e3, rtol=1e-6)


def test_samples_differ_and_stay_near_the_anchor() -> None:
    problem = network(np.random.default_rng(7), 40, 2.0)
    w, columns = diffusion.load(None), columns_of(problem)
    anchor, known = neural.predict(neural.load(None), columns, problem.rows)
    state = np.array([12345], np.uint64)
    samples = [
        denoise(columns, anchor, known, w["inward"], w["inward_bias"], w["outward"], w["levels"], state)
        for _ in range(4)
    ]
    active = anchor > 0.0
    for sample in samples:
        assert (sample[: problem.rows][~active] == 0.0).all()
        assert (np.abs(np.log(sample[: problem.rows][active] / anchor[active])) <= 3.0 + 1e-9).all()
    assert not np.array_equal(samples[0], samples[1])


def test_a_policy_of_zeros_changes_nothing() -> None:
    zeros = {name: np.zeros(shape) for name, shape in drl.SHAPES.items()}
    outlook = _outlook(np.random.default_rng(1))
    steering = drl.Actor(zeros).steer(outlook)
    assert not steering.residual.any()
    assert steering.margin is not None
    assert not steering.margin.any()
    assert steering.threshold == 0.0
    assert isinstance(drl.Actor(zeros), Policy)


def _outlook(rng: np.random.Generator) -> Outlook:
    kind = rng.integers(len(KINDS), size=9)
    return Outlook(kind, rng.random((9, len(RESOURCE_FEATURES))), rng.random(len(OVERALL_FEATURES)))


def test_each_kind_is_dearer_while_anything_fails() -> None:
    zeros = {name: np.zeros(shape) for name, shape in drl.SHAPES.items()}
    actor = drl.Actor(zeros | {"failing": np.array([0.5, 1.0, 1.5, 2.0])})
    outlook = _outlook(np.random.default_rng(3))
    healthy, sensing = RESOURCE_FEATURES.index("healthy"), OVERALL_FEATURES.index("sensing")
    outlook.resource[:, healthy] = outlook.overall[sensing] = 1.0
    assert not actor.steer(outlook).residual.any()
    dearer = np.array([0.5, 1.0, 1.5, 2.0])[outlook.kind]
    outlook.overall[sensing] = 0.0
    np.testing.assert_array_equal(actor.steer(outlook).residual, dearer)
    outlook.overall[sensing], outlook.resource[4, healthy] = 1.0, 0.3
    steering = actor.steer(outlook)
    np.testing.assert_array_equal(steering.residual, dearer)
    assert steering.margin is not None
    assert not steering.margin.any()


def test_a_policy_does_not_see_the_order_of_resources() -> None:
    rng = np.random.default_rng(2)
    weights = {name: rng.normal(size=shape) for name, shape in drl.SHAPES.items()}
    outlook, order = _outlook(rng), rng.permutation(9)
    shuffled = Outlook(outlook.kind[order], outlook.resource[order], outlook.overall)
    plain, mixed = drl.Actor(weights).steer(outlook), drl.Actor(weights).steer(shuffled)
    np.testing.assert_allclose(mixed.residual, plain.residual[order])
    np.testing.assert_allclose(mixed.margin, plain.margin[order])
    assert mixed.threshold == pytest.approx(plain.threshold)


class _Fixed:
    def __init__(self, residual: float, threshold: float, margin: float | None) -> None:
        self.given = residual, threshold, margin

    def steer(self, outlook: Outlook) -> Steering:
        residual, threshold, margin = self.given
        shared = len(outlook.kind)
        return Steering(np.full(shared, residual), threshold, None if margin is None else np.full(shared, margin))


def _posed(policy: Policy | None) -> tuple[np.ndarray, np.ndarray]:
    run = Run(load("vehicular", ["network.ends=60"], duration_s=3.0))
    for _ in range(12):
        run.step()
    run.orchestrator.policy = policy
    problem = run.observe()
    return problem.value, problem.capacity


@pytest.mark.untraced
def test_a_steering_does_what_it_says() -> None:
    value, capacity = _posed(None)
    for changes_nothing in (_Fixed(0.0, 0.0, None), _Fixed(0.0, 0.0, 0.0)):
        np.testing.assert_array_equal(_posed(changes_nothing)[0], value)
        np.testing.assert_array_equal(_posed(changes_nothing)[1], capacity)
    assert (_posed(_Fixed(1.0, 0.0, None))[0] <= value + 1e-15).all()
    assert _posed(_Fixed(1.0, 0.0, None))[0].sum() < value.sum()
    assert (_posed(_Fixed(-1.0, 0.0, None))[0] >= value - 1e-15).all()
    assert (_posed(_Fixed(0.0, 0.5, None))[0] < value).all()
    assert _posed(_Fixed(0.0, 0.0, -0.5))[1].sum() < capacity.sum()
    assert _posed(_Fixed(0.0, 0.0, 0.5))[1].sum() > capacity.sum()


@pytest.mark.parametrize("kind", MATCHER_KINDS)
def test_what_is_not_a_number_is_not_served(kind: str) -> None:
    problem = network(np.random.default_rng(3), 8, 1.0)
    value, amount = problem.value.copy(), problem.demand_amount.copy()
    value[::5] = np.nan
    value[1::17] = np.inf
    amount[::7] = np.nan
    broken = dataclasses.replace(problem, value=value, demand_amount=amount)
    plan = build(ADAPTER.validate_python({"kind": kind})).match(
        broken, np.zeros(problem.rows), np.random.default_rng(1)
    )
    chosen = plan.choice[plan.choice >= 0]
    assert np.isfinite(plan.value)
    assert np.isfinite(plan.bound)
    assert np.isfinite(value[chosen]).all()
    for p in chosen:
        assert np.isfinite(amount[problem.demand_ptr[p] : problem.demand_ptr[p + 1]]).all()


@cache
def _many(tasks: int) -> Problem:
    """Two patterns a task, one entry each, on 40 contended rows."""
    rng = np.random.default_rng(4)
    return Problem(
        task_ptr=2 * np.arange(tasks + 1),
        value=rng.uniform(1.0, 2.0, 2 * tasks),
        demand_ptr=2 * np.arange(2 * tasks + 1),
        demand_row=(rng.integers(20, size=(2 * tasks, 1)) + np.array([[0, 20]])).ravel(),
        demand_amount=rng.uniform(0.5, 1.5, 4 * tasks),
        capacity=np.full(40, 0.2 * tasks / 20),
        row_id=np.arange(40),
        setup=np.full((2 * tasks, 2), -1),
        setup_row=np.empty(0, np.int64),
        setup_size=np.empty(0),
        setup_cost=np.empty(0),
        tier=rng.integers(3, size=2 * tasks),
        nearest=np.ones(2 * tasks, np.int64),
    )


@pytest.mark.parametrize("kind", MATCHER_KINDS)
@pytest.mark.untraced
def test_ten_thousand_tasks_are_answered(kind: str) -> None:
    problem = _many(10_000)
    knobs = {"time_limit_s": 1.0} if kind == "exact" else {}
    plan = build(ADAPTER.validate_python({"kind": kind, **knobs})).match(
        problem, np.zeros(problem.rows), np.random.default_rng(1)
    )
    assert violations(problem, plan) == []
    assert plan.bound >= plan.value > 0.0
