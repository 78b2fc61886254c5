"""Workers map a function over jobs; whoever uses them need not know where that happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from gainnet.errors import GainnetError

Job = TypeVar("Job")
Result = TypeVar("Result")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class Workers(ABC):
    """Something that runs jobs, several at a time or not; a context, which ends what it started.

    A job that fails ends the map with its own error. A job whose worker dies is tried again.
    """

    @abstractmethod
    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], name: Callable[[Job], str] = str
    ) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, in the order in which they end. May be called again once it is exhausted.

        Args:
            function: what to do with a job; a function of a module that workers can import, which depends on its
                job alone, since a job may be tried twice.
            jobs: what to do it with; jobs and results can be pickled.
            name: what to call a job in an error.

        Raises:
            GainnetError: the worker of a job died at every try.
        """

    def __enter__(self) -> Workers:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers; at once where an error or an interrupt leads here."""


class InProcess(Workers):
    """This process, one job after the other in the order given."""

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        name: Callable[[Job], str] = str,  # noqa: ARG002
    ) -> Iterator[tuple[Job, Result]]:
        """See `Workers.map`."""
        for job in jobs:
            yield job, function(job)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to end."""


def died(name: str, tries: str) -> GainnetError:
    """The error of a job that took its worker with it at every try, ``tries`` of them in words."""
    return GainnetError(f"{name}: its worker process died {tries} (out of memory?): give a smaller scenario")
