"""The router of the live network: the scenario's orchestrator prices every frame, its prices decide each request at once.

A frame ticks every ``frame_s``: the simulated network moves, what nodes say and how requests ended becomes the load, and
what was asked in the last frame is posed and matched for its prices, bids and bound. A request is not made to wait for
that: with those that came in the same millisecond it is answered at the last prices, by the rule of `local`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from gainnet.demand.task import Tasks
from gainnet.execution.live import Live
from gainnet.execution.outcome import Outcomes
from gainnet.execution.request import Request
from gainnet.execution.telemetry import NodeState
from gainnet.measurement.record import Record, Recorder
from gainnet.network.state import NetworkState
from gainnet.orchestrator import stage_kernel as sk
from gainnet.orchestrator.matchers.local import at_once
from gainnet.orchestrator.pattern_kernel import ASAP_S, STEP
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.posed import Posed
from gainnet.orchestrator.ways import Way
from gainnet.run import Run
from gainnet.scenario.scenario import Scenario
from gainnet.serving import choices, priced_view
from gainnet.serving.estimate import Estimates
from gainnet.serving.fleet import Catalogue, Fleet, Wish
from gainnet.serving.partners import Partners
from gainnet.serving.router import Ask, Ended, Refused, Route, Router, Sure, Target, View

logger = logging.getLogger(__name__)
TOGETHER_S = 1e-3
LAG_MAX_S = 1.0
Clock = Callable[[], float]


class Priced(Router):
    """Routes requests at the prices of the last frame.

    Attributes:
        run: the scenario's run.
        live: its execution.
        catalogue: the fleet in the scenario's terms.
        estimates: how large requests are.
        partners: what is known of models that answer together.
        decided: requests that were decided, and the seconds that took.
        record: what was recorded, once closed.
    """

    def __init__(
        self, scenario: Scenario, fleet: Fleet, *, clock: Clock = time.monotonic, recorder: Recorder | None = None
    ) -> None:
        """A router over real nodes.

        Args:
            scenario: the network, its services and its orchestrator.
            fleet: the real nodes.
            clock: seconds that never go back.
            recorder: where every frame and request is recorded; None: nowhere.

        Errors: InputError where scenario and fleet don't fit, or the scenario names a file that can't be read.
        """
        self.run = Run(scenario, execution=Live)
        assert isinstance(self.run.execution, Live)
        self.live: Live = self.run.execution
        self.catalogue = Catalogue(scenario, fleet)
        self.live.serve(self.catalogue.served())
        self.decided, self.record = (0, 0.0), None if recorder is None else recorder.record
        self._scenario, self._fleet, self._recorder, self._clock = scenario, fleet, recorder, clock
        self._real = np.array([place is not None for place in self.catalogue.places])
        self._numbers = {place.name: node for node, place in enumerate(self.catalogue.places) if place is not None}
        artifact = self.run.orchestrator.tables.artifact
        self.estimates = Estimates(self.catalogue, fleet, scenario.network.ends, artifact["quality"])
        self.partners = Partners(
            scenario.collaboration, self.catalogue, artifact["quality"], len(self.catalogue.places)
        )
        self._number = itertools.count(1)
        self._routed: dict[int, tuple[Target, Request, int]] = {}
        self._targets: dict[int, tuple[Target, ...]] = {}
        self._sent: dict[int, tuple[Request, int, float, int]] = {}
        self._plan: Plan | None = None
        self._began_s = clock()
        self._asking: list[tuple[Ask, asyncio.Future[Route]]] = []
        self._together: asyncio.Handle | None = None
        self._decided_at_s = 0.0
        self._ticking: asyncio.Task[None] | None = None
        self.tick()

    # Frames.

    @property
    def now_s(self) -> float:
        """Time of the run."""
        return self._clock() - self._began_s

    @property
    def next_s(self) -> float:
        """When the next frame is due, in time of the run."""
        return self._state.time_s + self._scenario.frame_s

    def tick(self) -> Outcomes | None:
        """End the frame that was, and begin the next: prices are made of what was asked. Returns what ended, if a frame did."""
        run, ended = self.run, self._commit()
        run.observe(self.live.arrived())
        self._plan = run.match()
        self._price = run.orchestrator.price_after(run.posed, self._plan)
        self._state = run.state
        return ended

    def _commit(self) -> Outcomes | None:
        if self._plan is None:
            return None
        outcomes = self.run.commit(self._plan, self._recorder).outcomes
        for task in outcomes.task_id.tolist():
            for target in self._targets.pop(task, ()):
                self._routed.pop(id(target), None)
        return outcomes

    async def _tick_on(self) -> None:
        while True:
            late_s = self.now_s - self.next_s
            if late_s > LAG_MAX_S:
                logger.warning("%.1f s behind: the time of the run stands still for them", late_s)
                self._began_s += late_s
            if late_s < 0.0:
                await asyncio.sleep(-late_s)
                continue
            self.tick()
            await asyncio.sleep(0.0)

    async def start(self) -> None:
        """Compile everything that a request needs, then let frames tick."""
        await asyncio.to_thread(self.rehearse)
        self._began_s = self._clock() - self._state.time_s
        self._ticking = asyncio.create_task(self._tick_on())
        self._ticking.add_done_callback(_complain)

    async def close(self) -> None:
        """Stop the frames, and close the record."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        self.finish()

    def finish(self) -> Record | None:
        """End the last frame and close the record: what has not ended is open."""
        if self._plan is None:
            return self.record
        self.tick()
        self._commit()
        self._plan = None
        if self._recorder is not None:
            self.record = self._recorder.close(self.live.still_open(self.next_s))
        return self.record

    def rehearse(self) -> None:
        """Take every step once with a router of its own, so that machine code is there before the first request."""
        now_s = 0.0
        other = Priced(self._scenario, self._fleet, clock=lambda: now_s)
        for _ in range(2):
            asks = [choices.example(name, service.kind) for name, service in self._scenario.demand.services.items()]
            routes = other.decide([ask for ask in asks if ask is not None])
            for ask, route in zip(asks, routes, strict=False):
                if ask is not None and isinstance(route, Route):
                    other.ended(other.sent(ask, route.targets[0]), Ended(True, False, 0.01, 0.01, 100, 10))
            now_s += self._scenario.frame_s
            other.tick()

    # Requests.

    async def route(self, ask: Ask) -> Route:
        """See `Router.route`: decided at once, or with those that come within a millisecond of the last decision."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Route] = loop.create_future()
        self._asking.append((ask, answer))
        if self._together is None:
            wait_s = self._decided_at_s + TOGETHER_S - loop.time()
            answer_all = self._answer
            self._together = loop.call_soon(answer_all) if wait_s <= 0.0 else loop.call_later(wait_s, answer_all)
        return await answer

    def _answer(self) -> None:
        """Decide all that wait."""
        asking, self._asking, self._together = self._asking, [], None
        waiting = [(ask, answer) for ask, answer in asking if not answer.done()]
        try:
            for (_, answer), route in zip(waiting, self.decide([ask for ask, _ in waiting]), strict=True):
                if isinstance(route, Refused):
                    answer.set_exception(route)
                else:
                    answer.set_result(route)
        finally:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(Refused(500, "the router failed", code="router_failed"))
            self._decided_at_s = asyncio.get_running_loop().time()

    def decide(self, asks: Sequence[Ask]) -> list[Route | Refused]:
        """Where these requests go, those first that come first; the nodes next best follow each choice."""
        began_s, now_s = time.perf_counter(), max(self.now_s, self._state.time_s)
        answers: list[Route | Refused | None] = [None] * len(asks)
        wishes: list[Wish] = []
        places: list[int] = []
        for place, ask in enumerate(asks):
            try:
                wishes.append(self._wish(ask))
                places.append(place)
            except Refused as refused:
                answers[place] = refused
        if wishes:
            for place, answer in zip(places, self._decide(wishes, now_s), strict=True):
                answers[place] = answer
        self.decided = (self.decided[0] + len(asks), self.decided[1] + time.perf_counter() - began_s)
        return [answer for answer in answers if answer is not None]

    def _wish(self, ask: Ask) -> Wish:
        if ask.deadline_s is not None and ask.deadline_s <= 0.0:
            raise Refused(504, "its deadline has passed", code="deadline_exceeded")
        return self.catalogue.wish(ask)

    def _decide(self, wishes: list[Wish], now_s: float) -> list[Route | Refused]:
        tasks = self.estimates.tasks(wishes, now_s)
        state = replace(self._state, time_s=now_s, load=self.live.standing)
        posed = self._posed_between(state, tasks, wishes)
        self._keep_to(posed, wishes)
        choice, worth = at_once(posed.problem, self._price[posed.problem.row_id])
        self.live.asked(tasks, np.flatnonzero(choice < 0))
        ptr, worths, node = posed.problem.task_ptr.tolist(), worth.tolist(), posed.asked_of().tolist()
        ranked = {
            i: choices.ranked(posed, p, node, worths, ptr[i], ptr[i + 1])
            for i, p in enumerate(choice.tolist())
            if p >= 0
        }
        requests = self.live.accept(posed, ranked, now_s)
        queue_s = self.live.telemetry.queue_s()
        asap_s = posed.floats[:, ASAP_S].tolist()
        able = (
            (self.live.answerable(), self.live.answerable(self.catalogue.fixed)) if len(ranked) < len(wishes) else _NONE
        )
        return [
            self._route(wish, requests[i], [asap_s[p] + queue_s[node[p]] for p in ranked[i]], now_s)
            if i in requests
            else self._refusal(wish, able)
            for i, wish in enumerate(wishes)
        ]

    def _posed_between(self, state: NetworkState, tasks: Tasks, wishes: list[Wish]) -> Posed:
        """The problem of requests, with what is known of how models agree about them."""
        together = self.run.orchestrator.collaborator
        if together is None:
            return self.run.orchestrator.pose_between(state, tasks)
        known = self.partners.agreement(wishes)
        together.agreement = known
        posed = self.run.orchestrator.pose_between(state, tasks)
        # A frame's problem is of other requests: the last one's agreement stands for all of them.
        together.agreement = known.last()
        return posed

    def _keep_to(self, posed: Posed, wishes: list[Wish]) -> None:
        """Strike out patterns with another model or fewer steps than nodes will take, or on the end that only stands in."""
        plain = all(wish.card < 0 and wish.ask.end is not None and wish.ask.kind != "image" for wish in wishes)
        if plain and posed.ways is None:
            return
        task, node = posed.ints[:, sk.TASK], posed.asked_of()
        card = np.array([wish.card for wish in wishes])[task]
        stands_in = np.array([wish.ask.end is None for wish in wishes])[task]
        bad = ((card >= 0) & (posed.ints[:, sk.MODEL] != card)) | (stands_in & (node >= self.catalogue.fixed))
        bad |= posed.floats[:, STEP] < posed.columns.step[task]
        if posed.ways is not None:
            together = np.array([wish.ask.together for wish in wishes])[task]
            bad |= np.isin(posed.ways.way, (Way.CASCADE, Way.SPECULATION)) & ~(together & self._real[node])
            bad |= (posed.ways.way == Way.CASCADE) & (card >= 0)
        for i, wish in enumerate(wishes):
            if wish.only is not None:
                bad |= (task == i) & ~np.isin(node, list(wish.only))
        posed.problem.value[bad] = 0.0  # no plan takes what is worth nothing

    def _route(self, wish: Wish, request: Request, expected_s: list[float], now_s: float) -> Route:
        """The targets of a request, and how long each of its patterns should take."""
        posed, patterns = request.posed, request.patterns
        names = [self._name(posed.asked(p)) for p in patterns]
        budget_s = request.deadline_s - now_s
        how = [choices.how(posed, p, self._name) for p in patterns]
        targets = tuple(
            self._target(wish, posed, p, choices.why(names, expected_s, rank, budget_s, how[rank]))
            for rank, p in enumerate(patterns)
        )
        if targets[0].way == "whole" and posed.ways is not None:
            audit = self.partners.audit(wish, int(posed.ints[patterns[0], sk.MODEL]), self.live.idle)
            targets = (replace(targets[0], audit=audit), *targets[1:])
        self._targets[request.task] = targets
        for rank, target in enumerate(targets):
            self._routed[id(target)] = (target, request, rank)
        return Route(targets)

    def _target(self, wish: Wish, posed: Posed, pattern: int, why: str) -> Target:
        node, model, ways = posed.asked(pattern), int(posed.ints[pattern, sk.MODEL]), posed.ways
        way = Way.WHOLE if ways is None else ways.way[pattern]
        sure: Sure | None = None
        verifier: str | None = None
        begun_by = "" if wish.ask.kind == "image" else None
        if ways is not None and way == Way.SPECULATION:
            verifier, model = self._name(int(posed.ints[pattern, sk.NODE])), int(ways.model[pattern])
        elif ways is not None and way == Way.CASCADE:
            sure = self.partners.sure(wish, node, model, int(posed.ints[ways.upper[pattern], sk.MODEL]))
        elif ways is not None and way == Way.SHARING:
            begun_by = self._name(int(ways.node[pattern]))
        place = self.catalogue.place(node)
        own = self.catalogue.own_id(place, model, wish.ask)
        return Target(place.name, place.url, own, why, verifier, sure, begun_by=begun_by)

    def _name(self, node: int) -> str:
        return self.catalogue.place(node).name

    def _refusal(
        self, wish: Wish, able: tuple[Bool[np.ndarray, " artifact"], Bool[np.ndarray, " artifact"]]
    ) -> Refused:
        """Why a request was refused; ``able`` are the cards that some node answers with, and some edge or cloud."""
        retry_s = max(self._scenario.frame_s, self.estimates.took_s(wish.service) / 2.0)
        return choices.refusal(wish, self.catalogue.fitting(wish), able, self.partners.quality, retry_s)

    def sent(self, ask: Ask, target: Target) -> int:
        """See `Router.sent`; ``target`` is one of the route's own."""
        number = next(self._number)
        if id(target) in self._routed:
            _, request, rank = self._routed[id(target)]
            now_s = self.now_s
            self.live.sent(request, rank, now_s)
            self._sent[number] = (request, rank, now_s, ask.output_token)
        return number

    def ended(self, number: int, how: Ended) -> None:
        """See `Router.ended`."""
        if number not in self._sent:
            return
        request, rank, sent_s, asked = self._sent.pop(number)
        if how.ok:
            self.estimates.answered(int(request.of("service")), asked, how.output_token, how.latency_s)
        self.live.ended(
            request, rank, ok=how.ok, at_fault=how.at_fault, began=how.first_byte_s is not None,
            end_s=sent_s + how.latency_s, output_token=float(how.output_token), now_s=self.now_s,
        )  # fmt: skip

    def judged(self, small: Target, logprobs: Sequence[float], said: str, answer: str) -> None:
        """See `Router.judged`."""
        self.partners.judged(small, logprobs, said, answer)

    # Telemetry.

    def telemetry(self, node: str, state: NodeState | None, rtt_s: float | None = None) -> None:
        """A node of this name said how it is; None: it did not answer. Names that are no machine's are passed over.

        Args:
            node: its name.
            state: what it said.
            rtt_s: how long asking took.
        """
        number = self._numbers.get(node)
        if number is None:
            return
        if state is not None:
            self.partners.heard(number, state)
        resident = self.catalogue.resident(number, state.resident if state is not None else ())
        self.live.heard(number, state, resident, rtt_s)

    def models_changed(self) -> None:
        """Nodes have other models than before: take in what the places list now."""
        served = self.catalogue.served()
        self.live.serve(served)
        self.partners.serve(served)

    def seen(self) -> dict[str, Any]:
        """See `gainnet.serving.priced_view.seen`."""
        return priced_view.seen(self.run, self.live, self._state, self._numbers, self.now_s, self.decided)

    def view(self) -> View:
        """See `Router.view`: an edge stands amid its cells, the cloud nowhere."""
        return priced_view.view(self._scenario.name, self.run, self.catalogue.fixed, self._numbers, self.seen())


_NONE = (np.zeros(0, np.bool_), np.zeros(0, np.bool_))


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("frames stopped: requests go on at the last prices", exc_info=error)
