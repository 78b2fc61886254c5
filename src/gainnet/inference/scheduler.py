"""What each step computes: every text that decodes gets a token, and the rest of the step goes to prompts, in order.

Texts that run have the first rows, without gaps, so that their keys and values need no copy; when one ends, the last
takes its row. Sessions have rows of their own after those. Only the engine's thread calls any of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from gainnet.inference.batch import Batch, Segment
from gainnet.inference.forward import Forward
from gainnet.inference.lora import Stacks
from gainnet.inference.prefix import Prefixes
from gainnet.inference.request import Waiter
from gainnet.inference.sampling import choose, judge
from gainnet.inference.stats import Counters
from gainnet.inference.tempo import Tempo
from gainnet.inference.work import Embedding, Generation, Session, Work, resolve, settle

Tell = Callable[[], Waiter | None]
"""Hands out a result; whoever is to be woken up by that is returned."""


class Scheduler:
    """The rows of an engine and what is in them.

    Attributes:
        running: texts that have a slot; each in the row of its place here.
        judging: sessions with a draft to judge.
        counters: what was done.
        prefixes: keys and values of earlier texts.
        stacks: of adapters.
        tempo: what steps keep to; None: they take as long as they take.
    """

    def __init__(
        self, forward: Forward, slots: int, sessions: int, prefill: int, prefix_byte: int, tempo: Tempo | None = None
    ) -> None:
        self._forward, self._slots, self._prefill, self.tempo = forward, slots, prefill, tempo
        self.running: list[Work] = []
        self.judging: list[Session] = []
        self.counters = Counters()
        self.prefixes = Prefixes(forward.rows, prefix_byte)
        self.stacks = Stacks()
        self._free = list(range(slots, slots + sessions))
        self._seated: dict[int, Session] = {}
        """Sessions by their rows."""

    @property
    def room(self) -> int:
        """Slots that are free."""
        return self._slots - len(self.running)

    def warm(self) -> None:
        """Prepare for steps of every size."""
        self._forward.warm(self._slots + self._prefill)

    def admit(self, work: Work) -> None:
        """Give a text a slot, and what is kept of its beginning."""
        work.row = len(self.running)
        self.running.append(work)
        self.counters.prompt_tokens += len(work.token)
        if isinstance(work, Generation):
            work.done = work.answer.cached_tokens = self.prefixes.take(work.owner, work.token, work.row)

    def release(self, work: Work) -> None:
        """Free a text's slot, and keep its keys and values for others that begin like it."""
        if isinstance(work, Generation):
            self.prefixes.keep(work.owner, work.token[: work.done], work.row)
        last = self.running.pop()
        if last is not work:
            self._forward.rows.move(last.row, work.row, last.done)
            last.row = work.row
            self.running[last.row] = last
        work.row = -1

    def unseat(self, session: Session) -> None:
        """Take a session's row away; it goes on by computing its text again, or what is no longer kept of it."""
        if session.row >= 0:
            self.prefixes.keep(session.owner, session.token[: session.done], session.row)
            del self._seated[session.row]
            self._free.append(session.row)
            session.row, session.done = -1, 0

    def step(self) -> tuple[list[Work], list[Tell]]:
        """One forward pass. Texts that ended by it, to be released, and then what is to be told to whoever asked."""
        begun = time.monotonic()
        segments, works = self._plan()
        if not segments:
            return [], []
        batch = Batch(segments, self._forward.rows.context)
        ordered = [works[segment.row] for segment in batch.segments]
        sizes = [len(segment.token) for segment in batch.segments]
        batch.mix = self.stacks.mix([work.adapter for work in ordered], sizes)
        hidden = self._forward.hidden(batch)
        self.counters.steps += 1
        self.counters.step_tokens += sum(sizes)
        if self.tempo is not None:
            self.tempo.keep([(size, work.done) for work, size in zip(ordered, sizes, strict=True)], begun)
        for work, size in zip(ordered, sizes, strict=True):
            work.done += size
        found = self._distribute(list(zip(batch.segments, ordered, strict=True)), hidden)
        self.counters.busy_s += time.monotonic() - begun
        return found

    def _plan(self) -> tuple[list[Segment], dict[int, Work]]:
        segments: list[Segment] = []
        works: dict[int, Work] = {}
        left = self._prefill

        def add(work: Work, token: Sequence[int], want: int) -> None:
            segments.append(Segment(work.row, work.done, token, want))
            works[work.row] = work

        later: list[Work] = []
        for work in self.running:
            if isinstance(work, Generation) and len(work.token) - work.done == 1 and work.done:
                add(work, work.token[-1:], 1)
            else:
                later.append(work)
        for work in (*self._seat(), *sorted(later, key=lambda one: one.begun)):
            pending = work.token[work.done :]
            last = 1
            if isinstance(work, Session) and work.judged is not None:
                pending = [*pending, *work.judged.draft]
                last = 1 + len(work.judged.draft)
            size = min(left, len(pending))
            if size < len(pending):
                size = min(size, len(pending) - last)
            if size <= 0 and left < self._prefill:
                continue  # what is first in line goes whole, were it longer than a step may be
            size = size if size > 0 else len(pending)
            whole = size == len(pending)
            add(work, pending[:size], size if isinstance(work, Embedding) else last if whole else 0)
            left -= size
        return segments, works

    def _seat(self) -> list[Session]:
        """Sessions whose drafts can be judged now: those that have a row or get one."""
        found = []
        for session in self.judging:
            if session.row < 0:
                if not self._free:
                    idle = [one for one in self._seated.values() if one.judged is None]
                    if not idle:
                        continue
                    self.unseat(min(idle, key=lambda one: one.used))
                session.row = self._free.pop()
                self._seated[session.row] = session
                session.done = self.prefixes.take(session.owner, session.token, session.row)
            found.append(session)
        return found

    def _distribute(self, parts: Sequence[tuple[Segment, Work]], hidden: Tensor) -> tuple[list[Work], list[Tell]]:
        """Hand out what a pass gave: hidden states to embeddings, and logits to all others."""
        ended: list[Work] = []
        told: list[Tell] = []
        asked: list[tuple[Work, int]] = []
        states: list[Tensor] = []
        first = 0
        for segment, work in parts:
            state = hidden[first : first + segment.want]
            first += segment.want
            if isinstance(work, Embedding):
                work.take(state)
                if work.done == len(work.token):
                    told.append(partial(resolve, work.future, work.vector()))
                    self.counters.embedded += 1
                    ended.append(work)
            elif segment.want:
                asked.append((work, segment.want))
                states.append(state)
        if asked:
            wanted = hidden if len(asked) == len(parts) else torch.cat(states)
            self._continue(asked, self._forward.logits(wanted), ended, told)
        return ended, told

    def _continue(self, asked: Iterable[tuple[Work, int]], logits: Tensor, ended: list[Work], told: list[Tell]) -> None:
        """A token for each text, and judgement of each draft."""
        first, drawn, places = 0, [], []
        for work, want in asked:
            if isinstance(work, Generation):
                drawn.append(work)
                places.append(first)
            elif isinstance(work, Session):
                told.append(self._judge(work, logits[first : first + want]))
            first += want
        if not drawn:
            return
        chosen = choose(logits if len(drawn) == first else logits[places], [work.draw for work in drawn])
        now = time.monotonic()
        for work, one in zip(drawn, chosen, strict=True):
            self._time(work, now)
            piece = work.take(one)
            if piece.finish is not None:
                self.counters.finished += 1
                ended.append(work)
            told.append(partial(work.answer.put, piece))

    def _time(self, work: Generation, now: float) -> None:
        self.counters.generated_tokens += 1
        if work.last:
            self.counters.inter_token_s += now - work.last
            self.counters.inter_tokens += 1
        else:
            self.counters.first_token_s += now - work.begun
            self.counters.first_tokens += 1
            # Others that begin alike may come while this one runs.
            self.prefixes.keep(work.owner, work.token[: work.done], work.row)
        work.last = now

    def _judge(self, session: Session, logits: Tensor) -> Tell:
        judged = session.judged
        assert judged is not None
        accepted, chosen = judge(logits, judged.draft, session.draw, judged.probability)
        before = len(session.token)
        found = settle(session, judged.draft, accepted, chosen)
        self.counters.drafts += 1
        self.counters.drafted_tokens += len(judged.draft)
        self.counters.accepted_tokens += found.accepted
        self.counters.generated_tokens += len(session.token) - before
        session.judged = None
        self.judging.remove(session)
        return partial(resolve, judged.future, found)
