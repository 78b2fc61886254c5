"""General graph matching: embed any task graph into any substrate, one after another on what is left.

Every task node goes to a substrate node of its own, every task link onto one path, and no capacity is exceeded. The
places and paths are searched jointly at prices (see ``kernels/embedding.py``), and these follow what is scarce *here*:
a node whose links are used up is cheap, because its capacity serves light tasks only; a link between nodes that are
used up is cheap, because it serves only those who pass. What is usual is learned from the task graphs seen so far.

Over a stream, what one task takes another may lack. ``Admission`` sets a price of a unit of resource by dual ascent on
the share of tasks that find no room; a task whose value is below the price of what its embedding takes is refused.
Value and resources are rates here: both are held for the lifetime of the task, which therefore cancels.

Where moves are allowed, a task graph that finds no place, or only a dear one, may have some running ones embedded anew
(see ``repack.py``). All switch at one instant, or nothing does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np

from gainnet.errors import InputError
from gainnet.orchestrator import refusal
from gainnet.orchestrator.kernels.columns import Floats, Ints
from gainnet.orchestrator.kernels.embedding import MISSING, search
from gainnet.orchestrator.kernels.paths import Ground
from gainnet.orchestrator.repack import Found, Running, repack
from gainnet.orchestrator.room import Room, Taken
from gainnet.orchestrator.task_graph import Link, Substrate, TaskGraph, substrate_of, task_graph_of

MEMORY = 0.99
LINK_SCARCITY = 0.2
NODE_SCARCITY = 0.4
ROOMY = 3.0
STEEP = 1.0


class Reason(StrEnum):
    """Why a task graph is refused."""

    NODE_CAPACITY = "node_capacity"
    LINK_CAPACITY = "link_capacity"
    PRICE = "price"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no embedding.

    Attributes:
        reason: what is lacking.
        item: the task node, or the task link (a pair), that does not fit; None for a price.
        proven: True where no embedding exists; False where the search found none, or none worth its price.
        detail: the same in a sentence.
    """

    reason: Reason
    item: Hashable
    proven: bool
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Where a task graph goes.

    Attributes:
        mapping: the substrate node of each task node, no two the same.
        paths: for each task link the substrate nodes that its path visits, from the place of its tail to that of its head.
        value: what the task is worth; the sum of its demands unless another value was given.
        cost: resources taken: node demands, and each link demand times the hops of its path.
        moved: running embeddings that must move for it, each with its next one; empty unless moves are allowed.
    """

    mapping: Mapping[Hashable, Hashable]
    paths: Mapping[Link, tuple[Hashable, ...]]
    value: float
    cost: float
    _taken: Taken
    _graph: TaskGraph
    moved: tuple[tuple[Embedding, Embedding], ...] = ()

    @property
    def revenue_to_cost(self) -> float:
        """Value over cost; 1 where nothing is taken."""
        return self.value / self.cost if self.cost > 0.0 else 1.0


Answer: TypeAlias = Embedding | Refusal


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search: greedy starts, then repairs of the best of them."""

    starts: int = 300
    rounds: int = 4800


SECOND_LOOK = Effort(4, 0)
"""Spent on what nothing worth its price was found for, to tell a price from a lack of room."""
MOVE = Effort(4, 60)
"""Spent on each task graph that is embedded anew while room is made: many short searches find more than few long ones."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A price of a unit of resource, raised by each task that finds no room (by moves neither), lowered by each that does.

    Attributes:
        least: where it starts, and its lower limit (value per unit of resource).
        most: its upper limit.
        target: the share of tasks that should find no room at the right price: some must, or the price refuses too many.
        step: how much one more task without room raises it.
    """

    least: float = 0.5
    most: float = 0.7
    target: float = 0.1
    step: float = 0.02


