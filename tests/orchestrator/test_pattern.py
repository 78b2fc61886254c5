"""Patterns: windows by the square-root law, demand equal to the stages' work, cost and quality worked out by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from gainnet.demand.task import Tasks
from gainnet.models import card
from gainnet.network import compute
from gainnet.network.compute_kernel import decode_step_s, denoise_s, prefill_s
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.share import chain_windows_s
from gainnet.run import Run
from gainnet.scenario.hardware import base_station
from tiny import CLOUD, EDGE, LARGE, SMALL, Driven

QUIET = {"foresight": 0.0, "reserve": 0.0}
TWO_CELLS = ((0.0, 0.0), (30.0, 0.0))
ALONE = {"load_initial": 1e-3}  # so little interference that ends may use their second cell


@numba.njit
def _windows(floats: np.ndarray, budget_s: float, pace: float, end_s: np.ndarray) -> tuple[float, float]:
    return pk.windows(floats, len(end_s), budget_s, pace, end_s)  # type: ignore[no-any-return]


def _chain(duration_s: np.ndarray, wait_s: np.ndarray) -> np.ndarray:
    floats = np.zeros((len(duration_s), sk.FLOAT_COLUMNS))
    floats[:, sk.AMOUNT], floats[:, sk.UNIT], floats[:, sk.RATE] = 6.0 * duration_s, 0.5, 3.0
    floats[:, sk.WAIT] = wait_s
    return floats


LENGTHS = st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.floats(0.0, 2.0), st.floats(0.1, 5.0), st.floats(0.3, 1.0))
@pytest.mark.untraced
def test_windows_share_the_slack_by_the_square_root_law(
    lengths: list[float], wait: float, ratio: float, pace: float
) -> None:
    duration_s, end_s = np.array(lengths), np.empty(len(lengths))
    wait_s = np.full(len(lengths), wait)
    budget_s = ratio * (duration_s.sum() + wait_s.sum())
    least, planned = _windows(_chain(duration_s, wait_s), budget_s, pace, end_s)
    assert least == pytest.approx(duration_s.sum() + wait_s.sum())
    assert planned == pytest.approx(max(least, pace * budget_s))
    assert end_s[-1] == pytest.approx(planned)
    slack_s = np.diff(end_s, prepend=0.0) - duration_s - wait_s
    extra, _ = chain_windows_s(duration_s, np.ones(len(lengths)), max(planned - least, 0.0) or 1e-300)
    np.testing.assert_allclose(slack_s, extra, atol=1e-9 * max(planned, 1.0))


def _asked() -> list[Tasks]:
    return [
        tiny.tasks(3, user=[0, 1, 2], prompt_token=[50, 2000, 90], quality_min=[0.0, 0.6, 0.4]),
        tiny.image(3, user=[3, 0, 1], step=[8.0, 13.0, 30.0], adapter=[-1, 3, 4], quality_min=[0.3, 0.5, 0.7]),
        tiny.perception(3, user=[0, 1, 2], quality_min=[0.1, 0.45, 0.6]),
        tiny.learning(1, user=2),
    ]


def _pose(
    *given_tasks: Tasks, scale: float = 1.0, bid: np.ndarray | None = None, **orchestrator: Any
) -> tuple[Run, Posed]:
    scenario = tiny.scenario(cells=TWO_CELLS, network=ALONE, orchestrator={**QUIET, **orchestrator})
    driven = Driven(scenario, *(given_tasks or _asked()))
    run = driven.run
    if bid is not None:
        run.orchestrator._bid[:] = bid
    run.observe()
    assert run._posed is not None
    return run, run._posed


@cache
def posed() -> tuple[Run, Posed]:
    return _pose()


def _owner(found: Posed) -> np.ndarray:
    return np.repeat(np.arange(found.problem.tasks), np.diff(found.problem.task_ptr))


def _demand(found: Posed, p: int) -> dict[int, float]:
    """What a pattern draws on each pool row."""
    entries = slice(found.problem.demand_ptr[p], found.problem.demand_ptr[p + 1])
    rows = found.problem.row_id[found.problem.demand_row[entries]]
    return dict(zip(rows.tolist(), found.problem.demand_amount[entries].tolist(), strict=True))


def test_every_task_has_patterns_of_every_tier() -> None:
    _, found = posed()
    tiers = [set(found.problem.tier[_owner(found) == i].tolist()) for i in range(found.problem.tasks)]
    by_service = dict(zip(found.tasks.service.tolist(), tiers, strict=True))
    assert by_service[tiny.PERCEPTION] == {0, 1, 2} or by_service[tiny.PERCEPTION] == {1, 2}
    assert {1, 2} <= by_service[tiny.TEXT]
    assert by_service[tiny.LEARNING] == {-1}


def test_patterns_meet_the_deadline_and_the_quality() -> None:
    _, found = posed()
    owner, tasks = _owner(found), found.tasks
    budget_s = tasks.deadline_s[owner]
    least_s, planned_s = found.floats[:, pk.ASAP_S], found.floats[:, pk.COMPLETION_S]
    assert (least_s <= budget_s).all()
    np.testing.assert_allclose(planned_s, np.maximum(least_s, 0.7 * budget_s))
    assert (found.floats[:, pk.QUALITY] >= tasks.quality_min[owner]).all()
    assert (found.problem.value > 0.0).all()
    assert (found.ints[:, sk.TASK] == owner).all()


def test_a_task_that_asks_too_much_has_no_pattern() -> None:
    good, late, fine = tiny.tasks(1), tiny.tasks(1, user=1, deadline_s=1e-4), tiny.tasks(1, user=2, quality_min=0.99)
    worthless = tiny.tasks(1, user=3, value=1e-12)
    _, found = _pose(good, late, fine, worthless)
    assert (np.diff(found.problem.task_ptr) > 0).tolist() == [True, False, False, False]


def test_adapters_and_steps_give_an_image_its_quality() -> None:
    run, found = posed()
    tables = run.orchestrator.tables
    for p in np.flatnonzero(found.tasks.service[_owner(found)] == tiny.IMAGE):
        i, step = found.ints[p, sk.TASK], found.floats[p, pk.STEP]
        model, adapter = found.ints[p, sk.MODEL], found.ints[p, sk.ADAPTER]
        assert adapter == found.tasks.adapter[i]
        assert step in [math.ceil(part * found.tasks.step[i]) for part in (1.0, 0.7, 0.5)]
        quality = 0.8 * (1.0 - math.exp(-step / 8.0)) + (0.05 if adapter >= 0 else 0.0)
        assert found.floats[p, pk.QUALITY] == pytest.approx(quality)
        assert tables.artifact["quality"][model] == 0.8


def test_the_fixed_tiers_find_their_flags() -> None:
    run, found = posed()
    problem, cell_edge = found.problem, run.network.topology.cell_edge
    tier = run.orchestrator.tables.node["tier"]
    learning = found.tasks.service[_owner(found)] == tiny.LEARNING
    node, cell = found.ints[:, sk.NODE], found.ints[:, sk.CELL]
    np.testing.assert_array_equal(problem.tier[~learning], tier[node[~learning]])
    assert (problem.tier[learning] == -1).all()
    strongest = cell == np.array([run._state.candidate[u, 0] for u in found.tasks.user[_owner(found)]])  # type: ignore[union-attr]
    own = (cell >= 0) & (node == cell_edge[np.maximum(cell, 0)])
    np.testing.assert_array_equal(problem.nearest == 1, strongest & own)
    assert (own & ~strongest).any()
    assert 0 < np.count_nonzero(problem.nearest) < problem.patterns


def _by_hand(run: Run, found: Posed, p: int) -> dict[str, float]:
    """Work on each resource of a pattern of a text task that no cell senses, from the definition of the stages."""
    state, scenario, pool = run._state, run.scenario, run.orchestrator.pool
    assert state is not None
    cards = card.build(scenario.artifacts, scenario.models)
    nodes = compute.build(scenario.network, clouds=1, edges=2)
    i, node, model = found.ints[p, sk.TASK], found.ints[p, sk.NODE], found.ints[p, sk.MODEL]
    user, cell = found.tasks.user[i], found.ints[p, sk.CELL]
    prompt, output = found.tasks.prompt_token[i], found.tasks.output_token[i]
    machine = (nodes.flop_per_s[node], nodes.byte_per_s[node])
    per = (cards.flop_per_token[model], cards.attention_flop_per_token2[model], cards.kv_byte_per_token[model])
    whole = (*per, cards.size_byte[model], *machine)
    compute_s = prefill_s(prompt, *whole) + output * decode_step_s(1.0, prompt + output / 2.0, *whole)
    work = {"compute": compute_s, "up": 0.0, "down": 0.0}
    if node < pool.fixed:
        k = int(np.flatnonzero(state.candidate[user] == cell)[0])
        hz = run.network.block_hz
        work["up"] = found.tasks.uplink_bit[i] / (state.observed.uplink_bit_per_s_hz[user, k] * hz)
        work["down"] = found.tasks.downlink_bit[i] / (state.observed.downlink_bit_per_s_hz[user, k] * hz)
        work["uplink_w"] = state.uplink_power_w[user, k]
    return work


@pytest.mark.parametrize("node", [EDGE, CLOUD, -1])
def test_cost_energy_and_demand_of_a_text_pattern_by_hand(node: int) -> None:
    run, found = posed()
    tables, pool = run.orchestrator.tables, run.orchestrator.pool
    text = found.tasks.service[_owner(found)] == tiny.TEXT
    where = found.ints[:, sk.NODE] >= pool.fixed if node < 0 else found.ints[:, sk.NODE] == node
    chosen = np.flatnonzero(text & where)
    assert len(chosen) > 0
    radio = base_station(run.scenario.network.radio.base_station)
    cell_j = radio.slope * run.network.block_power_w
    for p in chosen.tolist():
        work = _by_hand(run, found, p)
        at, cell = int(found.ints[p, sk.NODE]), int(found.ints[p, sk.CELL])
        energy_j = work["compute"] * tables.node["busy_w"][at] + work["down"] * cell_j
        energy_j += work["up"] * work.get("uplink_w", 0.0) / 0.3
        price = run.scenario.orchestrator.objective.energy_price_per_j
        cost = work["compute"] * tables.node["price_per_s"][at] + price * energy_j
        i = found.ints[p, sk.TASK]
        assert found.floats[p, pk.ENERGY_J] == pytest.approx(energy_j)
        assert found.floats[p, pk.COST] == pytest.approx(cost)
        tight = found.floats[p, pk.ASAP_S] / found.tasks.deadline_s[i]
        pace = run.scenario.orchestrator.pace
        likely = min(1.0, (1.0 - tight) / (1.0 - pace)) if pace < 1.0 else 1.0
        worth = found.tasks.value[i] * (1.0 + 0.1 * (1.0 - tight)) * likely - cost
        assert found.problem.value[p] == pytest.approx(worth)
        demand, last = _demand(found, p), pool.slots - 1
        resource = pool.compute_start + at if at < pool.fixed else pool.end_start + at - pool.fixed
        assert demand[resource * pool.slots + last] == pytest.approx(work["compute"])
        if cell >= 0:
            assert demand[cell * pool.slots + last] == pytest.approx(work["up"] + work["down"])
        kv = tables.artifact["kv_byte_per_token"][found.ints[p, sk.MODEL]]
        cache_byte = (found.tasks.prompt_token[i] + found.tasks.output_token[i]) * kv
        assert demand[pool.memory_start + at] == pytest.approx(cache_byte)


def test_the_work_of_an_image_is_its_denoising() -> None:
    run, found = posed()
    tables, pool = run.orchestrator.tables, run.orchestrator.pool
    images = np.flatnonzero((found.tasks.service[_owner(found)] == tiny.IMAGE) & (found.ints[:, sk.NODE] == EDGE))
    assert len(images) > 0
    for p in images:
        artifact, node = tables.artifact[found.ints[p, sk.MODEL]], tables.node[EDGE]
        work_s = denoise_s(
            found.floats[p, pk.STEP], 1.0, artifact["step_flop"], artifact["fixed_flop"], artifact["overhead_s"],
            artifact["size_byte"], node["flop_per_s"], node["byte_per_s"],
        )  # fmt: skip
        row = (pool.compute_start + EDGE) * pool.slots + pool.slots - 1
        assert _demand(found, int(p))[row] == pytest.approx(work_s)


def test_work_draws_on_the_row_in_which_it_is_due_and_on_all_later_ones() -> None:
    run, found = posed()
    pool = run.orchestrator.pool
    single = 0
    for p in range(found.problem.patterns):
        demand = _demand(found, p)
        by_resource: dict[int, list[tuple[int, float]]] = {}
        for row, amount in demand.items():
            if row < pool.memory_start:
                by_resource.setdefault(row // pool.slots, []).append((row % pool.slots, amount))
        for entries in by_resource.values():
            slots, amounts = zip(*sorted(entries), strict=True)
            assert slots == tuple(range(slots[0], pool.slots))
            assert (np.diff(amounts) >= -1e-12).all()
        compute_rows = [r for r in by_resource if pool.compute_start <= r < pool.link_start]
        if found.problem.tier[p] == 0 and found.tasks.service[found.ints[p, sk.TASK]] == tiny.TEXT:
            first = sorted(by_resource[compute_rows[0]])[-1][1]
            due_slot = int(np.searchsorted(pool.slot_edge_s[1:], found.floats[p, pk.COMPLETION_S]))
            assert dict(by_resource[compute_rows[0]])[due_slot] == pytest.approx(first)
            single += 1
    assert single > 0


def test_what_is_forgone_is_in_proportion_to_the_bids() -> None:
    run, found = posed()
    unit = np.zeros(run.orchestrator.pool.resources)
    unit[run.orchestrator.pool.compute_start + EDGE] = 1e-2
    once, twice = (_pose(bid=scale * unit)[1] for scale in (1.0, 2.0))
    np.testing.assert_array_equal(once.ints, found.ints)
    forgone = found.problem.value - once.problem.value
    np.testing.assert_allclose(found.problem.value - twice.problem.value, 2.0 * forgone, atol=1e-12)
    at_edge = found.ints[:, sk.NODE] == EDGE
    assert (forgone[at_edge] > 0.0).all()
    np.testing.assert_allclose(forgone[~at_edge], 0.0, atol=1e-12)


def test_what_a_text_at_home_forgoes_by_hand() -> None:
    """All of its decoding, and the part of the prefill's window that lies after the coming frame."""
    bid = 1e-2
    home = np.zeros(len(posed()[0].orchestrator.pool.capacity_per_s))
    home[posed()[0].orchestrator.pool.end_start] = bid
    asked = tiny.tasks(1, quality_min=0.0)
    (run, free), (_, charged) = _pose(asked), _pose(asked, bid=home)
    at_home = np.flatnonzero((free.problem.tier == 0) & (free.floats[:, pk.WAIT_S] == 0.0))
    assert len(at_home) == 1
    p = int(at_home[0])
    cards = card.build(run.scenario.artifacts, run.scenario.models)
    nodes, model = compute.build(run.scenario.network, clouds=1, edges=2), free.ints[p, sk.MODEL]
    per = (cards.flop_per_token[model], cards.attention_flop_per_token2[model], cards.kv_byte_per_token[model])
    whole = (*per, cards.size_byte[model], nodes.flop_per_s[-1], nodes.byte_per_s[-1])
    prefill, decode = prefill_s(100.0, *whole), 10.0 * decode_step_s(1.0, 105.0, *whole)
    slack = 0.7 * 5.0 - prefill - decode
    first_s = prefill + slack * math.sqrt(prefill) / (math.sqrt(prefill) + math.sqrt(decode))
    expected = bid * (decode + prefill * (first_s - tiny.FRAME_S) / first_s)
    assert free.problem.value[p] - charged.problem.value[p] == pytest.approx(expected, rel=1e-6)


