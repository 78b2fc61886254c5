"""What is known of the real machines of a live network: what they serve and hold, whether they answer, how fast they are.

Speeds are those of the compute cards times a factor that is learned from how long answers really took, so that patterns
priced on the cards are patterns on the machines as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from gainnet.network.state import Health
from gainnet.orchestrator.tables import Tables
from gainnet.orchestrator.ways import Beginning

FAILURES = 3
REST_S, REST_MAX_S = 1.0, 30.0
SPEED_GAIN = 0.1
SPEED_MAX = 8.0
EVIDENCE_MAX = math.log(4.0)
CONTEXT_TOKEN = 256.0
WORK_MEMORY = 0.1


@dataclass(frozen=True, slots=True)
class Drafting:
    """What a node measured of drafts that another judges; None where it has not yet.

    Attributes:
        acceptance: probability that a token of a draft stays.
        rtt_s: round trip to the other node.
        ratio: time of a long answer by drafts over that of the other model alone.
    """

    acceptance: float | None = None
    rtt_s: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself.

    Attributes:
        tier: end, edge or cloud.
        models: ids that it can answer, adapters too.
        resident: those of them in memory.
        running: requests that it works on.
        waiting: requests in its queue.
        slots: requests that it can work on at once, 0 where it doesn't say.
        prompt_token_per_s: prefilled while it prefills, 0 where it doesn't say.
        decode_token_per_s: decoded while it decodes, over all running requests; 0 where it doesn't say.
        kv_use: part of its KV cache in use, in [0, 1].
        digest: of its model's weights.
        verifiers: nodes that judge its drafts, by name.
        beginners: nodes that may begin its images, by name.
        decode_batch: mean number of requests that it decoded together while it measured how fast it decodes; 0 where it
            doesn't say, then as many as run now.
    """

    tier: str
    models: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    running: int = 0
    waiting: int = 0
    slots: int = 0
    prompt_token_per_s: float = 0.0
    decode_token_per_s: float = 0.0
    kv_use: float = 0.0
    digest: str = ""
    verifiers: Mapping[str, Drafting] = field(default_factory=dict)
    beginners: Mapping[str, Beginning] = field(default_factory=dict)
    decode_batch: float = 0.0


@dataclass(slots=True)
class _Breaker:
    """Failures in a row open it, for longer each time; afterwards one failure more is enough."""

    failures: int = 0
    rest_s: float = REST_S
    until_s: float = -math.inf
    silent: bool = False


@dataclass(slots=True)
class _Merged:
    """The last health that was made, and of what."""

    scheduled: Health | None = None
    up: bytes = b""
    health: Health | None = field(default=None)