class Embedder:
    """Embeds task graphs into one substrate and keeps the account of what is taken.

    Args:
        substrate: a networkx Graph or DiGraph.
        node_capacity: the node attribute of the substrate that holds its capacity.
        link_capacity: that of its links.
        node_demand: the node attribute of task graphs that holds their demand.
        link_demand: that of their links.
        admission: how the price of a unit of resource is learned; None takes whatever fits.
        effort: how long to search for each task graph.
        moves: how many running task graphs may be embedded anew for one that finds no place worth its price.
        seed: of the search.

    Raises:
        InputError: the substrate is malformed, or ``moves`` is below 0.
    """

    def __init__(
        self,
        substrate: Any,
        *,
        node_capacity: str = "capacity",
        link_capacity: str = "capacity",
        node_demand: str = "demand",
        link_demand: str = "demand",
        admission: Admission | None = None,
        effort: Effort | None = None,
        moves: int = 0,
        seed: int = 1,
    ) -> None:
        if moves < 0:
            raise InputError(f"moves = {moves} is below 0")
        self.substrate = substrate_of(substrate, node_capacity, link_capacity)
        self.price = admission.least if admission else 0.0
        self._admission = admission
        self._effort = effort or Effort()
        self._names = node_demand, link_demand
        self._seed = seed
        self._moves = moves
        self._room = Room(self.substrate.node_capacity.copy(), self.substrate.link_capacity.copy())
        self._held: dict[Embedding, None] = {}
        self._seen = np.zeros(3)

    def embed(
        self,
        task: Any,
        *,
        allowed: Mapping[Hashable, Collection[Hashable]] | None = None,
        value: float | None = None,
    ) -> Answer:
        """An embedding into what is left, or why there is none. Takes nothing yet: see ``commit``.

        Args:
            task: a networkx Graph or DiGraph.
            allowed: the substrate nodes where a task node may go; one that is not named may go anywhere.
            value: what the task is worth; the sum of its demands if None.

        Raises:
            InputError: the task graph is malformed, ``allowed`` names an unknown node, or the value is not finite.
        """
        graph = task_graph_of(task, self.substrate, *self._names, allowed or {})
        worth = graph.demand if value is None else value
        if not math.isfinite(worth):
            raise InputError(f"value = {worth!r} is not a finite number")
        if not graph.nodes:
            return self._embedding(
                graph, np.zeros(0, np.int64), np.zeros((0, 0), np.int64), np.zeros(0, np.int64), worth
            )
        self._learn(graph)
        self._seed += 1
        limit = self._limit(graph, worth)
        ground, fee = self._ground(graph, self._room)
        charge, place, path, hops = self._search(graph, ground, fee, limit, self._effort)
        found = self._embedding(graph, place, path, hops, worth) if charge < MISSING else None
        dear = found is None or worth < self.price * found.cost
        moving = self._moving(graph, worth) if dear and self._moves else None
        self._move_price(blocked=found is None and moving is None)
        if moving is not None:
            return moving
        if found is None and limit < math.inf:
            charge, place, path, hops = self._search(graph, ground, fee, math.inf, SECOND_LOOK)
            found = self._embedding(graph, place, path, hops, worth) if charge < MISSING else None
        if found is None:
            return self._without_room(graph, place)
        if worth < self.price * found.cost:
            detail = f"it is worth {worth:g} and takes {found.cost:g} at a price of {self.price:.3g}"
            return Refusal(Reason.PRICE, None, False, detail)
        return found

    def _search(
        self, graph: TaskGraph, ground: Ground, fee: Floats, limit: float, effort: Effort
    ) -> tuple[float, Ints, Ints, Ints]:
        """The embedding of least charge that is found, as ``search`` returns it."""
        return search(ground, graph.wish, fee, limit, effort.starts, effort.rounds, self._seed)

    def _moving(self, graph: TaskGraph, worth: float) -> Embedding | None:
        """An embedding that fits once some running ones move, and is worth what it and their moves take; or None."""
        held = list(self._held)
        running = [Running(one._graph, one._taken, one.cost) for one in held]
        packed = repack(
            graph, running, self._room, self.substrate, self._again, lambda cost: worth >= self.price * cost, self._moves,
            self._seed,
        )  # fmt: skip
        if packed is None:
            return None
        pairs = [(held[i], one) for i, one in packed.moved.items()]
        anew = [(old, self._embedding(old._graph, *one[:3], old.value)) for old, one in pairs]
        moved = tuple((old, new) for old, new in anew if not _alike(old, new))
        return replace(self._embedding(graph, *packed.new[:3], worth), moved=moved)

    def _again(self, graph: TaskGraph, room: Room) -> Found | None:
        """An embedding into some room by a short search; None where it finds none."""
        self._seed += 1
        charge, place, path, hops = self._search(graph, *self._ground(graph, room), math.inf, MOVE)
        if charge >= MISSING:
            return None
        taken = _taken(graph, place, path, hops)
        return Found(place, path, hops, taken, float(taken.amounts.sum() + taken.loads.sum()))

    def commit(self, embedding: Embedding) -> None:
        """Take what an embedding needs; those that move for it are released, and their next ones committed.

        Raises:
            InputError: it is committed already, one that should move is not committed, or it no longer fits.
        """
        if embedding in self._held:
            raise InputError("embedding: it is committed already")
        room: Room | None = self._room
        for old, _ in embedding.moved:
            if old not in self._held:
                raise InputError("embedding: one that should move for it is not committed; embed again")
            room = room.beside(old._taken, self.substrate) if room else None
        for new in (embedding, *(after for _, after in embedding.moved)):
            room = room.without(new._taken, self.substrate) if room else None
        if room is None:
            raise InputError("embedding: what it needs has been taken since; embed again")
        self._room = room
        for old, after in embedding.moved:
            del self._held[old]
            self._held[after] = None
        self._held[embedding] = None

    def release(self, embedding: Embedding) -> None:
        """Give back what a committed embedding took.

        Raises:
            InputError: it is not committed, or has moved since: then its next one is.
        """
        if embedding not in self._held:
            raise InputError("embedding: it is not committed")
        del self._held[embedding]
        self._room = self._room.beside(embedding._taken, self.substrate)

    @property
    def left(self) -> tuple[dict[Hashable, float], dict[Link, float]]:
        """What is left of each node and of each link of the substrate."""
        substrate = self.substrate
        return (
            dict(zip(substrate.nodes, self._room.node.tolist(), strict=True)),
            dict(zip(substrate.links, self._room.link.tolist(), strict=True)),
        )

    def _learn(self, graph: TaskGraph) -> None:
        """Remember nodes, node demand and link demand, old task graphs ever less."""
        wish = graph.wish
        self._seen *= MEMORY
        self._seen += len(graph.nodes), wish.demand.sum(), wish.bandwidth.sum()

    def _limit(self, graph: TaskGraph, worth: float) -> float:
        """A charge that no embedding worth its cost at the least price exceeds: only use makes more of it than the cost."""
        if self._admission is None or self._admission.least <= 0.0:
            return math.inf
        return worth / self._admission.least + float(graph.wish.demand.sum()) * STEEP

    def _move_price(self, *, blocked: bool) -> None:
        rule = self._admission
        if rule is not None:
            moved = self.price + rule.step * (float(blocked) - rule.target)
            self.price = min(max(moved, rule.least), rule.most)

    def _ground(self, graph: TaskGraph, room: Room) -> tuple[Ground, Floats]:
        """The substrate at prices that say what is scarce around each node and link; what task nodes cost where."""
        substrate, (nodes, demand, bandwidth) = self.substrate, self._seen
        usual = demand / nodes
        alive = np.minimum(1.0, room.node / (ROOMY * usual)) if usual > 0.0 else np.ones(len(substrate.nodes))
        served = alive[substrate.tail] * alive[substrate.head]
        node_price = np.ones(len(substrate.nodes))
        if bandwidth > 0.0 and demand > 0.0:
            useful = room.link * served
            around = np.bincount(substrate.tail, useful, len(node_price))
            around += np.bincount(substrate.head, useful, len(node_price))
            wanted = np.maximum(room.node, usual / ROOMY) * 2.0 * bandwidth / demand
            node_price += NODE_SCARCITY * (np.minimum(1.0, around / wanted) - 1.0)
        ground = Ground(substrate.ahead, substrate.back, room.node, room.link, 1.0 + LINK_SCARCITY * (served - 1.0))
        return ground, self._fees(graph, room, node_price)

    def _fees(self, graph: TaskGraph, room: Room, price: Floats) -> Floats:
        """The charge of each task node at each place, (node, place): infinite where it has no room or may not go.

        A unit costs the price times ``1 + STEEP * use ** 3``, integrated over what is taken.
        """
        amount, capacity = graph.wish.demand[:, None], _positive(self.substrate.node_capacity)
        before = 1.0 - room.node / capacity
        after = before + amount / capacity
        fee = price * (amount + 0.25 * STEEP * capacity * (after**4 - before**4))
        return np.where(graph.allowed & (room.node >= amount), fee, np.inf)

    def _embedding(self, graph: TaskGraph, place: Ints, path: Ints, hops: Ints, value: float) -> Embedding:
        substrate, wish = self.substrate, graph.wish
        mapping = {node: substrate.nodes[v] for node, v in zip(graph.nodes, place, strict=True)}
        paths: dict[Link, tuple[Hashable, ...]] = {}
        for e, (tail, head) in enumerate(graph.links):
            paths[tail, head] = _walk(substrate, substrate.index[mapping[tail]], path[e, : hops[e]])
        cost = float(wish.demand.sum() + (wish.bandwidth * hops).sum())
        return Embedding(mapping, paths, value, cost, _taken(graph, place, path, hops), graph)

    def _without_room(self, graph: TaskGraph, place: Ints) -> Refusal:
        """Why no embedding was found: first what can be proven, then where the search got stuck."""
        found = refusal.proven(self.substrate, graph, *self._room)
        certain = found is not None
        item, is_link, detail = found or refusal.stuck(graph, place)
        return Refusal(Reason.LINK_CAPACITY if is_link else Reason.NODE_CAPACITY, item, certain, detail)