def test_what_is_used_in_the_coming_frame_is_forgone_by_nobody() -> None:
    bid = np.full(len(posed()[0].orchestrator.pool.capacity_per_s), 1e-3)
    soon = tiny.tasks(1, deadline_s=0.1)
    free, charged = _pose(soon, bid=0.0 * bid)[1], _pose(soon, bid=bid)[1]
    assert free.problem.patterns > 0
    np.testing.assert_allclose(charged.problem.value, free.problem.value, atol=1e-15)


def test_a_model_that_is_loaded_costs_nothing_to_set_up_and_one_that_is_not_its_loading() -> None:
    run, found = posed()
    artifacts, problem = run.scenario.artifacts, found.problem
    tables = run.orchestrator.tables
    for p in np.flatnonzero(found.tasks.service[_owner(found)] == tiny.TEXT):
        setup, model = problem.setup[p, 0], found.ints[p, sk.MODEL]
        node = found.ints[p, sk.NODE]
        assert problem.setup_size[setup] == tables.artifact["size_byte"][model]
        assert problem.row_id[problem.setup_row[setup]] == run.orchestrator.pool.memory_start + node
        absent = node >= run.orchestrator.pool.fixed and artifacts[model] == LARGE
        assert (problem.setup_cost[setup] > 0.0) == absent
        assert (found.floats[p, pk.WAIT_S] > 1.0) == absent
        assert artifacts[model] in (SMALL, LARGE)


