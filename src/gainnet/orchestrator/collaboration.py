"""Patterns of two machines, made of patterns that ask one: cascades and speculation of text, shared first steps of images.

A pair is a whole request to a smaller model on a lower tier, and one to a larger model on a higher tier. A cascade draws
on the pool what the first takes, and of the second as much as is deferred; it must be in time even where it defers.
Speculation draws what the second takes, with drafts verified in the place of tokens decoded, and on the drafting
machine's time; the messages between them are booked on the rows that prompt and answer cross. Costs are those of
`gainnet.models.collaboration`; what shared steps take is in `gainnet.orchestrator.sharing`. Whole requests that are not
good enough alone are enumerated for their part in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.models.collaboration import TOKEN_BIT, best_draft, cascaded, verify_s
from gainnet.network.compute_kernel import prefill_s
from gainnet.network.state import NetworkState
from gainnet.orchestrator import pattern_kernel as pk
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.pool import Pool
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.problem import Problem
from gainnet.orchestrator.sharing import shared
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.task_kernel import IMAGE, TEXT, TaskColumns
from gainnet.orchestrator.ways import Agreement, Way, Ways
from gainnet.scenario.collaboration import Collaboration

TIER = 3
"""Of patterns of two models: matchers that keep to one tier take none."""
Ints = Int[np.ndarray, " pair"]
Floats = Float[np.ndarray, " pair"]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of whole requests: places of the smaller and the larger model's patterns, and the task."""

    small: Ints
    large: Ints
    task: Ints


@dataclass(frozen=True, slots=True)
class _Made:
    """Patterns of pairs, before those that are worth nothing are left out."""

    pairs: _Pairs
    ways: Ways
    ints: Int[np.ndarray, "pair description"]
    floats: Float[np.ndarray, "pair number"]
    value: Floats
    demand: Float[np.ndarray, "pair row"]
    fits: Bool[np.ndarray, " pair"]
    setup: Int[np.ndarray, "pair setup"]


