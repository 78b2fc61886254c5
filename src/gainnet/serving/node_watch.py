"""A priced router that asks its nodes how they are, and tells shaped links what the simulated radio lets through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import numpy as np
from jaxtyping import Float, Int
from pydantic import TypeAdapter, ValidationError

from gainnet.execution.telemetry import NodeState
from gainnet.scenario.scenario import Scenario
from gainnet.serving.fleet import Catalogue, Fleet
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Nearest, Place, Route, Router, Target, View

logger = logging.getLogger(__name__)
WATCH_S = 0.25
ANSWER_S = 2.0
CONTROL_BIT_PER_S = 16_000.0
"""What an end's link carries where the radio has no service: enough for TCP to live through it."""
_SAID = TypeAdapter(NodeState)


class Watched(Router):
    """`Priced` over nodes that are asked for GET /node/state; others are known by whether they answer at all.

    Prices need machine code, which takes a while to compile on a machine's first run: until they are there, the nearest
    node answers.

    Attributes:
        priced: the router, once it is there.
    """

    def __init__(
        self,
        scenario: Scenario,
        places: Sequence[Place],
        *,
        roots: Mapping[str, str] | None = None,
        headers: Mapping[str, Mapping[str, str]] | None = None,
        tls: Mapping[str, ssl.SSLContext] | None = None,
        links: str | None = None,
    ) -> None:
        """A router over a gateway's places.

        Args:
            scenario: the network, its services and its orchestrator.
            places: the gateway's nodes.
            roots: the card that each public model is, where that isn't its own name.
            headers: sent to nodes, by their names.
            tls: how nodes with https are recognised, by their names.
            links: where shapes of links are told (`gainnet.serving.lab`); None: nowhere.

        Errors: InputError where scenario and places don't fit.
        """
        fleet = Fleet.of(places, roots)
        Catalogue(scenario, fleet)
        self._make = lambda: Priced(scenario, fleet)
        self._nearest = Nearest(places)
        self._places, self._headers, self._links = tuple(places), dict(headers or {}), links
        self._tls = dict(tls or {})
        self._scenario = scenario.name
        self._bandwidth_hz = scenario.network.radio.bandwidth_hz
        self._watching: asyncio.Task[None] | None = None
        self.priced: Priced | None = None

    async def route(self, ask: Ask) -> Route:
        """See `Router.route`."""
        return await (self.priced or self._nearest).route(ask)

    def sent(self, ask: Ask, target: Target) -> int:
        """See `Router.sent`."""
        return 0 if self.priced is None else self.priced.sent(ask, target)

    def ended(self, number: int, how: Ended) -> None:
        """See `Router.ended`."""
        if self.priced is not None and number:
            self.priced.ended(number, how)

    def view(self) -> View:
        """See `Router.view`."""
        return View(self._scenario) if self.priced is None else self.priced.view()

    async def start(self) -> None:
        """See `Router.start`; prices follow as soon as they can."""
        self._watching = asyncio.create_task(self._begin())
        self._watching.add_done_callback(_complain)

    async def close(self) -> None:
        """See `Router.close`."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if self.priced is not None:
            await self.priced.close()

    async def _begin(self) -> None:
        priced = await _in_thread(self._make)
        try:
            await priced.start()
        except BaseException:
            await priced.close()
            raise
        self.priced = priced
        logger.info("priced", extra={"nodes": [place.name for place in self._places]})
        await self._watch(priced)

    async def _watch(self, priced: Priced) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as client:
            while True:
                began = time.monotonic()
                await asyncio.gather(
                    *(self._ask(client, priced, place) for place in self._places), self._tell(client, priced)
                )
                await asyncio.sleep(max(WATCH_S - (time.monotonic() - began), 0.01))

    async def _ask(self, client: aiohttp.ClientSession, priced: Priced, place: Place) -> None:
        began = time.monotonic()
        try:
            asked = client.get(
                f"{place.url}/node/state", headers=self._headers.get(place.name), ssl=self._tls.get(place.name, True)
            )
            async with asked as response:
                body = await response.read()
                rtt_s = time.monotonic() - began
                state = _state(place, response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            priced.telemetry(place.name, None)
            return
        priced.telemetry(place.name, state, rtt_s)

    async def _tell(self, client: aiohttp.ClientSession, priced: Priced) -> None:
        if self._links is None:
            return
        names = {place.end: place.name for place in self._places if place.end is not None}
        state = priced.run.state
        down, up = state.truth.downlink_bit_per_s_hz[:, 0], state.truth.uplink_bit_per_s_hz[:, 0]
        rates = radio(state.candidate[:, 0], down, up, names, self._bandwidth_hz)
        try:
            async with client.post(self._links, json=rates) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("links were not told", extra={"reason": str(error)})


async def _in_thread(make: Callable[[], Priced]) -> Priced:
    """What is made, in a thread that nobody waits for where the process is to end."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Priced] = loop.create_future()

    def tell(value: Priced | None, error: BaseException | None) -> None:
        if made.done():
            return
        if error is not None:
            made.set_exception(error)
        elif value is not None:
            made.set_result(value)

    def work() -> None:
        value: Priced | None = None
        error: BaseException | None = None
        try:
            value = make()
        except BaseException as failure:  # noqa: BLE001  whoever waits gets it
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=work, name="gainnet-prices", daemon=True).start()
    return await made


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("there are no prices: the nearest node answers", exc_info=error)


def _state(place: Place, status: int, body: bytes) -> NodeState | None:
    """What a node said; None where it is in trouble."""
    if status == 404:  # another kind of server, which answers
        return NodeState(place.tier, tuple(place.models.values()), tuple(place.models.values()))
    if status != 200:
        return None
    try:
        return _SAID.validate_json(body)
    except ValidationError:
        return None


def radio(
    cell: Int[np.ndarray, " user"],
    down_bit_per_s_hz: Float[np.ndarray, " user"],
    up_bit_per_s_hz: Float[np.ndarray, " user"],
    names: Mapping[int, str],
    bandwidth_hz: float,
) -> dict[str, dict[str, float]]:
    """Rates of ends' links: each cell's band is shared by the ends that it serves (-1: none does). By names of the links."""
    crowd = Counter(cell.tolist())
    made = {}
    for end, name in names.items():
        share_hz = bandwidth_hz / crowd[int(cell[end])] if cell[end] >= 0 else 0.0
        made[name] = {
            "rate_bit_per_s": max(float(down_bit_per_s_hz[end]) * share_hz, CONTROL_BIT_PER_S),
            "back_bit_per_s": max(float(up_bit_per_s_hz[end]) * share_hz, CONTROL_BIT_PER_S),
        }
    return made
