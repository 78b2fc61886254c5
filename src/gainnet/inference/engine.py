"""The embedded engine: many texts continued at once by one model, each with its adapter, joining and leaving at any step.

A thread of its own computes step after step while there is work (iteration-level scheduling: Orca, OSDI 2022; prompts in
chunks beside decoding: arXiv 2308.16369). All methods may be called from any thread.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.inference.adapters import Versions
from gainnet.inference.bounds import Bounds
from gainnet.inference.forward import forward
from gainnet.inference.request import Answer, QueueFull, Sampling, Waiter, wake
from gainnet.inference.scheduler import Scheduler
from gainnet.inference.sessions import Sessions
from gainnet.inference.stats import Stats
from gainnet.inference.stops import Stops, Texts, ends
from gainnet.inference.tempo import Machine, Tempo
from gainnet.inference.work import Embedding, Generation, Verified, Work, joined
from gainnet.inference.worker import Worker
from gainnet.models import tokens
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank

PREFIX_BYTE = 64 << 20
GREEDY = Sampling(temperature=0.0, max_tokens=1 << 30)
"""How a session's text goes on by default."""


class Engine(Worker):
    """A model that answers.

    Attributes:
        language: the model and its tokenizer.
        slots: how many texts run at once.
    """

    def __init__(
        self,
        language: Language,
        *,
        slots: int = 8,
        queue: int = 64,
        sessions: int = 8,
        prefill: int = 256,
        prefix_byte: int = PREFIX_BYTE,
        threads: int | None = None,
        machine: Machine | None = None,
    ) -> None:
        """Make an engine; `start` begins its work.

        Args:
            language: what it computes; nothing here changes it.
            slots: texts that run at once.
            queue: texts that may wait for a slot.
            sessions: sessions that keep their keys and values; more may be open, and are computed again when asked.
            prefill: tokens of prompts in a step at most, so that those who decode wait no longer than that takes.
            prefix_byte: what keys and values of earlier texts may take; 0 keeps none.
            threads: of torch in the engine's thread; None leaves them as they are.
            machine: whose time steps take; None: as long as they take here.

        Raises:
            InputError: a number is too small, or the model is of a kind that cannot be served.
        """
        for name, value in {"slots": slots, "queue": queue, "sessions": sessions, "prefill": prefill}.items():
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        super().__init__("engine", threads)
        self.language, self.slots = language, slots
        self._queue_max = queue
        with torch.inference_mode():
            made = forward(language, slots + sessions)
        tempo = None if machine is None else Tempo(machine)
        self._scheduler = Scheduler(made, slots, sessions, prefill, prefix_byte, tempo)
        self._versions = Versions(made.sites, language.digest)
        self._texts = Texts(language.tokenizer)
        self._bounds = Bounds(int(language.model.config.vocab_size), language.context)
        self._ends = ends(language)
        self._waiting: deque[Work] = deque()
        self._sessions = Sessions(self._bounds, queue, self._scheduler.judging)

    # Requests

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling | None = None,
        *,
        adapter: str | None = None,
        tenant: str = "",
    ) -> Answer:
        """Continue a text.

        Args:
            prompt: its tokens, with what begins a text.
            sampling: how.
            adapter: name of a loaded one; None for the plain model. Its version now is the one that answers.
            tenant: whose it is; nothing that is kept is shared between tenants.

        Raises:
            InputError: the prompt is empty, too long or has unknown tokens, or there is no such adapter.
            QueueFull: as many wait as may.
            EngineStopped: it was closed, or it failed.
        """
        how = sampling or Sampling()
        text = self._bounds.prompt(prompt, 1)
        seed = secrets.randbits(63) if how.seed is None else how.seed
        with self._changed:
            self._accepting(1)
            work = Generation(
                text,
                self._versions.pin(adapter),
                tenant,
                how,
                seed,
                len(text),
                min(how.max_tokens, self.language.context - len(text)),
                Answer(len(text), seed, lambda: self._cancel([work])),
                self._texts.decoder(),
                Stops(how.stop),
                frozenset() if how.ignore_eos else self._ends,
            )
            self._waiting.append(work)
            self._changed.notify_all()
        return work.answer

    def embed(
        self, texts: Sequence[str | Sequence[int]], *, adapter: str | None = None, tenant: str = ""
    ) -> Future[Float[np.ndarray, "text width"]]:
        """Mean hidden states after the last layer of each text, of length 1; texts or their tokens.

        Cancelling the future gives up what was not computed yet. Raises as `submit`, InputError also where there is no
        text, or more than may wait.
        """
        if not texts:
            raise InputError("embed: there is no text")
        if len(texts) > self._queue_max:
            raise InputError(f"embed: {len(texts)} texts: at most {self._queue_max} at once")
        start = tokens.start(self.language.tokenizer)
        plain = [
            [*start, *tokens.ids(self.language.tokenizer, text)] if isinstance(text, str) else text for text in texts
        ]
        checked = [self._bounds.prompt(text, 0) for text in plain]
        with self._changed:
            self._accepting(len(texts))
            works: list[Work] = []
            parts: list[Future[Float[np.ndarray, " width"]]] = []
            for text in checked:
                parts.append(Future())
                works.append(Embedding(text, self._versions.pin(adapter), tenant, parts[-1]))
            self._waiting.extend(works)
            self._changed.notify_all()
        return joined(parts, lambda: self._cancel(works))

    # Sessions, whose drafts are judged

    def open_session(
        self,
        prompt: Sequence[int],
        sampling: Sampling | None = None,
        *,
        adapter: str | None = None,
        tenant: str = "",
    ) -> str:
        """Begin a text that someone else drafts; its name is returned. By default it goes on greedily.

        Raises as `submit`, but takes no place in the queue.
        """
        how = sampling or GREEDY
        text = self._bounds.prompt(prompt, 1)
        with self._changed:
            self._accepting(0)
            last = frozenset() if how.ignore_eos else self._ends
            return self._sessions.open(text, self._versions.pin(adapter), tenant, how, last)

    def verify(
        self, session: str, draft: Sequence[int], probability: Float[np.ndarray, "draft vocabulary"] | None = None
    ) -> Future[Verified]:
        """Judge a draft of how a session's text goes on; what stays, and the token after it, become part of the text.

        Keys and values of what stays are kept, the rest is rolled back. An empty draft asks for the next token.

        Args:
            session: its name.
            draft: tokens that may follow.
            probability: what each of them was drawn from. None: see `gainnet.inference.sampling.judge`; then the text
                is the very one that `submit` gives.

        Raises:
            InputError: no such session, it ended, it is being judged, or the draft has unknown tokens, is longer than
                the context has room for, or its probabilities are none.
            QueueFull: as many drafts wait as may.
            EngineStopped: it was closed, or it failed.
        """
        checked = self._bounds.draft(draft, probability)
        with self._changed:
            self._accepting(0)
            try:
                found = self._sessions.judge(session, checked, probability)
            except QueueFull:
                self._scheduler.counters.refused += 1
                raise
            self._changed.notify_all()
        return found

    def text_of(self, session: str) -> tuple[int, ...]:
        """The tokens of a session's text so far, its prompt too. InputError where there is no such session."""
        with self._changed:
            return tuple(self._sessions.text(session))

    def close_session(self, session: str) -> None:
        """End a session; a draft that is being judged is given up. InputError where there is no such session."""
        with self._changed:
            self._sessions.close(session)
            self._changed.notify_all()

    # Adapters

    def load_adapter(self, name: str, adapter: LowRank | Path, *, replace: bool = False) -> str:
        """Make an adapter available under a name, while others run; its digest is returned.

        Args:
            name: by which requests ask for it.
            adapter: it, or the folder that holds it (`gainnet.models.adapter.save`).
            replace: whether the name may be taken from another version; what began with that goes on with it.

        Raises:
            InputError: the name is taken, or the adapter does not fit the model or cannot be read.
        """
        made = self._versions.prepare(name, adapter)
        with self._changed:
            self._versions.add(made, replace)
            self._changed.notify_all()
        return made.digest

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter; what began with it goes on. InputError where it is not loaded."""
        with self._changed:
            self._versions.remove(name)
            self._changed.notify_all()

    def stats(self) -> Stats:
        """What it is doing, and has done."""
        with self._changed:
            scheduler, prefixes = self._scheduler, self._scheduler.prefixes
            running = list(scheduler.running)
            used = sum(work.done for work in running) / (self.slots * self.language.context)
            return Stats(
                running=len(running),
                waiting=len(self._waiting),
                slots=self.slots,
                sessions=len(self._sessions),
                kv_use=used,
                resident=self._versions.names,
                pins=self._versions.pins,
                prefix_queries=prefixes.queries,
                prefix_hits=prefixes.hits,
                prefix_hit_tokens=prefixes.hit_tokens,
                prefix_byte=prefixes.byte,
                behind_s=0.0 if scheduler.tempo is None else scheduler.tempo.behind_s,
                counters=replace(scheduler.counters),
            )

    def _accepting(self, count: int) -> None:
        self._open()
        if len(self._waiting) + count > self._queue_max:
            self._scheduler.counters.refused += 1
            raise QueueFull(f"{len(self._waiting)} requests wait already, of at most {self._queue_max}")

    # The engine's thread

    def _cancel(self, works: Sequence[Work]) -> None:
        woken: list[Waiter | None] = []
        with self._changed:
            for work in works:
                work.cancelled = True
                if work in self._waiting:
                    self._waiting.remove(work)
                    woken.append(self._give_up(work))
            self._changed.notify_all()
        wake(woken)

    def _give_up(self, work: Work) -> Waiter | None:
        self._versions.unpin(work.adapter)
        self._scheduler.counters.cancelled += 1
        if isinstance(work, Generation):
            return work.give_up()
        if isinstance(work, Embedding):
            work.future.cancel()
        return None

    def _warm(self) -> None:
        self._scheduler.warm()

    def _step(self) -> None:
        ended, told = self._scheduler.step()
        if ended:
            with self._changed:
                for work in ended:
                    self._scheduler.release(work)
                    self._versions.unpin(work.adapter)
        wake([tell() for tell in told])

    def _prepare(self) -> bool:
        """Wait for work and give it slots. False where there is none and none will come."""
        woken: list[Waiter | None] = []
        with self._changed:
            while True:
                woken += self._tidy()
                while self._waiting and self._scheduler.room:
                    self._scheduler.admit(self._waiting.popleft())
                busy = bool(self._scheduler.running or self._scheduler.judging)
                if busy or self._stopping or woken:
                    break
                self._changed.wait()
            more = busy if self._draining else not self._stopping
        wake(woken)
        return more

    def _tidy(self) -> list[Waiter | None]:
        """Free what was given up, and forget what nothing holds."""
        scheduler, woken = self._scheduler, []
        for work in [work for work in scheduler.running if work.cancelled]:
            scheduler.release(work)
            woken.append(self._give_up(work))
        for session in self._sessions.closing:
            if session.judged is not None:
                scheduler.judging.remove(session)
                session.judged.future.cancel()
                session.judged = None
            scheduler.unseat(session)
            self._versions.unpin(session.adapter)
        self._sessions.closing.clear()
        for digest in self._versions.dropped:
            scheduler.prefixes.forget(digest)
            scheduler.stacks.forget(digest)
        self._versions.dropped.clear()
        return woken

    def _end(self, error: BaseException) -> None:
        """Tell all who still wait why nothing comes."""
        with self._changed:
            works = [*self._scheduler.running, *self._waiting]
            drafts = [session.judged for session in self._scheduler.judging if session.judged is not None]
            self._waiting.clear()
            self._scheduler.running.clear()
            self._scheduler.judging.clear()
        wake([work.answer.fail(error) for work in works if isinstance(work, Generation)])
        futures: list[Future[Float[np.ndarray, " width"]] | Future[Verified]] = [draft.future for draft in drafts]
        futures += [work.future for work in works if isinstance(work, Embedding)]
        for future in futures:
            if not future.done():
                future.set_exception(error)