def embed(
    task: Any,
    substrate: Any,
    *,
    node_capacity: str = "capacity",
    link_capacity: str = "capacity",
    node_demand: str = "demand",
    link_demand: str = "demand",
    allowed: Mapping[Hashable, Collection[Hashable]] | None = None,
    effort: Effort | None = None,
    seed: int = 1,
) -> Answer:
    """Embed one task graph into an empty substrate: an ``Embedder`` for a single call."""
    embedder = Embedder(
        substrate, node_capacity=node_capacity, link_capacity=link_capacity, node_demand=node_demand,
        link_demand=link_demand, effort=effort, seed=seed,
    )  # fmt: skip
    return embedder.embed(task, allowed=allowed)


def _walk(substrate: Substrate, start: int, links: Ints) -> tuple[Hashable, ...]:
    """The nodes of a path from ``start``, whose links are in order from one of its ends."""
    if len(links) and start not in (substrate.tail[links[0]], substrate.head[links[0]]):
        links = links[::-1]
    visited = [start]
    for link in links:
        tail, head = int(substrate.tail[link]), int(substrate.head[link])
        visited.append(head if tail == visited[-1] else tail)
    return tuple(substrate.nodes[v] for v in visited)


def _taken(graph: TaskGraph, place: Ints, path: Ints, hops: Ints) -> Taken:
    """What an embedding takes."""
    links = np.concatenate([path[e, : hops[e]] for e in range(len(hops))]) if len(hops) else np.zeros(0, np.int64)
    return Taken(place, graph.wish.demand, links, np.repeat(graph.wish.bandwidth, hops))


def _positive(capacity: Floats) -> Floats:
    """Capacities to divide by: 1 for those that are 0."""
    return np.where(capacity > 0.0, capacity, 1.0)


def _alike(old: Embedding, new: Embedding) -> bool:
    """Whether one that was embedded anew stays just where it was."""
    return old.mapping == new.mapping and old.paths == new.paths