class Collaborator:
    """Adds patterns of two machines to posed problems.

    Attributes:
        agreement: what is known of the models; set it as it changes.
    """

    def __init__(self, config: Collaboration, pool: Pool, tables: Tables, pace: float) -> None:
        self._config, self._pool, self._tables, self._pace = config, pool, tables, pace
        self.agreement = Agreement.expected(config, len(tables.artifact), pool.fixed + pool.users)
        together = config.cascade or config.speculation
        self._text = (tables.service_kind == TEXT) & (tables.service_nearest == 0) & together

    def relaxed(self, columns: TaskColumns) -> TaskColumns:
        """The tasks with text of any quality: what is not good enough alone may be a part of a pair."""
        return columns._replace(quality_min=np.where(self._text[columns.service], 0.0, columns.quality_min))

    def extended(
        self, posed: Posed, state: NetworkState, free: Float[np.ndarray, " row"], bid: Float[np.ndarray, " resource"]
    ) -> Posed:
        """A problem of `relaxed` tasks without the patterns that are not good enough, and with those of pairs."""
        problem, pairs = posed.problem, self._pairs(posed)
        columns, task = posed.columns, np.repeat(np.arange(problem.tasks), np.diff(problem.task_ptr))
        good = posed.floats[:, pk.QUALITY] >= columns.quality_min[task]
        begun = self.agreement.beginnings if self._config.sharing else {}
        if not len(pairs.task) and not begun:
            return posed if good.all() else _assembled(posed, task, good, [], problem.row_id, free)
        rows = self._rows(problem, posed, pairs)
        dense = _dense(problem, rows)
        made = []
        if begun:
            made.append(self._sharings(posed, state, dense, rows, bid))
        if self._config.cascade and len(pairs.task):
            made.append(self._cascades(posed, state, pairs, dense))
        drafting = self._drafting(posed, pairs)
        if self._config.speculation and len(drafting.task):
            made.append(self._speculations(posed, state, drafting, dense, rows, bid))
        return _assembled(posed, task, good, made, rows, free)

    def _pairs(self, posed: Posed) -> _Pairs:
        """Every smaller model on a lower tier with every larger one above, each at its best in every place."""
        problem, quality = posed.problem, self._tables.artifact["quality"]
        usable = self.agreement.usable
        node, model = posed.ints[:, sk.NODE].tolist(), posed.ints[:, sk.MODEL].tolist()
        tier, value, ptr = problem.tier.tolist(), problem.value.tolist(), problem.task_ptr.tolist()
        found: list[tuple[int, int, int]] = []
        for i in np.flatnonzero(self._text[posed.columns.service]).tolist():
            best: dict[tuple[int, int], int] = {}
            for p in range(ptr[i], ptr[i + 1]):
                key = node[p], model[p]
                if usable[node[p]] and (key not in best or value[p] > value[best[key]]):
                    best[key] = p
            found += [
                (s, u, i)
                for s in best.values()
                for u in best.values()
                if tier[s] < tier[u] and quality[model[s]] < quality[model[u]]
            ]
        columns = np.array(found, np.int64).reshape(-1, 3).T
        return _Pairs(*columns)

    def _drafting(self, posed: Posed, pairs: _Pairs) -> _Pairs:
        """The pairs whose smaller model is on the way to the larger one: at the end that asks, or at its cell's edge."""
        ints = posed.ints
        node, cell = ints[pairs.small, sk.NODE], ints[pairs.large, sk.CELL]
        near = (node >= self._pool.fixed) | (node == self._tables.cell_edge[cell])
        able = self._known(self.agreement.acceptance, posed, pairs) > 0.0
        keep = near & able
        return _Pairs(pairs.small[keep], pairs.large[keep], pairs.task[keep])

    def _known(self, of: Float[np.ndarray, "task artifact artifact"], posed: Posed, pairs: _Pairs) -> Floats:
        models = posed.ints[pairs.small, sk.MODEL], posed.ints[pairs.large, sk.MODEL]
        return np.asarray(of[pairs.task if len(of) > 1 else 0, models[0], models[1]])

    def _rows(self, problem: Problem, posed: Posed, pairs: _Pairs) -> Int[np.ndarray, " row"]:
        """Pool rows of the problem, then those of machines' time that drafts may need besides."""
        nodes = np.unique(posed.ints[np.concatenate([pairs.small, pairs.large]), sk.NODE])
        begun = self.agreement.beginnings if self._config.sharing else {}
        drawing = np.unique(np.array([*begun], np.int64))
        resources = np.concatenate([self._resource(nodes), self._resource(drawing, IMAGE)])
        all_rows = (resources[:, None] * self._pool.slots + np.arange(self._pool.slots)).ravel()
        return np.concatenate([problem.row_id, np.setdiff1d(all_rows, problem.row_id)])

    def _resource(self, node: Int[np.ndarray, " node"], kind: int = TEXT) -> Int[np.ndarray, " node"]:
        """The resource of machines' time for a kind of service."""
        pool = self._pool
        fixed = pool.compute_start + node * pool.compute_parts + (kind if pool.compute_parts > 1 else 0)
        return np.asarray(np.where(node < pool.fixed, fixed, pool.end_start + node - pool.fixed))

    def _gross(self, posed: Posed, pairs: _Pairs, latency_s: Floats, budget_s: Floats) -> Floats:
        """What an answer after so long is worth: see `gainnet.orchestrator.worth_kernel.on_time`."""
        part = 1.0 - latency_s / budget_s
        sure = np.where(latency_s <= self._pace * budget_s, 1.0, part / max(1.0 - self._pace, 1e-9))
        early = self._tables.run[0]["latency_weight"] * part
        return np.asarray(posed.columns.value[pairs.task] * (1.0 + early) * np.maximum(sure, 0.0))

    def _forgone(self, posed: Posed, place: Ints, pairs: _Pairs, budget_s: Floats) -> Floats:
        """What tasks to come lose by whole requests, from what these are worth."""
        cost = self._tables.run[0]["cost_weight"] * posed.floats[place, pk.COST]
        whole = self._gross(posed, pairs, posed.floats[place, pk.ASAP_S], budget_s)
        return np.asarray(whole - cost - posed.problem.value[place])

    def _cascades(
        self, posed: Posed, state: NetworkState, pairs: _Pairs, dense: Float[np.ndarray, "pattern row"]
    ) -> _Made:
        small, large, i = pairs.small, pairs.large, pairs.task
        deferred = self._known(self.agreement.deferred, posed, pairs)
        floats = posed.floats[small].copy()
        first_s, second_s = floats[:, pk.ASAP_S].copy(), posed.floats[large, pk.ASAP_S]
        budget_s = posed.columns.deadline_s[i] - state.time_s
        for column in (pk.ENERGY_J, pk.COST, pk.ASAP_S, pk.COMPLETION_S):
            floats[:, column] = cascaded(posed.floats[small, column], posed.floats[large, column], deferred)
        floats[:, pk.QUALITY] = self._known(self.agreement.good, posed, pairs) * posed.floats[large, pk.QUALITY]
        gross = self._gross(posed, pairs, first_s, budget_s) * (1.0 - deferred)
        gross += self._gross(posed, pairs, first_s + second_s, budget_s) * deferred
        forgone = cascaded(
            self._forgone(posed, small, pairs, budget_s), self._forgone(posed, large, pairs, budget_s), deferred
        )
        value = gross - self._tables.run[0]["cost_weight"] * floats[:, pk.COST] - forgone
        ways = replace(
            Ways.whole(len(i)), way=np.full(len(i), int(Way.CASCADE)), upper=large, node=posed.ints[small, sk.NODE],
            model=posed.ints[small, sk.MODEL], deferred=deferred,
        )  # fmt: skip
        demand = dense[small] + deferred[:, None] * dense[large]
        fits, setup = first_s + second_s <= budget_s, _both_loaded(posed.problem, pairs)
        return _Made(pairs, ways, posed.ints[small], floats, value, demand, fits, setup)

    def _sharings(
        self,
        posed: Posed,
        state: NetworkState,
        dense: Float[np.ndarray, "pattern row"],
        rows: Int[np.ndarray, " row"],
        bid: Float[np.ndarray, " resource"],
    ) -> _Made:
        """Images whose first steps another node takes."""
        pool, run = self._pool, self._tables.run[0]
        found = shared(self._tables, posed, self.agreement.beginnings, state.load.health.node_up)
        pairs, ways, floats = _Pairs(found.whole, found.whole, found.task), found.ways, found.floats
        here = self._resource(posed.ints[found.whole, sk.NODE], IMAGE)
        there = self._resource(ways.node, IMAGE)
        budget_s = posed.columns.deadline_s[found.task] - state.time_s
        forgone = self._forgone(posed, found.whole, pairs, budget_s)
        forgone += bid[there] * ways.draft_s - bid[here] * found.saved_s
        value = self._gross(posed, pairs, floats[:, pk.ASAP_S], budget_s)
        value += -run["cost_weight"] * floats[:, pk.COST] - forgone
        demand = dense[found.whole].copy()
        place = np.full(pool.rows, -1)
        place[rows] = np.arange(len(rows))
        slots, pair = np.arange(pool.slots), np.arange(len(found.task))[:, None]
        own = place[here[:, None] * pool.slots + slots]
        drawn = demand[pair, own]
        due = drawn >= drawn.max(axis=1, keepdims=True, initial=0.0) * (1.0 - 1e-9)
        demand[pair, own] = drawn * (1.0 - ways.deferred[:, None])
        demand[pair, place[there[:, None] * pool.slots + slots]] += due * ways.draft_s[:, None]
        fits, setup = floats[:, pk.ASAP_S] <= budget_s, posed.problem.setup[found.whole]
        return _Made(pairs, ways, posed.ints[found.whole], floats, value, demand, fits, setup)

    def _speculations(
        self,
        posed: Posed,
        state: NetworkState,
        pairs: _Pairs,
        dense: Float[np.ndarray, "pattern row"],
        rows: Int[np.ndarray, " row"],
        bid: Float[np.ndarray, " resource"],
    ) -> _Made:
        tables, pool, columns = self._tables, self._pool, posed.columns
        i, run = pairs.task, tables.run[0]
        draft_at, verify_at = posed.ints[pairs.small, sk.NODE], posed.ints[pairs.large, sk.NODE]
        ways, alone_s, token_s, more_s = self._rounds(posed, pairs)
        output, nodes = columns.output_token[i], tables.node
        floats = posed.floats[pairs.large].copy()
        floats[:, pk.ENERGY_J] += more_s * nodes["busy_w"][verify_at] + ways.draft_s * nodes["busy_w"][draft_at]
        money = more_s * nodes["price_per_s"][verify_at] + ways.draft_s * nodes["price_per_s"][draft_at]
        joules = floats[:, pk.ENERGY_J] - posed.floats[pairs.large, pk.ENERGY_J]
        floats[:, pk.COST] += money + joules * run["energy_price_per_j"]
        floats[:, pk.ASAP_S] += output * (token_s - alone_s)
        budget_s = columns.deadline_s[i] - state.time_s
        verify, draft = self._resource(verify_at), self._resource(draft_at)
        forgone = self._forgone(posed, pairs.large, pairs, budget_s) + bid[verify] * more_s + bid[draft] * ways.draft_s
        value = self._gross(posed, pairs, floats[:, pk.ASAP_S], budget_s)
        value += -run["cost_weight"] * floats[:, pk.COST] - forgone
        demand = dense[pairs.large].copy()
        bit = columns.uplink_bit[i] + columns.downlink_bit[i]
        crossing = TOKEN_BIT * output * (ways.length + 1.0) / ways.tokens / np.maximum(bit, 1.0)
        cross = (rows < pool.compute_start * pool.slots) | (
            (rows >= pool.link_start * pool.slots) & (rows < pool.memory_start)
        )
        demand[:, cross] *= 1.0 + crossing[:, None]
        place = np.full(pool.rows, -1)
        place[rows] = np.arange(len(rows))
        slots, pair = np.arange(pool.slots), np.arange(len(i))[:, None]
        at = place[verify[:, None] * pool.slots + slots]
        whole = demand[pair, at]
        # Rows are cumulative: those that hold all of the machine's work are those of the slots in which decoding is due.
        due = whole >= whole.max(axis=1, keepdims=True) * (1.0 - 1e-9)
        demand[pair, at] = np.maximum(whole + due * more_s[:, None], 0.0)
        demand[pair, place[draft[:, None] * pool.slots + slots]] += due * ways.draft_s[:, None]
        fits, setup = floats[:, pk.ASAP_S] <= budget_s, _both_loaded(posed.problem, pairs)
        return _Made(pairs, ways, posed.ints[pairs.large], floats, value, demand, fits, setup)

    def _rounds(self, posed: Posed, pairs: _Pairs) -> tuple[Ways, Floats, Floats, Floats]:
        """How drafts go: their ways, the time of a token alone and by drafts, and what verifying takes more of its machine."""
        tables, agreement, i = self._tables, self.agreement, pairs.task
        output, prompt = posed.columns.output_token[i], posed.columns.prompt_token[i]
        draft_at, verify_at = posed.ints[pairs.small, sk.NODE], posed.ints[pairs.large, sk.NODE]
        small, large = posed.ints[pairs.small, sk.MODEL], posed.ints[pairs.large, sk.MODEL]
        flop_s, weight_s, cache_s = _token(tables, verify_at, large, prompt + 0.5 * output)
        batch, beside = posed.floats[pairs.large, pk.BATCH], posed.floats[pairs.small, pk.BATCH]
        step_s = verify_s(np.arange(self._config.draft_longest + 1), batch, flop_s, weight_s, cache_s)
        own_flop_s, own_weight_s, own_cache_s = _token(tables, draft_at, small, prompt + 0.5 * output)
        own_s = np.maximum(beside * own_flop_s, own_weight_s + beside * own_cache_s)
        rtt_s = np.where(
            np.isnan(agreement.rtt_s[draft_at, verify_at]), self._crossing_s(posed, pairs),
            agreement.rtt_s[draft_at, verify_at],
        )  # fmt: skip
        length, tokens, token_s = best_draft(self._known(agreement.acceptance, posed, pairs), own_s, step_s, rtt_s)
        alone_s, ratio = step_s[:, 0], agreement.ratio[draft_at, verify_at]
        token_s = np.where(np.isnan(ratio), token_s, ratio * alone_s)
        own_unit = np.maximum(own_flop_s, own_weight_s / beside + own_cache_s)
        unit = np.maximum(flop_s, weight_s / batch + cache_s)
        judged = np.maximum((length + 1.0) * flop_s, weight_s / batch + cache_s) / tokens
        drafts = output * length / tokens
        draft_s = _prefill_s(tables, draft_at, small, prompt) + drafts * own_unit
        ways = replace(
            Ways.whole(len(i)), way=np.full(len(i), int(Way.SPECULATION)), upper=pairs.large, node=draft_at, model=small,
            length=length, tokens=tokens, draft_s=draft_s, drafted_s=drafts * own_s, wait_s=output / tokens * rtt_s,
        )  # fmt: skip
        return ways, alone_s, token_s, output * (judged - unit)

    def _crossing_s(self, posed: Posed, pairs: _Pairs) -> Floats:
        """A round trip from an edge, or the edge of an end's cell, to the verifying machine; radio adds nothing to it here."""
        edge = self._tables.cell_edge[posed.ints[pairs.large, sk.CELL]]
        path = edge * self._pool.fixed + posed.ints[pairs.large, sk.NODE]
        return np.asarray(2.0 * self._tables.path_latency_s.ravel()[path])


