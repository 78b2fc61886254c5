"""Episodes whose actions are decisions: one task of the frame at a time takes one of its patterns, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Discrete, Graph, GraphInstance
from jaxtyping import Float
from numpy.typing import NDArray

from gainnet.demand.task import Tasks
from gainnet.orchestrator.bound import certify, columns_of
from gainnet.orchestrator.matchers.certified import planned
from gainnet.orchestrator.outlook import OVERALL_FEATURES, RESOURCE_FEATURES
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.training.decision_kernel import MOST, PATTERN_FEATURES, describe, offer, remainder, take
from gainnet.training.episode import Episode, box, overall_box, resource_box, written
from gainnet.training.setting import Setting

TASK_FEATURES = ("present", "text", "image", "perception", "learning", "quality_min", "patience", "value")
ROW_FEATURES = (*POOL_KINDS, "slot", "left")
NODE_KINDS = ("refuse", "pattern", "row")
NODE_WIDTH = len(NODE_KINDS) + max(len(PATTERN_FEATURES), len(ROW_FEATURES), len(TASK_FEATURES) + len(OVERALL_FEATURES))
EDGE_FEATURES = ("of_frame", "of_left")
BOUND_ITERATIONS = 8


class DecisionEpisode(Episode):
    """A step decides one task: 0 refuses, k takes the k-th of the patterns offered, where the mask says that it fits.

    Offered are the task's patterns of the most value, net of the set-ups they would open (see `offer`). Tasks come in
    the order in which the frame's problem has them; one of which no pattern fits is refused without being asked for.
    After the last task the frame is carried out, and so are frames with nothing to decide. The reward of a step is the
    sum over the frames that it ended, mostly none or one; ``info["frame"]`` counts them. Anything the mask forbids
    counts as a refusal, and in ``info["illegal"]``.

    Boxes: ``patterns`` holds PATTERN_FEATURES of those offered, ``tasks`` TASK_FEATURES of the task to decide (first) and
    of those after it, ``resource`` RESOURCE_FEATURES and the least share left in the frame of each shared resource,
    ``memory`` the share left of each fixed machine's free memory, ``overall`` OVERALL_FEATURES. PATTERN_FEATURES, in
    order: whether it fits; its worth over what the task is worth when satisfied; the largest share of what is left that
    it takes of rows of each kind of pool, and the sum of the shares over 4; where it computes, one-hot; whether at the
    nearest edge; quality; planned completion and least latency over the time left; lg(1 + J)/4; cost over the task's
    value; half the number of set-ups to open. ``patience`` is the time left over that from arrival to deadline, ``value``
    half of the task's over the mean.

    The graph's nodes are the refusal, the patterns offered (node k is action k), then the rows of the frame's problem:
    NODE_KINDS one-hot, then TASK_FEATURES and OVERALL_FEATURES, PATTERN_FEATURES, or ROW_FEATURES. Its edges are the
    demands of the patterns (set-ups to open included) on rows: the share of what the frame had, and of what is left.
    """

    def __init__(self, setting: Setting) -> None:
        room = setting.patterns_max
        self._offered, self._worth = np.empty(room, np.int64), np.empty(room)
        self._fits = np.zeros(room, np.bool_)
        super().__init__(setting)
        fixed = self.run.orchestrator.pool.fixed
        self.action_space = Discrete(room + 1)
        self._resource, self._overall = resource_box(self.shared), overall_box()
        self._least, self._memory = np.empty(self.shared, np.float32), np.empty(fixed, np.float32)
        low = [-1.0 if name == "worth" else 0.0 for name in PATTERN_FEATURES]
        self.boxes = Dict(
            {
                "patterns": box(low, MOST, (room, len(PATTERN_FEATURES))),
                "tasks": box(0.0, 2.0, (setting.tasks_max, len(TASK_FEATURES))),
                "resource": resource_box(self.shared, left=1),
                "memory": box(0.0, 1.0, (fixed,)),
                "overall": self._overall,
            }
        )
        self.graphs = Graph(box(-1.0, 2.0, (NODE_WIDTH,)), box(0.0, MOST, (len(EDGE_FEATURES),)))

    def action_mask(self) -> NDArray[np.int8]:
        """1 for what may be done: refusing, and the patterns offered that fit what is left of every row."""
        return np.concatenate([[True], self._fits]).astype(np.int8)

    def begin(self, seed: int) -> None:
        """See Episode."""
        super().begin(seed)
        orchestrator = self.run.orchestrator
        self._kinds = orchestrator.pool.kind(orchestrator.tables.node["tier"])
        self.illegal, self.gap = 0, 0.0
        self._open()
        self._go_on()
        self.served = self.ended = 0

    def step(self, action: Any) -> tuple[float, bool]:
        """See Episode."""
        if self.over:
            return 0.0, True
        self.served = self.ended = 0
        chosen = int(action)
        if 0 < chosen <= len(self._fits) and self._fits[chosen - 1]:
            pattern = self._choice[self._task] = self._offered[chosen - 1]
            self._value += take(self._columns, pattern, self._left, self._uses)
        elif chosen != 0:
            self.illegal += 1
        self._task += 1
        return self._go_on(), self.over

    def fill(self, out: Mapping[str, NDArray[np.float32]]) -> None:
        """See Episode."""
        self._describe(out["patterns"])
        shown = self._tasks[self._task : self._task + self.setting.tasks_max]
        out["tasks"][: len(shown)] = shown
        out["tasks"][len(shown) :] = 0.0
        pool = self.run.orchestrator.pool
        remainder(
            self._row_id, self._left, pool.slots, pool.end_start, pool.link_start, pool.memory_start, self._least,
            self._memory,
        )  # fmt: skip
        written(out["resource"][:, : len(RESOURCE_FEATURES)], self._outlook.resource, self._resource)
        out["resource"][:, len(RESOURCE_FEATURES)] = self._least
        out["memory"][:] = self._memory
        written(out["overall"], self._outlook.overall, self._overall)

    def graph(self) -> GraphInstance:
        """See Episode."""
        offered = self._offered[self._offered >= 0]
        first_row, kinds = 1 + len(offered), len(NODE_KINDS)
        nodes = np.zeros((first_row + len(self._row_id), NODE_WIDTH), np.float32)
        nodes[np.arange(len(nodes)), np.repeat(np.arange(kinds), [1, len(offered), len(self._row_id)])] = 1.0
        if self._task < len(self._tasks):
            nodes[0, kinds : kinds + len(TASK_FEATURES)] = self._tasks[self._task]
        begin = kinds + len(TASK_FEATURES)
        written(nodes[0, begin : begin + len(OVERALL_FEATURES)], self._outlook.overall, self._overall)
        patterns = np.empty((len(self._offered), len(PATTERN_FEATURES)), np.float32)
        self._describe(patterns)
        nodes[1:first_row, kinds : kinds + len(PATTERN_FEATURES)] = patterns[: len(offered)]
        nodes[first_row:, kinds : kinds + len(ROW_FEATURES)] = self._row_features()
        pattern, row, share = self._demands(offered)
        of_left = share / np.maximum(self._left[row], 1e-9)
        edges = np.minimum(np.stack([share, of_left], axis=-1), MOST).astype(np.float32)
        return GraphInstance(nodes, edges, np.stack([1 + pattern, first_row + row], axis=-1))

    def info(self) -> dict[str, Any]:
        """See Episode; besides, the mask, what it forbade and was asked for, and the certified gap of the last plan."""
        return {**super().info(), "illegal": self.illegal, "gap": self.gap, "action_mask": self.action_mask()}

    def _open(self) -> None:
        """Begin a frame."""
        self._outlook = self._look()
        problem = self.run.observe()
        self._columns = columns_of(problem)
        self._row_id = problem.row_id
        self._kind = self._kinds[problem.row_id]
        self._left, self._uses = np.ones(problem.rows), np.zeros(problem.setups, np.int64)
        self._choice, self._value, self._task = np.full(problem.tasks, -1), 0.0, 0
        self._tasks = self._task_features(self.run.posed.tasks)

    def _go_on(self) -> float:
        """Go to the next task that has a choice; returns the rewards of the frames that ended on the way."""
        reward = 0.0
        while not self.over:
            while self._task < len(self._choice):
                _, fitting = offer(
                    self._task, self._columns, self._left, self._uses, self._offered, self._worth, self._fits
                )
                if fitting:
                    return reward
                self._task += 1
            reward += self._commit(self._plan())
            if not self.over:
                self._open()
        self._outlook = self._look()
        self._offered[:], self._fits[:] = -1, False
        return reward

    def _plan(self) -> Plan:
        """The plan of the frame's decisions, certified. The agent's time is not ours to tell: ``decision_s`` is 0."""
        problem = self.run.posed.problem
        bound, price = certify(self._columns, np.zeros(problem.rows), self._value, BOUND_ITERATIONS)
        plan = planned(problem, self._columns, self._choice, self._value, bound, price, 0.0)
        self.gap = plan.gap
        return plan

    def _task_features(self, tasks: Tasks) -> Float[np.ndarray, "task feature"]:
        """TASK_FEATURES of the frame's tasks."""
        demand, number = self.run.demand, len(tasks)
        mean = demand.value_per_s / max(demand.rate_per_s, 1e-12)
        self._now_s = now_s = self.frame * self.run.scenario.frame_s
        out = np.zeros((number, len(TASK_FEATURES)))
        out[:, 0] = 1.0
        out[np.arange(number), 1 + demand.services.kind[tasks.service]] = 1.0
        out[:, 5] = np.clip(tasks.quality_min, 0.0, 1.0)
        given_s = np.maximum(tasks.deadline_s - tasks.arrival_s, 1e-9)
        out[:, 6] = np.clip((tasks.deadline_s - now_s) / given_s, 0.0, 1.0)
        out[:, 7] = np.clip(tasks.value / max(mean, 1e-12), 0.0, 4.0) / 2.0
        return out

    def _describe(self, out: NDArray[np.float32]) -> None:
        """PATTERN_FEATURES of what is offered; zeros once the episode is over."""
        if self.over:
            out[:] = 0.0
            return
        posed, task = self.run.posed, self._task
        problem, tasks = posed.problem, posed.tasks
        describe(
            self._columns, self._left, self._uses, self._offered, self._worth, self._fits, self._kind, posed.floats,
            problem.tier, problem.nearest, float(tasks.value[task]),
            max(float(tasks.deadline_s[task]) - self._now_s, 1e-3), out,
        )  # fmt: skip

    def _row_features(self) -> Float[np.ndarray, "row feature"]:
        """ROW_FEATURES of the problem's rows."""
        pool, rows = self.run.orchestrator.pool, np.arange(len(self._row_id))
        out = np.zeros((len(rows), len(ROW_FEATURES)))
        out[rows, self._kind] = 1.0
        timed = self._row_id < pool.memory_start
        out[timed, len(POOL_KINDS)] = (self._row_id[timed] % pool.slots) / max(pool.slots - 1, 1)
        out[:, len(POOL_KINDS) + 1] = np.clip(self._left, 0.0, 1.0)
        return out

    def _demands(self, offered: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The demands of the patterns offered: which of them, row, share of what the frame had."""
        columns = self._columns
        entries = [np.arange(columns.ptr[p], columns.stop[p]) for p in offered]
        opened = [
            (i, columns.setup_row[m], columns.setup_share[m])
            for i, p in enumerate(offered)
            for m in columns.setup[p]
            if m >= 0 and self._uses[m] == 0 and columns.setup_row[m] >= 0
        ]
        of = np.repeat(np.arange(len(offered)), [len(own) for own in entries])
        entry = np.concatenate([np.empty(0, np.int64), *entries])
        pattern = np.concatenate([of, np.array([i for i, _, _ in opened], np.int64)])
        row = np.concatenate([columns.row[entry], np.array([row for _, row, _ in opened], np.int64)])
        return pattern, row, np.concatenate([columns.share[entry], np.array([share for *_, share in opened])])
