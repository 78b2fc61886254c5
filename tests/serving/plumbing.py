"""Links by the kernel with a queueing discipline that only has a rate, in place of netem, which not every kernel has."""

from __future__ import annotations

import os

import pytest

from gainnet.serving import namespaces, netem
from gainnet.serving.links import Shape


def need(discipline: list[str]) -> None:
    """Skips a test where the kernel lacks namespaces or this queueing discipline; fails it where it must not be skipped."""
    if reason := namespaces.missing(discipline):
        (pytest.fail if "GAINNET_TEST_NETEM" in os.environ else pytest.skip)(reason)


def rate_only(shape: Shape, direction: int) -> list[str]:
    """As `netem.arguments`: all but this is as it is with netem."""
    rate = round(min(shape.rate(direction), 1e10))
    return ["tbf", "rate", f"{rate}bit", "burst", "16kb", "latency", "500ms"]


def plumb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have links so; skip the test where even that may not be."""
    monkeypatch.setattr(netem, "arguments", rate_only)
    need(rate_only(Shape(), 0))


def left() -> list[str]:
    """Namespaces of this process that are there."""
    mine = f"gainnet-{os.getpid()}-"
    return [line for line in namespaces.run("ip", "netns", "list").splitlines() if line.startswith(mine)]