def _both_loaded(problem: Problem, pairs: _Pairs) -> Int[np.ndarray, "pair setup"]:
    """The setups of both models."""
    return np.stack([problem.setup[pairs.large, 0], problem.setup[pairs.small, 0]], axis=1)


def _token(tables: Tables, node: Ints, model: Ints, context: Floats) -> tuple[Floats, Floats, Floats]:
    """Seconds of a machine for a token's flop, for a step's share whatever its batch, and for one request in it."""
    machine, artifact = tables.node[node], tables.artifact[model]
    flop = artifact["flop_per_token"] + 2.0 * artifact["attention_flop_per_token2"] * context
    weight_s = artifact["size_byte"] / machine["byte_per_s"] + machine["step_overhead_s"]
    cache_s = context * artifact["kv_byte_per_token"] / machine["byte_per_s"] + machine["text_overhead_s"]
    return flop / machine["flop_per_s"], weight_s, cache_s


def _prefill_s(tables: Tables, node: Ints, model: Ints, prompt: Floats) -> Floats:
    """Seconds of a machine for prompts."""
    machine, artifact = tables.node[node], tables.artifact[model]
    of_model = ("flop_per_token", "attention_flop_per_token2", "kv_byte_per_token", "size_byte")
    of_machine = ("flop_per_s", "byte_per_s", "step_overhead_s", "text_overhead_s")
    columns = [prompt, *(artifact[name] for name in of_model), *(machine[name] for name in of_machine)]
    return np.array([prefill_s(*map(float, row)) for row in zip(*columns, strict=True)])


