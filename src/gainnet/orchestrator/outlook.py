"""What the orchestrator knows beyond the frame's problem, and how a policy steers the problem by it.

A myopic plan takes what tasks of later frames would need more. Foresight puts a bid on the time to come of each shared
resource (see `Orchestrator`), learned slowly from what new tasks would use. A *steering* is what a policy adds to that:
a log factor on every bid, from what is known now (faults, queues, batches, refusals), and an admission threshold. The
outlook holds what it may read: one vector for each shared resource and one for the whole network, all without units and
of the same meaning in every scenario, so that one small network serves any number of cells and machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from gainnet.network.state import Load
from gainnet.orchestrator.pool import BACKHAUL, CLOUD_COMPUTE, EDGE_COMPUTE, RADIO, Pool

KINDS = (RADIO, EDGE_COMPUTE, CLOUD_COMPUTE, BACKHAUL)
"""Kinds of the resources that are shared, in the order of the outlook's one-hot columns."""
HORIZON_S = (0.0, 0.5, 2.0, 1e9)
"""The commitments that a policy sees are those until the first slot edge at or past each of these."""
RESOURCE_FEATURES = ("radio", "edge", "cloud", "backhaul", "healthy", *(f"committed_{i}" for i in range(len(HORIZON_S))),
                     "offered", "bid", "batch")  # fmt: skip
OVERALL_FEATURES = ("arrived", "waiting", "refused", "sensing", "begun")
RESIDUAL_MAX = 3.0
"""Greatest absolute log factor of a steering on a bid."""
MARGIN_MAX = 1.0
_RATE = 0.1
_BEGUN_S = 5.0
_BATCH_MAX = 64.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a policy may read at the start of a frame, before it knows what arrived since the last one.

    Attributes:
        kind: index into KINDS of each shared resource: the cells' bands, the fixed machines' time, the links.
        resource: RESOURCE_FEATURES of each: one-hot kind; what it gives now over what it gives when all is well; what is
            committed to running tasks until some moments, over what it gives until then; what the last frame's new tasks
            would use of it at the bids, over what it gives in a frame; log of the bid for a frame of it, relative to
            what a frame's new tasks are worth; log of the batch decoded together, relative to 64.
        overall: OVERALL_FEATURES: tasks that arrived in the last frame over their running mean, tasks that wait over
            those posed, share of the posed that was refused, whether sensing works, and how much of the first seconds
            has gone by.
    """

    kind: Int[np.ndarray, " shared"]
    resource: Float[np.ndarray, "shared feature"]
    overall: Float[np.ndarray, " overall_feature"]


@dataclass(frozen=True, slots=True)
class Steering:
    """What a policy adds to a frame's bids.

    Attributes:
        residual: log factor on the bid of each shared resource, clipped to +-RESIDUAL_MAX; zeros change nothing.
        threshold: a pattern must be worth more than this many times the mean worth of a new task; 0 changes nothing.
        margin: log factor on what each shared resource is taken to give, clipped to +-MARGIN_MAX: below 0 it keeps a
            reserve, above 0 it overbooks; zeros, or None, change nothing.
    """

    residual: Float[np.ndarray, " shared"]
    threshold: float
    margin: Float[np.ndarray, " shared"] | None = None


@runtime_checkable
class Policy(Protocol):
    """What steers: `drl`, or an environment's agent."""

    def steer(self, outlook: Outlook) -> Steering:
        """A steering for the coming frame."""
        ...


class Lookout:
    """Keeps what the outlook needs from frame to frame.

    Args:
        pool: the rows.
        kind: index into POOL_KINDS of each resource.
        frame_s: length of a frame.
    """

    def __init__(self, pool: Pool, kind: Int[np.ndarray, " resource"], frame_s: float) -> None:
        self._pool = pool
        self._frame_s = frame_s
        self.shared = np.concatenate([np.arange(pool.end_start), np.arange(pool.link_start, pool.resources)])
        self._kind = np.searchsorted(np.array(KINDS), kind[self.shared])
        until_s = pool.slot_edge_s[1:]
        self._slot = np.minimum(np.searchsorted(until_s, HORIZON_S), pool.slots - 1)
        self._whole = np.outer(pool.capacity_per_s[self.shared], until_s[self._slot])
        self._given = pool.capacity_per_s[self.shared] * frame_s
        self._features = np.zeros((len(self.shared), len(RESOURCE_FEATURES)))
        self._features[np.arange(len(self.shared)), self._kind] = 1.0
        machine = np.arange(pool.compute_start, pool.end_start)
        self._machine = np.repeat(np.arange(pool.fixed), pool.compute_parts)
        self._machine_at = np.searchsorted(self.shared, machine)
        self.arrived_mean = self._arrived = self._refused = self._posed = 0.0

    def saw(self, arrived: int, posed: int, refused: int) -> None:
        """Take in how many tasks arrived, were posed and were refused in a frame."""
        self.arrived_mean += _RATE * (arrived - self.arrived_mean)
        self._arrived, self._posed, self._refused = float(arrived), float(posed), float(refused)

    def outlook(
        self,
        load: Load,
        time_s: float,
        capacity: Float[np.ndarray, " resource"],
        bid: Float[np.ndarray, " resource"],
        offered: Float[np.ndarray, " resource"],
        worth: float,
    ) -> Outlook:
        """The outlook on the frame that begins at ``time_s``.

        Args:
            load: what the last frame did.
            time_s: start of the coming frame.
            capacity: what each resource gives in a second now, after faults.
            bid: bid on a unit of each resource.
            offered: what the last frame's new tasks would use of each resource.
            worth: running mean of what a frame's new tasks are worth.
        """
        pool, shared, out = self._pool, self.shared, self._features.copy()
        column = len(KINDS)
        out[:, column] = capacity[shared] / np.maximum(pool.capacity_per_s[shared], 1e-12)
        committed = load.committed[: pool.resources * pool.slots].reshape(pool.resources, pool.slots)
        stop = column + 1 + len(HORIZON_S)
        out[:, column + 1 : stop] = np.clip(committed[shared][:, self._slot] / self._whole, 0.0, 2.0)
        out[:, stop] = np.clip(offered[shared] / self._given, 0.0, 4.0) / 2.0
        price = bid[shared] * self._given / max(worth, 1e-12)
        out[:, stop + 1] = np.log(np.clip(price, 1e-6, 1e3)) / 5.0
        batch = np.log(np.clip(load.batch[: pool.fixed].max(axis=1), 1.0, _BATCH_MAX)) / np.log(_BATCH_MAX)
        out[self._machine_at, stop + 2] = batch[self._machine]
        posed = max(self._posed, 1.0)
        overall = np.array(
            [
                min(self._arrived / max(self.arrived_mean, 1.0), 4.0) / 2.0,
                min(max(self._posed - self._arrived, 0.0) / posed, 1.0),
                self._refused / posed,
                float(load.health.sensing_up),
                min(time_s / _BEGUN_S, 1.0),
            ]
        )
        return Outlook(self._kind, out, overall)
