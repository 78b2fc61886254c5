"""Virtual network embedding: task graphs that come and go on one substrate, each decided when it arrives.

An instance is JSON (``.json`` or ``.json.gz``): ``substrate`` with ``cpu`` (one for each node) and ``links`` as
``[u, v, bandwidth]``, and ``requests`` in order of arrival, each with ``arrival``, ``lifetime``, ``cpu`` and ``links``
as ``[i, j, bandwidth]``. Links are undirected. The benchmark shows the embedder one request at a time, gives back what
has ended by its arrival, and afterwards has the whole history judged by the independent checker.

With ``--moves N`` a request that finds no place, or only a dear one, may have up to N running ones embedded anew, all at
the instant of its arrival; where N is large, those few take seconds to decide. Published methods leave running
requests where they are: figures with moves are not to be set beside theirs.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from gainnet.errors import InputError
from gainnet.orchestrator.embedding import Admission, Embedder, Embedding
from gainnet.orchestrator.embedding_checker import Stay, violations

MEANING = {
    "accepted": "share of the requests that were embedded",
    "revenue_to_cost": "revenue of the accepted over what they took: cpu, and bandwidth times hops",
    "revenue_rate": "sum over the accepted of (cpu + bandwidth) times lifetime, over the last arrival",
    "moves_allowed": "running requests that may move for one that finds no place; 0 is the usual problem, others are not",
    "moves": "times a running request was embedded elsewhere to let another in",
    "moved_share": "share of the embedded requests that were moved at least once",
    "decision_s_mean": "mean time to decide a request, its graph's conversion and all moves included, s",
    "decision_s_p50": "median time to decide a request, its graph's conversion included, s",
    "decision_s_p99": "99th percentile of it, s",
    "violations": "rules broken, by the independent checker's replay of the whole history; must be 0",
}


@dataclass(frozen=True)
class Request:
    """A task graph and when it comes and how long it stays."""

    arrival: float
    lifetime: float
    graph: nx.Graph

    @property
    def revenue(self) -> float:
        """Its node and link demands."""
        return float(sum(cpu for _, cpu in self.graph.nodes(data="demand"))) + float(
            sum(bandwidth for _, _, bandwidth in self.graph.edges(data="demand"))
        )


@dataclass
class Visit:
    """An accepted request: where it was embedded, and since when."""

    request: Request
    places: list[tuple[float, Embedding]]


def figures(instance: Path, moves: int = 0) -> dict[str, float]:
    """The figures of one instance, with so many moves for a request that finds no place; see MEANING."""
    substrate, requests = load(instance)
    _compile()
    embedder = Embedder(substrate, admission=Admission(), moves=moves)
    visits: list[Visit] = []
    visit_of: dict[Embedding, Visit] = {}
    ends: list[tuple[float, int, Visit]] = []
    seconds: list[float] = []
    for number, request in enumerate(requests):
        while ends and ends[0][0] <= request.arrival:
            last = heapq.heappop(ends)[2].places[-1][1]
            embedder.release(last)
            del visit_of[last]
        began = time.perf_counter()
        answer = embedder.embed(request.graph)
        if isinstance(answer, Embedding):
            embedder.commit(answer)
        seconds.append(time.perf_counter() - began)
        if isinstance(answer, Embedding):
            visits.append(Visit(request, [(request.arrival, answer)]))
            visit_of[answer] = visits[-1]
            heapq.heappush(ends, (request.arrival + request.lifetime, number, visits[-1]))
            for before, after in answer.moved:
                visit_of[after] = visit_of.pop(before)
                visit_of[after].places.append((request.arrival, after))
    return _figures(substrate, requests, visits) | {
        "moves_allowed": float(moves),
        "decision_s_mean": float(np.mean(seconds)),
        "decision_s_p50": float(np.median(seconds)),
        "decision_s_p99": float(np.quantile(seconds, 0.99)),
    }


def _figures(substrate: nx.Graph, requests: list[Request], visits: list[Visit]) -> dict[str, float]:
    """What the definitions make of the history: nothing is taken from the embedder's own account."""
    revenue = sum(visit.request.revenue for visit in visits)
    cost = sum(_cost(visit) for visit in visits)
    earned = sum(visit.request.revenue * visit.request.lifetime for visit in visits)
    history = [stay for number, visit in enumerate(visits) for stay in _stays(number, visit)]
    links = {(tail, head): bandwidth for tail, head, bandwidth in substrate.edges(data="capacity")}
    moved = [len(visit.places) - 1 for visit in visits]
    return {
        "accepted": len(visits) / len(requests),
        "revenue_to_cost": revenue / cost if cost > 0.0 else 1.0,
        "revenue_rate": earned / requests[-1].arrival if requests[-1].arrival > 0.0 else 0.0,
        "violations": float(len(violations(dict(substrate.nodes(data="capacity")), links, history))),
        "moves": float(sum(moved)),
        "moved_share": float(np.count_nonzero(moved)) / len(visits) if visits else 0.0,
    }


