"""What a priced router makes of decisions: the patterns to try in order, and phrases that say why."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.ways import Way
from gainnet.serving.fleet import Wish
from gainnet.serving.router import Ask, Refused

TARGETS_MAX = 3


def ranked(posed: Posed, chosen: int, node: list[int], worth: list[float], first: int, last: int) -> list[int]:
    """The chosen pattern, then, where two models share it, the larger one's whole request, then the best of each other node.

    Args:
        posed: the problem.
        chosen: the pattern that was chosen.
        node: that each pattern's request is sent to.
        worth: of each pattern.
        first: the task's first pattern.
        last: behind its last one.
    """
    ways = posed.ways
    taken, patterns = {node[chosen]}, [chosen]
    if ways is not None and ways.way[chosen] != Way.WHOLE:
        upper = int(ways.upper[chosen])
        if node[upper] not in taken:  # a node that cannot have its images begun draws them itself
            taken.add(node[upper])
            patterns.append(upper)
    for p in sorted(range(first, last), key=worth.__getitem__, reverse=True):
        if len(patterns) == TARGETS_MAX or worth[p] == -math.inf:
            break
        if node[p] not in taken and (ways is None or ways.way[p] == Way.WHOLE):
            taken.add(node[p])
            patterns.append(p)
    return patterns


def why(names: list[str], expected_s: list[float], rank: int, budget_s: float, how: str = "") -> str:
    """A phrase for people about the target of a rank: how long it should take, and how far the next one is.

    ``how`` says how two models share it.
    """
    mine_s = expected_s[rank]
    said = f"{names[rank]}{how}: {mine_s:.2f} s expected, {mine_s / budget_s:.2f} of its budget"
    if rank:
        return f"{said}; if {names[0]} fails"
    if len(names) == 1:
        return f"{said}; no other node would do"
    further_s = expected_s[1] - mine_s
    where = f"{1e3 * further_s:.0f} ms further" if further_s >= 0.0 else f"{-1e3 * further_s:.0f} ms nearer, but dearer"
    return f"{said}; {names[1]} {where}"


def how(posed: Posed, pattern: int, name: Callable[[int], str]) -> str:
    """How two machines share a pattern, for people; ``name`` is that of a node."""
    ways = posed.ways
    if ways is None or ways.way[pattern] == Way.WHOLE:
        return ""
    if ways.way[pattern] == Way.SHARING:
        return f", first {ways.length[pattern]} steps at {name(int(ways.node[pattern]))}"
    other = name(int(posed.ints[ways.upper[pattern], sk.NODE]))
    if ways.way[pattern] == Way.SPECULATION:
        return f" drafts for {other}"
    return f", or {other} where it is unsure ({100.0 * ways.deferred[pattern]:.0f} %)"


def refusal(
    wish: Wish,
    fitting: Bool[np.ndarray, " artifact"],
    able: tuple[Bool[np.ndarray, " artifact"], Bool[np.ndarray, " artifact"]],
    quality: Float[np.ndarray, " artifact"],
    retry_s: float,
) -> Refused:
    """Why a request was refused.

    Args:
        wish: the request.
        fitting: the cards that may answer it.
        able: the cards that some node answers with, and some edge or cloud.
        quality: of each card.
        retry_s: when to come back.
    """
    if wish.ask.end is None and not (fitting & able[1]).any() and (fitting & able[0]).any():
        raised = "only ends answer with this model, each its own requests: say which one asks (x-gainnet-end)"
        return Refused(400, raised, code="end_missing", param="model")
    fitting = fitting & able[0]
    if not fitting.any():
        return Refused(503, "no node that can answer this is up", retry_s, code="no_node")
    least = wish.ask.quality_min
    if least is not None and quality[fitting].max() < least:
        return Refused(503, f"no node that is up has a model of quality {least:g}", retry_s, code="no_quality")
    return Refused(429, "no node has room for this in its time at what others offer", retry_s, code="overloaded")


def example(service: str, kind: str) -> Ask | None:
    """A small request of a service."""
    kinds = {"text": "chat", "image": "image"}
    if kind not in kinds:
        return None
    return Ask(kinds[kind], service, None, 100, 10, None, None, "", None)
