"""What a simulated network lets through, told to a lab's links: radio rates of ends that move, and everything that fails.

An end that failed, or that no cell serves, loses its link, and so does a machine that is down; backhaul that is degraded
carries less. Only what changed is told, so what people set by hand stays until the network changes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
from jaxtyping import Float, Int

from gainnet.execution.fault import Schedule
from gainnet.network.state import Health, NetworkState
from gainnet.network.topology import Topology
from gainnet.run import Run
from gainnet.scenario.scenario import Scenario
from gainnet.serving.router import Ask, Ended, Place, Route, Router, Target, View

logger = logging.getLogger(__name__)
CONTROL_BIT_PER_S = 16_000.0
"""What an end's link carries at the least while it is there: enough for TCP to live through it."""
TELL_S = 0.25
ANSWER_S = 2.0
LAG_MAX_S = 1.0
Shapes = dict[str, dict[str, Any]]


class Shaping:
    """Shapes of links, as `gainnet.serving.links.Shape` has them, from states of the network."""

    def __init__(self, scenario: Scenario, topology: Topology, places: Sequence[Place], links: str) -> None:
        """Of a scenario's network.

        Args:
            scenario: whose faults and rates these are.
            topology: of its network.
            places: the lab's nodes; edges in the scenario's order.
            links: where shapes are told (`gainnet.serving.lab`).
        """
        self._ends = {place.end: place.name for place in places if place.end is not None}
        edges = [place.name for place in places if place.tier == "edge"]
        clouds = [place.name for place in places if place.tier == "cloud"]
        self._fixed = dict(enumerate(clouds)) | {topology.clouds + i: name for i, name in enumerate(edges)}
        self._links, self._topology = links, topology
        self._schedule = Schedule(scenario.execution.faults, topology, ends=scenario.network.ends, seed=scenario.seed)
        self._band_hz = scenario.network.radio.bandwidth_hz
        backhaul = scenario.network.backhaul
        self._whole = dict.fromkeys(self._fixed, backhaul.ring_bit_per_s or 1000000000.0)
        self._whole |= {node: backhaul.cloud_bit_per_s for node in self._fixed if node < topology.clouds}
        self._told: Shapes = {}

    def health(self, time_s: float) -> Health:
        """What the scenario says to work at a time of its run."""
        return self._schedule.health(time_s)

    def shapes(self, state: NetworkState) -> Shapes:
        """Of all links in a frame."""
        health = self.health(state.time_s)
        cell, truth = state.candidate[:, 0], state.truth
        served = np.where(health.end_up, cell, -1)
        made = radio(
            served, truth.downlink_bit_per_s_hz[:, 0], truth.uplink_bit_per_s_hz[:, 0], self._ends, self._band_hz
        )
        for node, name in self._fixed.items():
            factor = self._left(node, health)
            made[name] = {"up": bool(health.node_up[node]) and factor > 0.0}
            if factor > 0.0:
                made[name]["rate_bit_per_s"] = self._whole[node] * factor
        return made

    def _left(self, node: int, health: Health) -> float:
        """What is left of the best of a fixed machine's links; all of it where it has none."""
        topology = self._topology
        mine = health.link_factor[(topology.link_a == node) | (topology.link_b == node)]
        return float(mine.max()) if len(mine) else 1.0

    async def tell(self, client: aiohttp.ClientSession, state: NetworkState) -> None:
        """Tell the lab what is other than it was told before."""
        now = self.shapes(state)
        changed = {
            name: new
            for name, fields in now.items()
            if (new := {key: value for key, value in fields.items() if self._told.get(name, {}).get(key) != value})
        }
        if not changed:
            return
        try:
            async with client.post(self._links, json=changed) as response:
                response.raise_for_status()
            self._told = now
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("links were not told", extra={"reason": str(error)})


def radio(
    cell: Int[np.ndarray, " user"],
    down_bit_per_s_hz: Float[np.ndarray, " user"],
    up_bit_per_s_hz: Float[np.ndarray, " user"],
    names: Mapping[int, str],
    bandwidth_hz: float,
) -> Shapes:
    """Ends' links: each cell's band is shared by the ends that it serves (-1: none does). By names of the links."""
    crowd = Counter(cell.tolist())
    made: Shapes = {}
    for end, name in names.items():
        if cell[end] < 0:
            made[name] = {"up": False}
            continue
        share_hz = bandwidth_hz / crowd[int(cell[end])]
        made[name] = {
            "up": True,
            "rate_bit_per_s": max(float(down_bit_per_s_hz[end]) * share_hz, CONTROL_BIT_PER_S),
            "back_bit_per_s": max(float(up_bit_per_s_hz[end]) * share_hz, CONTROL_BIT_PER_S),
        }
    return made


class Moved(Router):
    """Another router over links whose ends move and fail as the simulated network says."""

    def __init__(self, router: Router, scenario: Scenario, places: Sequence[Place], links: str) -> None:
        """See `Shaping`."""
        self._router, self._scenario = router, scenario
        self._places, self._links = tuple(places), links
        self._moving: asyncio.Task[None] | None = None

    async def route(self, ask: Ask) -> Route:
        """See `Router.route`."""
        return await self._router.route(ask)

    def sent(self, ask: Ask, target: Target) -> int:
        """See `Router.sent`."""
        return self._router.sent(ask, target)

    def ended(self, number: int, how: Ended) -> None:
        """See `Router.ended`."""
        self._router.ended(number, how)

    def view(self) -> View:
        """See `Router.view`."""
        return self._router.view()

    async def start(self) -> None:
        """See `Router.start`; the network moves from now on."""
        await self._router.start()
        self._moving = asyncio.create_task(self._move())
        self._moving.add_done_callback(_complain)

    async def close(self) -> None:
        """See `Router.close`."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
            self._moving = None
        await self._router.close()

    async def _move(self) -> None:
        """Advance the network to what the clock says, and tell; where it can't follow, its time stands still."""
        run = await asyncio.to_thread(Run, self._scenario)
        shaping = Shaping(self._scenario, run.network.topology, self._places, self._links)
        load = run.execution.load
        began_s, next_s = time.monotonic(), 0.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S), trust_env=False) as client:
            while True:
                began_s += max(time.monotonic() - began_s - next_s - LAG_MAX_S, 0.0)
                state = None
                while next_s <= time.monotonic() - began_s:
                    state = run.network.advance(replace(load, health=shaping.health(next_s)))
                    next_s = state.time_s + self._scenario.frame_s
                if state is not None:
                    await shaping.tell(client, state)
                await asyncio.sleep(TELL_S)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the network stands still: links stay as they are", exc_info=error)
