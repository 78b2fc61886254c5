"""A priced router that asks its nodes how they are, and tells shaped links what the simulated radio lets through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import aiohttp
from pydantic import TypeAdapter, ValidationError

from gainnet.execution.telemetry import NodeState
from gainnet.scenario.scenario import Scenario
from gainnet.serving.fleet import Catalogue, Fleet
from gainnet.serving.priced import Priced
from gainnet.serving.router import Ask, Ended, Nearest, Place, Route, Router, Target, View
from gainnet.serving.shaping import Shaping

logger = logging.getLogger(__name__)
WATCH_S = 0.25
ANSWER_S = 2.0
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
        self._scenario = scenario
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

    def judged(self, small: Target, logprobs: Sequence[float], said: str, answer: str) -> None:
        """See `Router.judged`."""
        if self.priced is not None:
            self.priced.judged(small, logprobs, said, answer)

    def view(self) -> View:
        """See `Router.view`."""
        return View(self._scenario.name) if self.priced is None else self.priced.view()

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
        timeout, told = aiohttp.ClientTimeout(total=ANSWER_S), None
        if self._links is not None:
            told = Shaping(self._scenario, priced.run.network.topology, self._places, self._links)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as client:
            known = self._models()
            while True:
                began = time.monotonic()
                if (now := self._models()) != known:
                    known = now
                    priced.models_changed()
                asked = [self._ask(client, priced, place) for place in self._places]
                await asyncio.gather(*asked, *([] if told is None else [told.tell(client, priced.run.state)]))
                await asyncio.sleep(max(WATCH_S - (time.monotonic() - began), 0.01))

    def _models(self) -> list[frozenset[str]]:
        """What each place serves now: adapters come and go."""
        return [frozenset(place.models) for place in self._places]

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
