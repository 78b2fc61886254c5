"""GaiRom-ISCC: pose each frame as a matching problem on universal pools, match it, remember the prices.

The orchestrator sees the observed state only. It also decides what to sense next: which ends get pilots in this frame,
those whose links are known worst first, within the share of the band that may go to sounding. That is the Z-shaped
frame's overlap: frame k computes and transmits on what frame k-1 sensed, while it senses for frame k+1.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from gainnet.demand.task import Tasks
from gainnet.network.sensing import SYMBOLS_PER_SLOT
from gainnet.network.state import Health, Load, NetworkState, Tier
from gainnet.orchestrator import matcher as matchers
from gainnet.orchestrator.broadcast import Broadcast, Message
from gainnet.orchestrator.collaboration import Collaborator
from gainnet.orchestrator.matchers.local import Local
from gainnet.orchestrator.orchestrator_kernel import (
    choose_sounded,
    move_bids,
    offer,
    rank_edges,
    set_aside,
    surcharge,
)
from gainnet.orchestrator.outlook import MARGIN_MAX, RESIDUAL_MAX, Lookout, Outlook, Policy, Steering
from gainnet.orchestrator.pattern import Enumerator
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.pool import POOL_KINDS, Pool
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.tables import Tables
from gainnet.scenario.collaboration import Collaboration
from gainnet.scenario.matcher import Local as LocalConfig
from gainnet.scenario.network import Sensing
from gainnet.scenario.orchestrator import Orchestrator as Config

FORESIGHT_MEMORY = 0.05
BID_FLOOR = 1e-3


class Orchestrator:
    """Poses and matches the frames of a run.

    Args:
        config: objective, pools, frame and matcher.
        sensing: how much of the band sounding may use.
        pool: the rows.
        tables: the network in flat form.
        symbol_s: length of an OFDM symbol.
        rng: what matchers draw from.
        collaboration: how models may answer together.

    Attributes:
        collaborator: makes patterns of two models; None where none are wanted.
    """

    def __init__(
        self,
        config: Config,
        sensing: Sensing,
        pool: Pool,
        tables: Tables,
        *,
        symbol_s: float,
        rng: np.random.Generator,
        collaboration: Collaboration,
    ) -> None:
        self.pool = pool
        self.tables = tables
        self.matcher = matchers.build(config.matcher)
        self.policy: Policy | None = matchers.policy(config.matcher)
        wanted = collaboration.cascade or collaboration.speculation or collaboration.sharing
        self.collaborator = Collaborator(collaboration, pool, tables, config.pace) if wanted else None
        self._enumerator = Enumerator(config, pool, tables, self.collaborator)
        self._rng = rng
        self._size_byte = tables.artifact["size_byte"].copy()
        self._keep = 1.0 - config.reserve
        self._price = np.zeros(pool.rows)
        self._until_s = pool.slot_edge_s[1:]
        self._frame_s = float(self._until_s[0])
        self._kind = pool.kind(tables.node["tier"])
        self._kind_rows = np.bincount(self._kind, minlength=len(POOL_KINDS))
        self._whole = np.concatenate(
            [
                np.outer(pool.capacity_per_s, self._until_s).ravel(),
                pool.memory_byte,
                np.full(pool.cells, pool.power_block_s),
            ]
        )
        self._edges = np.flatnonzero(tables.node["tier"][: pool.fixed] == Tier.EDGE)
        self._spare = np.empty(len(self._edges))
        pilot_block_s = sensing.sounding_blocks * SYMBOLS_PER_SLOT * symbol_s
        share_block_s = sensing.sounding_share * tables.run[0]["blocks"] * self._frame_s
        self._sounding_blocks = float(sensing.sounding_blocks)
        self._soundings = math.floor(share_block_s / pilot_block_s + 1e-9)
        self._pilot_block_s = pilot_block_s
        self._foresight = config.foresight
        self._bid = np.zeros(pool.resources)
        self._offered = np.zeros(pool.resources)
        self._worth = 0.0
        self._looked = 0
        self._lookout = Lookout(pool, self._kind[: pool.resources * pool.slots : pool.slots], self._frame_s)
        self._outlook: Outlook | None = None
        self._outlook_load: Load | None = None
        self._extra = np.zeros(pool.resources)
        self._steering: Steering | None = None
        self._local = self.matcher if isinstance(self.matcher, Local) else Local(LocalConfig().iterations)
        self._told = Message(np.zeros(pool.rows), np.zeros(pool.resources), self._edges)
        self._broadcast = Broadcast(matchers.staleness_s(config.matcher), self._told)
        self._up = True
        self._health: Health | None = None
        self._capacity = self._timed = np.empty(0)
        self.sounding = np.zeros(pool.users)
        self.sounding_block_s: Float[np.ndarray, " cell"] = np.zeros(pool.cells)

    def pose(self, state: NetworkState, tasks: Tasks) -> Posed:
        """The matching problem of a frame: sounding is set aside first, then every pattern of every task is priced."""
        self._sound(state)
        self._up = state.load.health.controller_up
        steering = None
        if self.policy is not None and self._up:
            steering = self.policy.steer(self.outlook(state.load, state.time_s))
        self._steering = steering
        free = self._free(state, steering.margin if steering is not None else None)
        own = Message(self._price, self._bid, self._spare_edges(free))
        if self._up:
            self._broadcast.send(own, state.time_s)
        told = self._told = self._broadcast.heard(state.time_s)
        posed = self._enumerator.pose(state, tasks, free, told.spare, told.bid)
        if not self._up:
            return posed
        if self._foresight > 0.0:
            # Bids are learned at the controller's own bids, however late the edges hear of them.
            fresh = posed if told is own else self._enumerator.pose(state, tasks, free, own.spare, own.bid)
            self._look_ahead(fresh, state.time_s)
        if steering is not None:
            self._steer(posed, steering)
        return posed

    def pose_between(self, state: NetworkState, tasks: Tasks) -> Posed:
        """The problem of tasks that cannot wait for the next frame, at the bids and the steering of the last one.

        ``state`` is that frame's, with the time of asking and what is committed by then. Nothing is learned from it: the
        tasks are posed with all others of their frame when it ends.
        """
        steering, told = self._steering, self._told
        free = self._free(state, steering.margin if steering is not None else None)
        posed = self._enumerator.pose(state, tasks, free, told.spare, told.bid)
        if steering is not None:
            self._steer(posed, steering)
        return posed

    def price_after(self, posed: Posed, plan: Plan) -> Float[np.ndarray, " pool_row"]:
        """Price of every pool row once ``plan`` is known: what `remember` will keep, where the controller has a say."""
        price = self._price.copy()
        if self._up:
            price[posed.problem.row_id] = plan.price
        return price

    def match(self, posed: Posed) -> Plan:
        """Match a problem, warm-started from the last prices of its rows; locally where the controller has no say."""
        problem = posed.problem
        known = self._price[problem.row_id]
        if self._up and self.matcher is not self._local:
            return self.matcher.match(problem, known, self._rng)
        return self._local.answer(problem, self._told.price[problem.row_id], known)

    def remember(self, posed: Posed, plan: Plan, arrived: int) -> None:
        """Keep a plan's prices and refusals for the next frame, whoever made it, unless the controller is out."""
        if not self._up:
            return
        self._price[posed.problem.row_id] = plan.price
        self._lookout.saw(arrived, posed.problem.tasks, int(np.count_nonzero(posed.choice(plan) < 0)))

    def outlook(self, load: Load, time_s: float) -> Outlook:
        """What a policy may read of the frame that begins at ``time_s``, made once for each ``load``; not to be written to."""
        if self._outlook is None or load is not self._outlook_load:
            self._outlook_load = load
            self._outlook = self._lookout.outlook(
                load, time_s, self.capacity(load.health), self._bid, self._offered, self._worth
            )  # fmt: skip
        return self._outlook

    def pool_price(self) -> Float[np.ndarray, " pool_kind"]:
        """What a whole row of each pool kind is worth at the last prices, mean over its rows, in the objective's currency."""
        worth = np.bincount(self._kind, weights=self._price * self._whole, minlength=len(POOL_KINDS))
        return worth / np.maximum(self._kind_rows, 1)

    def capacity(self, health: Health) -> Float[np.ndarray, " resource"]:
        """What each resource gives in a second of the coming frame, after faults; not to be written to."""
        if health is not self._health:
            self._health = health
            self._capacity = self.pool.capacity_now(health)
            self._timed = np.outer(self._capacity * self._keep, self._until_s).ravel()
        return self._capacity

    def _look_ahead(self, posed: Posed, now_s: float) -> None:
        """Move the bids by what the tasks that just arrived would use of each resource at the present bids.

        Multiplicative dual descent on the stationary problem (online mirror descent, arXiv 2011.10124): a resource that
        would be used beyond what it gives in a frame gets dearer, one that would be used less gets cheaper, down to a
        floor at which it does not matter. Ends keep to themselves, so their time has no bid. What a fault keeps from
        giving anything keeps its bid until it is back.
        """
        problem, pool = posed.problem, self.pool
        worth = offer(
            problem.task_ptr, problem.value, problem.demand_ptr, problem.demand_row, problem.demand_amount,
            problem.row_id, posed.columns.arrival_s, now_s - self._frame_s, pool.slots, self._offered,
        )  # fmt: skip
        # The first frames' mean, not a decayed zero: bids that start too low let long tasks in that block the rest for long.
        self._looked += worth > 0.0
        self._worth += max(FORESIGHT_MEMORY, 1.0 / max(self._looked, 1)) * (worth - self._worth)
        move_bids(
            self._offered, self._capacity, self._frame_s, self._foresight, BID_FLOOR * self._worth, pool.end_start,
            pool.link_start, self._bid,
        )  # fmt: skip

    def _steer(self, posed: Posed, steering: Steering) -> None:
        """Charge the problem's patterns what a steering adds to the bids; the bids' own learning does not see it."""
        problem, shared = posed.problem, self._lookout.shared
        residual = np.clip(steering.residual, -RESIDUAL_MAX, RESIDUAL_MAX)
        self._extra[shared] = self._bid[shared] * np.expm1(residual)
        surcharge(
            problem.demand_ptr, problem.demand_row, problem.demand_amount, problem.row_id, self.pool.slots, self._extra,
            problem.value,
        )  # fmt: skip
        if steering.threshold != 0.0:
            problem.value[:] -= steering.threshold * self._worth / max(self._lookout.arrived_mean, 1.0)

    def _sound(self, state: NetworkState) -> None:
        """Choose the ends that get pilots in this frame."""
        serving = np.where(state.load.health.end_up, state.candidate[:, 0], -1)
        most = self._soundings if state.load.health.sensing_up else 0
        order = np.argsort(-state.observed_error_db, kind="stable")
        choose_sounded(order, serving, most, self.pool.cells, self._sounding_blocks, self.sounding)
        sounded = serving[self.sounding > 0.0]
        self.sounding_block_s = np.bincount(sounded, minlength=self.pool.cells) * self._pilot_block_s

    def _free(self, state: NetworkState, margin: Float[np.ndarray, " shared"] | None) -> Float[np.ndarray, " pool_row"]:
        """What is left of every row after faults, sounding, running tasks, and the reserve for what was not foreseen."""
        pool, load = self.pool, state.load
        self.capacity(load.health)
        timed = self._timed
        if margin is not None:
            factor = np.ones(pool.resources)
            factor[self._lookout.shared] = np.exp(np.clip(margin, -MARGIN_MAX, MARGIN_MAX))
            timed = timed * np.repeat(factor, pool.slots)
        free = np.empty(pool.rows)
        set_aside(
            timed, load.committed, self.sounding_block_s, pool.memory_byte, load.memory_used_byte, load.pinned,
            self._size_byte, pool.power_block_s, pool.radio_parts, pool.slots, free,
        )  # fmt: skip
        return free

    def _spare_edges(self, free: Float[np.ndarray, " pool_row"]) -> Int[np.ndarray, " edge"]:
        """Edges in order of the free fraction of their time."""
        pool = self.pool
        ranked = np.empty(len(self._edges), np.int64)
        rank_edges(
            free, self._whole, self._edges, pool.compute_start, pool.compute_parts, pool.slots, self._spare, ranked
        )
        return ranked
