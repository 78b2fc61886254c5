"""The image engine: images of many requests drawn at once by one model, each joining and leaving at any step.

A thread of its own takes step after step while there is work. All methods may be called from any thread. Passes have
one size, so that an image is the same, bit for bit, whatever is drawn beside it.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gainnet.errors import InputError
from gainnet.inference.images.request import IMAGES_MAX, Drawing, Painting, Sharing
from gainnet.inference.images.rows import Group, Row
from gainnet.inference.request import QueueFull
from gainnet.inference.tempo import Beat
from gainnet.inference.work import resolve
from gainnet.inference.worker import Worker
from gainnet.models.diffusion import Diffusion


@dataclass(slots=True)
class ImageCounters:
    """Sums since the engine started.

    Attributes:
        images: drawn to the end.
        cancelled: drawings that were given up.
        refused: drawings that found the queue full.
        passes: of the network.
        evaluations: of the network, by one image each.
        shared_steps: taken for another image.
        busy_s: time in passes, s.
        behind_s: by how much steps ended later than on the machine that the engine stands in for, s.
    """

    images: int = 0
    cancelled: int = 0
    refused: int = 0
    passes: int = 0
    evaluations: int = 0
    shared_steps: int = 0
    busy_s: float = 0.0
    behind_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageStats:
    """An image engine at one moment.

    Attributes:
        running: images that have a place.
        waiting: images that wait for one.
        slots: how many places there are.
        drawings: of which an image has a place.
        drawings_waiting: of which none has.
        counters: sums since the start.
    """

    running: int
    waiting: int
    slots: int
    drawings: int
    drawings_waiting: int
    counters: ImageCounters


class ImageEngine(Worker):
    """A model that draws.

    Attributes:
        model: what it computes; nothing here changes it.
        steps: of an image where nothing is said.
    """

    def __init__(
        self,
        model: Diffusion,
        *,
        slots: int = 16,
        queue: int = 64,
        width: int = 8,
        steps: int = 20,
        steps_max: int = 100,
        eta: float = 0.0,
        sharing: Sharing | None = None,
        step_s: float | None = None,
        threads: int | None = None,
    ) -> None:
        """Make an engine; `start` begins its work.

        Args:
            model: what it computes.
            slots: images that are drawn at once.
            queue: images that may wait for a place.
            width: images in one pass, which is filled up where there are fewer.
            steps: of an image where nothing is said.
            steps_max: most that may be asked for.
            eta: part of each step's noise that is drawn anew.
            sharing: which steps alike drawings share; None: none.
            step_s: time of a step of one image on the machine that this stands in for, s; None: as long as it takes here.
            threads: of torch in the engine's thread; None leaves them as they are.

        Raises:
            InputError: a number is out of its range.
        """
        for name, value in {"slots": slots, "queue": queue, "width": width}.items():
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        if not 1 <= steps <= steps_max <= model.steps_max:
            raise InputError(f"steps {steps}, at most {steps_max}: the model's schedule has {model.steps_max}")
        if step_s is not None and not 0.0 < step_s < float("inf"):
            raise InputError(f"step_s {step_s:g}: must be above 0")
        if not 0.0 <= eta <= 1.0:
            raise InputError(f"eta {eta:g}: must be from 0 to 1")
        super().__init__("image engine", threads)
        self.model, self.steps = model, steps
        self._slots, self._queue_max, self._width, self._steps_max = slots, queue, width, steps_max
        self._eta, self._sharing = eta, sharing
        self._step_s, self._beat = step_s, Beat()
        self._running: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._through: list[Row] = []
        self._counters = ImageCounters()

    def submit(self, drawing: Drawing, *, tenant: str = "") -> Painting:
        """Draw images.

        Args:
            drawing: what is asked for.
            tenant: whose it is; steps are shared within a tenant only.

        Raises:
            InputError: it cannot be drawn so.
            QueueFull: as many wait as may.
            EngineStopped: it was closed, or it failed.
        """
        steps = self.steps if drawing.steps is None else drawing.steps
        drawing.check(steps, min(self._steps_max, self.model.steps_max), self.model.latent)
        with torch.inference_mode():
            given = self.model.condition(drawing.prompt)
        begin, last = drawing.begin, steps if drawing.until is None else drawing.until
        seed = secrets.randbits(63) if drawing.seed is None else drawing.seed
        done = 0 if begin is None else begin.done
        painting = Painting(seed, drawing.images * (last - done), lambda: self._cancel(group))
        group = Group(drawing, painting, tenant, drawing.images)
        sharing = self._sharing if drawing.share else None
        fork = 0 if sharing is None or begin is not None else min(int(sharing.part * steps), last)
        eta = self._eta if sharing is None or begin is None else sharing.eta
        rows = []
        for number in range(drawing.images):
            row = Row(group, number, given, self.model.schedule(steps), last, fork, eta, done=done)
            if begin is not None:
                row.latent = torch.tensor(begin.latent[number % len(begin.latent)], dtype=torch.float32)
            rows.append(row)
        with self._changed:
            self._accepting(len(rows))
            for row in rows:
                self._take_up(row)
            self._changed.notify_all()
        self._settle()
        return painting

    def stats(self) -> ImageStats:
        """What it is doing, and has done."""
        with self._changed:
            drawings = {id(row.group) for row in self._running}
            following = (other for row in self._all() for other in row.followers)
            others = {id(row.group) for row in (*self._waiting, *following)} - drawings
            return ImageStats(
                len(self._running), self._wait(), self._slots, len(drawings), len(others), replace(self._counters)
            )

    def _accepting(self, count: int) -> None:
        self._open()
        if count > self._queue_max:
            raise InputError(f"images {count}: must be at most {min(self._queue_max, IMAGES_MAX)}")
        if self._wait() + count > self._queue_max:
            self._counters.refused += 1
            raise QueueFull(f"{self._wait()} images wait already, of at most {self._queue_max}")

    def _wait(self) -> int:
        """Images that wait for a place, or for one that leads them."""
        return len(self._waiting) + sum(len(row.followers) for row in self._all())

    def _all(self) -> Iterable[Row]:
        yield from self._running
        yield from self._waiting

    def _take_up(self, row: Row) -> None:
        """Let an image follow one that leads it, or wait for a place of its own."""
        if self._sharing is not None:
            for other in self._all():
                if other.leads(row, self._sharing.similarity):
                    if other.done < row.fork:
                        other.followers.append(row)
                        return
                    self._fork(other, [row])
                    return
        self._waiting.append(row)

    def _fork(self, leader: Row, rows: Sequence[Row]) -> None:
        """Images go on from where the one that leads them is, or are through where no more was asked of them."""
        leader.group.alike += len(rows)
        for row in reversed(rows):
            row.forked(leader, self._sharing.eta if self._sharing is not None else self._eta)
            row.group.alike = leader.group.alike
            self._counters.shared_steps += row.done
            if row.done == row.last:
                self._through.append(row)
            else:
                self._waiting.appendleft(row)

    def _settle(self) -> None:
        """Answer those whose steps were all taken for another."""
        with self._changed:
            through, self._through = self._through, []
        for row in through:
            self._finish(row)

    def _cancel(self, group: Group) -> None:
        with self._changed:
            if group.cancelled or not group.left:
                return
            group.cancelled = True
            self._counters.cancelled += 1
            for row in list(self._all()):
                row.followers = [other for other in row.followers if other.group is not group]
            for row in [row for row in self._all() if row.group is group]:
                (self._running if row in self._running else self._waiting).remove(row)
                if row.followers:
                    self._replace(row)
            self._changed.notify_all()

    def _replace(self, leader: Row) -> None:
        """The first that follows an image takes its place in front of the others."""
        row, *others = leader.followers
        row.followers = others
        if leader.latent is not None and leader.done:
            self._fork(leader, [row])
        else:
            self._waiting.appendleft(row)

    # The engine's thread

    def _prepare(self) -> bool:
        """Wait for work and give it places. False where there is none and none will come."""
        with self._changed:
            while True:
                while self._waiting and len(self._running) < self._slots:
                    self._running.append(self._waiting.popleft())
                if self._running or self._stopping:
                    return bool(self._running) if self._draining else not self._stopping
                self._changed.wait()

    def _step(self) -> None:
        """One step of every image that has a place."""
        began_s, rows = time.monotonic(), list(self._running)
        found: list[Tensor] = []
        for begin in range(0, len(rows), self._width):
            found += self._passed(rows[begin : begin + self._width])
        if self._step_s is not None:
            self._beat.last(len(rows) * self._step_s, began_s)
        with self._changed:
            self._counters.behind_s = self._beat.behind_s
            self._counters.busy_s += time.monotonic() - began_s
            self._counters.evaluations += len(rows) * self.model.calls
            ended = [row for row, latent in zip(rows, found, strict=True) if self._moved(row, latent)]
            self._running = [row for row in self._running if row not in ended]
        for row in ended:
            self._finish(row)
        self._settle()

    def _passed(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """One pass of the network, filled up with the first image."""
        filled = [*rows, *[rows[0]] * (self._width - len(rows))]
        pairs = [row.prepared(self.model.latent) for row in filled]
        self._counters.passes += 1
        moved = self.model.step(
            torch.stack([latent for latent, _ in pairs]), [row.schedule[row.done] for row in filled],
            [row.given for row in filled], torch.stack([noise for _, noise in pairs]), [row.eta for row in filled],
        )  # fmt: skip
        return [latent.clone() for latent in moved[: len(rows)]]

    def _moved(self, row: Row, latent: Tensor) -> bool:
        """A step of an image was taken; whether it was its last."""
        row.latent, row.done = latent, row.done + 1
        row.group.evaluations += self.model.calls
        row.group.painting.done += 1
        if row.done == row.fork and row.followers and not row.group.cancelled:
            followers, row.followers = row.followers, []
            self._fork(row, followers)
        return row.done == row.last

    def _finish(self, row: Row) -> None:
        """An image is drawn, maybe the last of its drawing."""
        group = row.group
        assert row.latent is not None
        with self._changed:
            group.ended[row.number] = row.latent
            last = len(group.ended) == group.left and not group.cancelled
            group.left = 0 if last else group.left
        if last:
            drawn = group.drawn(self.model)
            with self._changed:
                self._counters.images += len(group.ended) if drawn.pixels is not None else 0
            resolve(group.painting.result, drawn)

    def _end(self, error: BaseException) -> None:
        """Tell all who still wait why nothing comes."""
        with self._changed:
            rows = [*self._all(), *(other for row in self._all() for other in row.followers), *self._through]
            self._running, self._waiting, self._through = [], deque(), []
        for group in {id(row.group): row.group for row in rows}.values():
            if not group.painting.result.done():
                group.painting.result.set_exception(error)