def test_a_machine_that_is_down_and_a_cell_that_is_out_are_in_no_pattern() -> None:
    faults = [
        {"kind": "edge_down", "edge": 0, "begin_s": 0.0, "end_s": 1.0},
        {"kind": "cell_outage", "cell": 1, "begin_s": 0.0, "end_s": 1.0},
    ]
    driven = Driven(tiny.scenario(cells=TWO_CELLS, execution={"faults": faults}), *_asked())
    found = driven.frame().posed
    assert found.problem.patterns > 0
    assert not (found.ints[:, sk.NODE] == EDGE).any()
    assert not (found.ints[:, sk.CELL] == 1).any()


def test_tasks_that_are_not_matched_go_to_the_nearest_edge_and_leave_the_rest_to_the_others() -> None:
    services = {**tiny.SERVICES, "learning": {**tiny.SERVICES["learning"], "placement": "nearest"}}
    asked = [*_asked(), tiny.learning(1, user=3, value=1e-9)]

    def found_with(**top: Any) -> tuple[Run, Posed]:
        driven = Driven(tiny.scenario(cells=TWO_CELLS, network=ALONE, orchestrator=QUIET, **top), *asked)
        driven.run.observe()
        return driven.run, driven.run.posed

    (_, usual), (run, found) = found_with(), found_with(demand={"services": services})
    apart = found.tasks.service == tiny.LEARNING
    assert usual.placed is None
    assert found.placed is not None
    assert (found.placed[~apart] == -1).all()
    assert (found.placed[apart] >= found.problem.patterns).all()
    assert (np.diff(found.problem.task_ptr)[apart] == 0).all()
    plan = run.match()
    assert (plan.choice[apart] == -1).all()
    np.testing.assert_array_equal(found.choice(plan)[~apart], plan.choice[~apart])
    chosen = found.ints[found.placed[apart]]
    strongest = run._state.candidate[found.tasks.user[apart], 0]  # type: ignore[union-attr]
    np.testing.assert_array_equal(chosen[:, sk.CELL], strongest)
    np.testing.assert_array_equal(chosen[:, sk.NODE], run.network.topology.cell_edge[strongest])
    numbers = found.floats[found.placed[apart]]
    np.testing.assert_allclose(numbers[:, pk.COMPLETION_S], numbers[:, pk.ASAP_S])
    others = ~apart[_owner(found)]
    assert others.all()
    kept = usual.problem.value[(usual.tasks.service != tiny.LEARNING)[_owner(usual)]]
    np.testing.assert_array_equal(found.problem.value, kept)
    free = dict(zip(usual.problem.row_id.tolist(), usual.problem.capacity.tolist(), strict=True))
    left = dict(zip(found.problem.row_id.tolist(), found.problem.capacity.tolist(), strict=True))
    last, pool = run.orchestrator.pool.slots - 1, run.orchestrator.pool
    hz, up = run.network.block_hz, run._state.observed.uplink_bit_per_s_hz  # type: ignore[union-attr]
    for cell in set(chosen[:, sk.CELL].tolist()):
        users = found.tasks.user[apart][chosen[:, sk.CELL] == cell]
        taken = sum(4e6 / (up[user, 0] * hz) for user in users)
        row = cell * pool.slots + last
        assert free[row] - left[row] == pytest.approx(taken)


def test_ends_that_are_down_have_no_pattern() -> None:
    down = {"faults": [{"kind": "end_down", "ends": [0, 2], "begin_s": 0.0, "end_s": 1.0}]}
    found = Driven(tiny.scenario(execution=down), *_asked()).frame().posed
    has = np.diff(found.problem.task_ptr) > 0
    np.testing.assert_array_equal(has, ~np.isin(found.tasks.user, [0, 2]))


def test_buffers_that_are_too_small_grow() -> None:
    many = tiny.tasks(400, user=np.arange(400) % 4)
    _, found = _pose(many)
    _, few = _pose(tiny.tasks(4, user=np.arange(4)))
    assert found.problem.tasks == 400
    assert found.problem.patterns == 100 * few.problem.patterns
    np.testing.assert_allclose(found.problem.value[: few.problem.patterns], few.problem.value)