def _stays(number: int, visit: Visit) -> list[Stay]:
    """What the checker replays: one stay, and one more for each move."""
    request = visit.request
    nodes = dict(request.graph.nodes(data="demand"))
    links = {(tail, head): bandwidth for tail, head, bandwidth in request.graph.edges(data="demand")}
    return [
        Stay(begin, end, nodes, links, embedding.mapping, embedding.paths, number)
        for (begin, embedding), end in zip(visit.places, _until(visit), strict=True)
    ]


def _until(visit: Visit) -> list[float]:
    """When each of its embeddings ends."""
    request = visit.request
    return [begin for begin, _ in visit.places[1:]] + [request.arrival + request.lifetime]


def _cost(visit: Visit) -> float:
    """What an accepted request takes: cpu, and bandwidth times the hops of its path; where it moved, the mean over time."""
    request = visit.request
    if len(visit.places) == 1:
        return _taken(request, visit.places[0][1])
    spans = [end - begin for (begin, _), end in zip(visit.places, _until(visit), strict=True)]
    each = [_taken(request, embedding) for _, embedding in visit.places]
    return sum(span * taken for span, taken in zip(spans, each, strict=True)) / request.lifetime


def _taken(request: Request, embedding: Embedding) -> float:
    """What an embedding of a request takes."""
    cpu = sum(amount for _, amount in request.graph.nodes(data="demand"))
    hops = {frozenset(link): len(path) - 1 for link, path in embedding.paths.items()}
    return float(cpu + sum(amount * hops[frozenset((i, j))] for i, j, amount in request.graph.edges(data="demand")))


def _compile() -> None:
    """Make the compiler do its work before the clock runs."""
    line = nx.path_graph(3)
    nx.set_node_attributes(line, 1.0, "capacity")
    nx.set_edge_attributes(line, 1.0, "capacity")
    pair = nx.path_graph(2)
    nx.set_node_attributes(pair, 1.0, "demand")
    nx.set_edge_attributes(pair, 1.0, "demand")
    Embedder(line).embed(pair)


def load(path: Path) -> tuple[nx.Graph, list[Request]]:
    """The substrate and the requests of an instance file.

    Raises:
        InputError: the file cannot be read or is no instance; the message names the field.
    """
    try:
        text = path.read_bytes()
        tree = json.loads(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text)
    except OSError as error:
        raise InputError(f"{path}: the instance cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zlib.error, RecursionError) as error:
        raise InputError(f"{path}: the instance is not JSON: {error}") from error
    try:
        substrate = _graph(_field(tree, "", "substrate", dict), "substrate", "capacity")
        requests = [
            _request(entry, f"requests[{number}]")
            for number, entry in enumerate(_field(tree, "", "requests", list))
        ]  # fmt: skip
        _check_order(requests)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return substrate, requests


def _check_order(requests: list[Request]) -> None:
    if not requests:
        raise InputError("requests is empty")
    for number in range(1, len(requests)):
        if requests[number].arrival < requests[number - 1].arrival:
            raise InputError(f"requests[{number}].arrival is before that of the request before it")


def _request(entry: Any, at: str) -> Request:
    return Request(
        _number(_field(entry, at, "arrival"), f"{at}.arrival"),
        _number(_field(entry, at, "lifetime"), f"{at}.lifetime"),
        _graph(entry, at, "demand"),
    )


def _graph(entry: Any, at: str, attribute: str) -> nx.Graph:
    """The graph of the fields ``cpu`` and ``links``, both amounts under one attribute name."""
    graph = nx.Graph()
    for node, amount in enumerate(_field(entry, at, "cpu", list)):
        graph.add_node(node, **{attribute: _number(amount, f"{at}.cpu[{node}]")})
    for number, link in enumerate(_field(entry, at, "links", list)):
        here = f"{at}.links[{number}]"
        if not isinstance(link, list) or len(link) != 3:
            raise InputError(f"{here} is not [node, node, bandwidth]")
        for end in link[:2]:
            if not isinstance(end, int) or isinstance(end, bool) or end not in graph:
                raise InputError(f"{here} names node {end!r}, which cpu has not")
        if link[0] == link[1] or graph.has_edge(*link[:2]):
            raise InputError(f"{here} joins {link[0]} and {link[1]}: a node with itself, or for the second time")
        graph.add_edge(*link[:2], **{attribute: _number(link[2], f"{here}[2]")})
    return graph


def _field(entry: Any, at: str, name: str, kind: type = object) -> Any:
    here = f"{at}.{name}" if at else name
    if not isinstance(entry, dict):
        raise InputError(f"{at or 'the instance'} is no object")
    if name not in entry:
        raise InputError(f"{here} is missing")
    if not isinstance(entry[name], kind):
        raise InputError(f"{here} is no {'list' if kind is list else 'object'}")
    return entry[name]


def _number(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise InputError(f"{at} = {value!r} is not a finite number of at least 0")
    return float(value)
