"""Ctrl-C and SIGTERM, taken where a run can stop with everything it recorded."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, the first signal only sets a flag, which `check` turns into KeyboardInterrupt between two frames.

    A signal before the first frame is over (``check`` has not been called), or a second one, ends the process at once
    with exit code 130, after ``abandon``.
    """

    def __init__(self, abandon: Callable[[], None]) -> None:
        """``abandon`` tidies up when there is nothing to keep."""
        self._abandon = abandon
        self._checked = False
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Call between two frames. Raises KeyboardInterrupt where a signal came."""
        self._checked = True
        if self._asked:
            raise KeyboardInterrupt

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self._checked and not self._asked:
            self._asked = True
            return
        self._abandon()
        sys.stderr.write("gainnet: interrupted\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def terminate_like_interrupt() -> None:
    """Let SIGTERM end the process as Ctrl-C does, by KeyboardInterrupt."""

    def take(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, take)
