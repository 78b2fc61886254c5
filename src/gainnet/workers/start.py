"""The workers that a person asked for."""

from __future__ import annotations

import os

from gainnet.workers.cluster import Cluster
from gainnet.workers.processes import Processes
from gainnet.workers.workers import InProcess, Workers


def start(number: int | None = None, ray: str | None = None) -> Workers:
    """Workers, to be used in a ``with`` block.

    Args:
        number: how many jobs run at once, at least 1; None for as many as there are CPUs.
        ray: the address of a Ray cluster, ``auto`` or ``local`` (see `gainnet.workers.cluster.connect`); None for this machine
            without Ray: processes, or this process where ``number`` is 1.

    Raises:
        InputError: Ray is not installed or cannot be reached.
    """
    if ray is not None:
        return Cluster(ray, number)
    number = number or os.cpu_count() or 1
    return InProcess() if number == 1 else Processes(number)