class Telemetry:
    """What is known of each node: fixed machines and ends alike, numbered as in `gainnet.network.state`.

    Attributes:
        served: which artifacts each node can answer with.
        resident: those that it said to be in its memory; all that it serves, before it said anything.
        speed: factor on the rates of its compute card.
        spoke: whether each node ever said how it is.
        running, waiting: what it said, 0 before.
        foreign: requests at each node that this run didn't send.
        kv_use: part of its KV cache in use.
        work_s: node-seconds that a request takes there, running mean.
    """

    def __init__(self, tables: Tables, also: NDArray[Any]) -> None:
        """Speeds are written to the nodes of ``tables``, and to ``also``, a copy of them."""
        nodes, artifacts = len(tables.node), len(tables.artifact)
        self.served: Bool[np.ndarray, "node artifact"] = np.zeros((nodes, artifacts), np.bool_)
        self.resident = self.served.copy()
        self.speed = np.ones(nodes)
        self.spoke = np.zeros(nodes, np.bool_)
        self.running, self.waiting = np.zeros(nodes), np.zeros(nodes)
        self.foreign, self.kv_use, self.work_s = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
        self._rtt_s = np.full(nodes, np.nan)
        self._tables, self._also, self._count = tables, also, tables.node["count"].copy()
        self._base = {name: tables.node[name].copy() for name in ("flop_per_s", "byte_per_s")}
        self._breaker = [_Breaker() for _ in range(nodes)]
        self._merged = _Merged()

    def serve(self, served: Bool[np.ndarray, "node artifact"]) -> None:
        """Say what each node serves; what is new counts as resident until the node says otherwise."""
        self.resident = served & (self.resident | ~self.served)
        self.served = served.copy()

    def heard(
        self,
        node: int,
        state: NodeState | None,
        resident: Bool[np.ndarray, " artifact"],
        sent: Int[np.ndarray, " artifact"],
        rtt_s: float | None,
    ) -> None:
        """Take in what a node said of itself; None: it didn't answer.

        Args:
            node: its number.
            state: what it said.
            resident: its resident models, as artifacts.
            sent: requests of this run that are under way at it, by artifact.
            rtt_s: how long asking it took, less what it took to answer.
        """
        self._breaker[node].silent = state is None
        if state is None:
            return
        self.resident[node] = resident & self.served[node]
        self.spoke[node] = True
        self.running[node], self.waiting[node] = state.running, state.waiting
        self.foreign[node] = max(0.0, state.running + state.waiting - float(sent.sum()))
        self.kv_use[node] = min(max(state.kv_use, 0.0), 1.0)
        if state.slots > 0:
            for nodes in (self._tables.node, self._also):
                nodes["batch_max"][node] = max(1.0, state.slots / nodes["count"][node])
        if state.decode_token_per_s > 0.0 and state.running > 0 and sent.any():
            batch = state.decode_batch or float(state.running)
            expected = self._decode_token_per_s(node, int(np.argmax(sent)), batch)
            self.learn(node, math.log(expected / state.decode_token_per_s))
        if rtt_s is not None:
            before = self._rtt_s[node]
            self._rtt_s[node] = rtt_s if math.isnan(before) else before + 0.2 * (rtt_s - before)
            self._place_links()

    def learn(self, node: int, slowness: float) -> None:
        """A request (or a token) took ``exp(slowness)`` times as long at a node as the model of it says."""
        slowness = min(max(slowness, -EVIDENCE_MAX), EVIDENCE_MAX)
        speed = self.speed[node] * math.exp(-SPEED_GAIN * slowness)
        self.speed[node] = min(max(speed, 1.0 / SPEED_MAX), SPEED_MAX)
        for nodes in (self._tables.node, self._also):
            for name, base in self._base.items():
                nodes[name][node] = base[node] * self.speed[node]

    def worked(self, node: int, work_s: float) -> None:
        """A request was sent to a node that takes so much of its time."""
        before = self.work_s[node]
        self.work_s[node] = work_s if before == 0.0 else before + WORK_MEMORY * (work_s - before)

    def queue_s(self) -> Float[np.ndarray, " node"]:
        """How long a new request waits in the queue that each node says it has."""
        return np.asarray(self.waiting * self.work_s / self._count)

    def answered(self, node: int) -> None:
        """A node answered a request."""
        breaker = self._breaker[node]
        breaker.failures, breaker.rest_s = 0, REST_S

    def failed(self, node: int, now_s: float) -> None:
        """A node failed a request."""
        breaker = self._breaker[node]
        breaker.failures += 1
        if breaker.failures >= FAILURES and now_s >= breaker.until_s:
            breaker.until_s = now_s + breaker.rest_s
            breaker.rest_s = min(2.0 * breaker.rest_s, REST_MAX_S)

    def up(self, now_s: float) -> Bool[np.ndarray, " node"]:
        """Which nodes may be sent requests."""
        answers = [not breaker.silent and breaker.until_s <= now_s for breaker in self._breaker]
        return np.array(answers) & self.served.any(axis=1)

    def health(self, scheduled: Health, up: Bool[np.ndarray, " node"]) -> Health:
        """The scenario's own faults, and fixed machines that are not up; the same object as long as nothing changes.

        An end whose machine is not up may still ask.
        """
        merged, key = self._merged, up.tobytes()
        if merged.health is None or merged.scheduled is not scheduled or merged.up != key:
            merged.scheduled, merged.up = scheduled, key
            merged.health = Health(
                scheduled.cell_up,
                scheduled.node_up & up[: len(scheduled.node_up)],
                scheduled.link_factor,
                scheduled.end_up,
                scheduled.sensing_up,
                scheduled.demand_factor,
                scheduled.controller_up,
            )
        return merged.health

    def _decode_token_per_s(self, node: int, artifact: int, running: float) -> float:
        """What a node should decode in a second with so many requests in its batch."""
        machine, model = self._tables.node[node], self._tables.artifact[artifact]
        batch = min(max(1.0, running / machine["count"]), machine["batch_max"])
        read_s = (model["size_byte"] + batch * CONTEXT_TOKEN * model["kv_byte_per_token"]) / machine["byte_per_s"]
        step_s = max(read_s, batch * model["flop_per_token"] / machine["flop_per_s"])
        return float(machine["count"] * batch / step_s)

    def _place_links(self) -> None:
        """Latency of the links between edges and cloud, from how much longer one takes to answer: the gateway is by an edge."""
        tables, fixed = self._tables, len(self._tables.path_latency_s)
        for link, (a, b) in _uplinks(tables, fixed).items():
            apart_s = abs(self._rtt_s[a] - self._rtt_s[b]) / 2.0
            if not math.isnan(apart_s):
                tables.link["latency_s"][link] = apart_s
        for path in range(fixed * fixed):
            links = tables.path_link[tables.path_ptr[path] : tables.path_ptr[path + 1]]
            tables.path_latency_s[divmod(path, fixed)] = tables.link["latency_s"][links].sum()


def _uplinks(tables: Tables, fixed: int) -> dict[int, tuple[int, int]]:
    """The links between machines of different tiers, with the machines that each joins: their path is that link alone."""
    found: dict[int, tuple[int, int]] = {}
    for a in range(fixed):
        for b in range(a + 1, fixed):
            path = a * fixed + b
            links = tables.path_link[tables.path_ptr[path] : tables.path_ptr[path + 1]]
            if len(links) == 1 and tables.node["tier"][a] != tables.node["tier"][b]:
                found[int(links[0])] = (a, b)
    return found
