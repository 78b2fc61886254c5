"""Jobs for workers, in a module of their own that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def double(number: int) -> int:
    return 2 * number


def threads(_number: int) -> set[str | None]:
    return {os.environ.get(name) for name in THREADS}


def refuse(number: int) -> int:
    if number == 1:
        raise ArithmeticError("no ones")
    return number


def die_once(job: tuple[str, int]) -> int:
    """Kills its worker on job 1 where the mark is not there yet, or where it is ``always``."""
    mark, number = job
    if number == 1 and (mark == "always" or not Path(mark).exists()):
        if mark != "always":
            Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def overlap(job: tuple[str, int]) -> int:
    """How many of these jobs run at the same moment as this one."""
    folder, number = Path(job[0]), job[1]
    mine = folder / str(number)
    mine.touch()
    time.sleep(0.05)
    most = len(list(folder.iterdir()))
    mine.unlink()
    return most


def linger(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)