def _dense(problem: Problem, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "pattern row"]:
    """What every pattern draws on every row; the problem's rows come first."""
    dense = np.zeros((problem.patterns, len(rows)))
    dense[np.repeat(np.arange(problem.patterns), np.diff(problem.demand_ptr)), problem.demand_row] = (
        problem.demand_amount
    )
    return dense


def _assembled(
    posed: Posed,
    task: Int[np.ndarray, " pattern"],
    good: Bool[np.ndarray, " pattern"],
    made: list[_Made],
    rows: Int[np.ndarray, " row"],
    free: Float[np.ndarray, " pool_row"],
) -> Posed:
    """The good whole requests, and the patterns of pairs that are good enough, in time, and worth something."""
    problem, ways = posed.problem, Ways.whole(posed.problem.patterns)
    keeps, tasks, ints, floats, value, setups = (
        [good],
        [task],
        [posed.ints],
        [posed.floats],
        [problem.value],
        [problem.setup],
    )
    lengths, entry_row, amount = [np.diff(problem.demand_ptr)], [problem.demand_row], [problem.demand_amount]
    for one in made:
        least = posed.columns.quality_min[one.pairs.task]
        keeps.append(one.fits & (one.value > 0.0) & (one.floats[:, pk.QUALITY] >= least) & good[one.pairs.large])
        tasks.append(one.pairs.task)
        ints.append(one.ints)
        floats.append(one.floats)
        value.append(one.value)
        setups.append(one.setup)
        pair, row = np.nonzero(one.demand > 0.0)
        lengths.append(np.bincount(pair, minlength=len(one.value)))
        entry_row.append(row)
        amount.append(one.demand[pair, row])
        ways = ways.joined(one.ways)
    keep = np.flatnonzero(np.concatenate(keeps))
    of_task, length = np.concatenate(tasks), np.concatenate(lengths)
    keep = keep[np.argsort(of_task[keep], kind="stable")]
    begin = np.cumsum(length) - length
    entry = np.concatenate(
        [np.arange(begin[p], begin[p] + length[p]) for p in keep.tolist()] or [np.empty(0, np.int64)]
    )
    extra = rows[problem.rows :]
    more = len(of_task) - problem.patterns
    extended = replace(
        problem,
        task_ptr=np.searchsorted(of_task[keep], np.arange(problem.tasks + 1)),
        value=np.concatenate(value)[keep],
        demand_ptr=np.concatenate([[0], np.cumsum(length[keep])]),
        demand_row=np.concatenate(entry_row)[entry],
        demand_amount=np.concatenate(amount)[entry],
        capacity=np.concatenate([problem.capacity, np.maximum(free[extra], 0.0)]),
        row_id=np.concatenate([problem.row_id, extra]),
        setup=np.ascontiguousarray(np.concatenate(setups)[keep]),
        tier=np.concatenate([problem.tier, np.full(more, TIER)])[keep],
        nearest=np.concatenate([problem.nearest, np.zeros(more, np.int64)])[keep],
    )
    return replace(
        posed, problem=extended, ints=np.concatenate(ints)[keep], floats=np.concatenate(floats)[keep],
        ways=ways.taken(keep),
    )  # fmt: skip
