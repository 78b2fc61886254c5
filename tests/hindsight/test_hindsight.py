"""The hindsight bound: no matcher exceeds it, it is 1 where nothing is scarce, and its dual meets enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gainnet.hindsight.dual import Dual, Relaxation, bound, intervals
from gainnet.hindsight.hindsight import hindsight
from gainnet.hindsight.links import Fading, efficiency, most_over
from gainnet.hindsight.options_kernel import BLOCK_S, COST, END_S, FIXED_S, OPTION_FLOATS
from gainnet.measurement.metrics import report
from gainnet.network import link
from gainnet.run import Run, simulate
from gainnet.scenario.load import change, load
from gainnet.scenario.scenario import Scenario

CAMPUS = load("campus", duration_s=6.0)
STARVED = change(
    CAMPUS,
    [
        "network.ends=100",
        "demand.services.pictures.arrivals.rate_per_end_per_s=0.3",
        "demand.services.pictures.deadline_s=1.5",
        "network.edge={hardware: phone-soc, resident: [llama-3.2-1b-int4]}",
        "network.cloud={hardware: edge-accelerator, resident: [llama-3.2-3b, stable-diffusion-1.5]}",
    ],
)
FAULTS = (
    "[{kind: sensing_outage, begin_s: 1, end_s: 4}, {kind: edge_down, edge: 1, begin_s: 1, end_s: 3}, "
    "{kind: cell_outage, cell: 0, begin_s: 2, end_s: 5}, {kind: demand_surge, factor: 3, begin_s: 2, end_s: 4}]"
)
FAULTY = change(CAMPUS, [f"execution.faults={FAULTS}"])


def _reached(scenario: Scenario, kind: str) -> tuple[float, float, int]:
    record = simulate(change(scenario, [f"orchestrator.matcher={kind}"])).record
    assert record is not None
    found = report(record)
    due = int(np.count_nonzero(record.tasks["deadline_s"] <= record.run_s + 1e-9))
    return found["qos"]["satisfaction"], found["qos"]["return"], due


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [(CAMPUS, 0), (STARVED, 0), (STARVED, 1), (FAULTY, 0), (FAULTY, 1)],
    ids=["campus", "starved", "starved again", "faulty", "faulty again"],
)
@pytest.mark.untraced
@pytest.mark.slow
@pytest.mark.untraced
def test_no_matcher_exceeds_it(scenario: Scenario, seed: int) -> None:
    scenario = change(scenario, seed=seed)
    found = hindsight(scenario)
    assert found.satisfaction is not None
    assert found.value_return is not None
    for kind in ("random", "end", "nearest", "cloud", "greedy", "price"):
        satisfaction, value_return, due = _reached(scenario, kind)
        assert found.tasks == due
        assert satisfaction <= found.satisfaction + 1e-9
        assert value_return <= found.value_return + 1e-9


@pytest.mark.untraced
def test_where_nothing_is_scarce_it_is_the_share_that_can_be_served() -> None:
    assert hindsight(CAMPUS).satisfaction == 1.0
    faulty = hindsight(FAULTY)
    assert faulty.satisfaction == pytest.approx(faulty.possible / faulty.tasks)
    assert faulty.possible < faulty.tasks  # nobody perceives while sensing is down


@pytest.mark.compiles
def test_where_something_is_scarce_it_says_so() -> None:
    found = hindsight(STARVED)
    assert found.satisfaction is not None
    assert found.satisfaction < found.possible / found.tasks <= 1.0


@pytest.mark.untraced
def test_the_scenarios_matcher_does_not_matter() -> None:
    assert hindsight(change(CAMPUS, ["orchestrator.matcher=end"])) == hindsight(CAMPUS)


def test_nothing_due_is_no_bound() -> None:
    found = hindsight(change(CAMPUS, duration_s=0.2))
    assert (found.satisfaction, found.value_return, found.tasks) == (None, None, 0)


def _tiny(seed: int, tasks: int = 6) -> tuple[Relaxation, np.ndarray, np.ndarray]:
    """Random tasks of two options each (an end, a machine above) in 8 frames, their worths and values."""
    rng = np.random.default_rng(seed)
    tier = np.tile([0, 1], tasks)
    options = np.zeros((2 * tasks, OPTION_FLOATS))
    options[0::2, END_S] = rng.uniform(0.5, 2.0, tasks)
    options[1::2, FIXED_S], options[1::2, BLOCK_S] = rng.uniform(0.5, 2.0, (2, tasks))
    options[:, COST] = rng.uniform(0.0, 0.2, 2 * tasks)
    first = rng.integers(0, 6, tasks)
    last = np.minimum(first + rng.integers(0, 4, tasks), 7)
    value = rng.uniform(0.5, 2.0, tasks)
    given = np.stack([np.full(8, 0.8), np.full(8, 0.5), np.zeros(8)], axis=1)
    found = Relaxation(
        np.arange(0, 2 * tasks + 1, 2), tier, options, rng.integers(0, 2, tasks), first, last, given, end_given=0.25
    )
    return found, np.repeat(value, 2) - options[:, COST], value


def _best(given: Relaxation, worth: np.ndarray) -> float:
    """The best choice of whole options that keeps every interval there is, by trying all."""
    spans = [(a, b) for a in range(given.frames) for b in range(a + 1, given.frames + 1)]
    best = 0.0
    for pick in itertools.product((-1, 0, 1), repeat=len(given.user)):
        chosen = np.array([2 * i + p for i, p in enumerate(pick) if p >= 0], np.int64)
        total = float(worth[chosen].sum())
        if total > best and all(_fits(given, chosen, a, b) for a, b in spans):
            best = total
    return best


def _fits(given: Relaxation, chosen: np.ndarray, a: int, b: int) -> bool:
    inside = chosen[(given.first[chosen // 2] >= a) & (given.last[chosen // 2] < b)]
    options, gives = given.options[inside], given.given[a:b].sum(axis=0)
    ends = np.bincount(given.user[inside // 2], options[:, END_S], 2)
    drawn = options[:, FIXED_S].sum(), options[:, BLOCK_S].sum()
    return bool(drawn[0] <= gives[1] and drawn[1] <= gives[0] and (ends <= given.end_given * (b - a)).all())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.untraced
def test_the_dual_bounds_what_enumeration_finds(seed: int) -> None:
    given, worth, value = _tiny(seed)
    found = bound(Dual(given, [1, 2, 4], [1, 2, 4]), worth, value, turns=100)
    assert _best(given, worth) <= found + 1e-9
    assert found <= worth.reshape(-1, 2).max(axis=1).sum() + 1e-9


def test_the_dual_is_tight_where_the_linear_program_is_whole() -> None:
    """Five tasks of one option that takes a whole node-second of the three there are: the best three are served."""
    options = np.zeros((5, OPTION_FLOATS))
    options[:, FIXED_S] = 1.0
    given = Relaxation(
        np.arange(6), np.ones(5, np.int64), options, np.arange(5), np.zeros(5, np.int64), np.full(5, 2),
        np.ones((3, 3)), end_given=1.0,
    )  # fmt: skip
    worth = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    assert bound(Dual(given, [2], [2]), worth, worth, turns=200) == pytest.approx(12.0, rel=1e-3)


@pytest.mark.untraced
def test_any_prices_bound_and_the_slope_is_the_functions() -> None:
    given, worth, value = _tiny(3)
    dual, rng = Dual(given, [2], [2]), np.random.default_rng(1)
    least = bound(dual, worth, value, turns=300)
    for _ in range(20):
        assert dual.evaluate(rng.uniform(0.0, 2.0, dual.size), worth, None)[0] >= _best(given, worth) - 1e-9
    prices, heat = rng.uniform(0.1, 1.0, dual.size), 0.1 * value
    slope = dual.evaluate(prices, worth, heat)[1]
    for row in range(dual.size):
        step = np.eye(dual.size)[row] * 1e-6
        above, below = (dual.evaluate(prices + sign * step, worth, heat)[0] for sign in (1.0, -1.0))
        assert slope[row] == pytest.approx((above - below) / 2e-6, abs=1e-5)
    assert least <= dual.evaluate(prices, worth, None)[0]


def test_intervals_cover_the_run() -> None:
    found = intervals(10, [4, 20])
    assert found[0].tolist() == [0, 10]
    assert found[1:, 1].max() == 10
    assert (np.diff(found[1:]) == 4).all()


def test_the_largest_of_a_window() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(13, 3))
    user, first = rng.integers(0, 3, 50), rng.integers(0, 13, 50)
    last = np.minimum(first + rng.integers(-1, 9, 50), 12)
    expected = [values[a : b + 1, u].max(initial=0.0) for u, a, b in zip(user, first, last, strict=True)]
    np.testing.assert_array_equal(most_over(values, user, first, last), expected)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.untraced
def test_no_link_of_a_run_is_better_than_its_bound(seed: int) -> None:
    scenario = change(CAMPUS, seed=seed)
    run, fading = Run(scenario), Fading(scenario.network, seed=seed, frame_s=scenario.frame_s)
    flat = link.ladder(scenario.network.radio)[:, 0]
    for _ in range(40):
        state = run.step().state
        power = fading.advance(state.velocity_m_per_s)
        down, up, clear = run.network.alone()
        for level, truth in ((down, state.truth.downlink_bit_per_s_hz), (up, state.truth.uplink_bit_per_s_hz)):
            assert (truth.max(axis=1) <= efficiency(level, clear, power, flat) + 1e-9).all()
