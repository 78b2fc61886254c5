"""What works in a thread of its own until it is closed: the text engine and the image engine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

import torch

from gainnet.inference.request import EngineStopped

Kind = TypeVar("Kind", bound="Worker")


class Worker(ABC):
    """Takes up work from any thread and does it in its own; whoever waits learns why nothing comes.

    What subclasses share with other threads they change while they hold ``_changed``, and tell by it.
    """

    def __init__(self, name: str, threads: int | None) -> None:
        """``name`` is what errors call it, ``threads`` those of torch in its thread; None leaves them as they are."""
        self._name, self._threads = name, threads
        self._changed = threading.Condition(threading.Lock())
        self._stopping, self._draining = False, False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self: Kind) -> Kind:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failure(self) -> BaseException | None:
        """What ended its work, None where it goes on."""
        return self._failure

    def start(self) -> None:
        """Begin to work; what was asked before waited for this."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"gainnet {self._name}", daemon=True)
            self._thread.start()

    def close(self, drain: bool = False) -> None:
        """Take nothing more, and end: at once, where readers get EngineStopped, or when all that was asked is done."""
        with self._changed:
            self._stopping, self._draining = True, drain and self._thread is not None
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._end(EngineStopped(f"the {self._name} was closed"))

    def _open(self) -> None:
        """Raises EngineStopped: it was closed, or it failed."""
        if self._failure is not None:
            raise EngineStopped(f"the {self._name} failed: {self._failure}")
        if self._stopping:
            raise EngineStopped(f"the {self._name} was closed")

    def _run(self) -> None:
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            with torch.inference_mode():
                self._warm()
                while self._prepare():
                    self._step()
        except BaseException as error:  # noqa: BLE001  whoever reads must learn of it
            self._failure = error
            self._end(EngineStopped(f"the {self._name} failed: {error}"))

    # In its thread.

    def _warm(self) -> None:  # noqa: B027  not all have something to do
        """Before the first work."""

    @abstractmethod
    def _prepare(self) -> bool:
        """Wait for work. False where there is none and none will come."""

    @abstractmethod
    def _step(self) -> None:
        """Do a part of it."""

    @abstractmethod
    def _end(self, error: BaseException) -> None:
        """Tell all who still wait why nothing comes."""
