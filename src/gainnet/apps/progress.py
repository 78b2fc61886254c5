"""What a person sees of long work on stderr: a bar where that is a terminal, else a line a minute, for logs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

LINE_S = 60.0
Show = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr; yields what to call with (done, total)."""
    with stages(what, quiet) as show:
        yield lambda done, total: show(what, done, total)


@contextlib.contextmanager
def stages(what: str, quiet: bool) -> Iterator[Show]:
    """Progress on stderr; yields what to call with (what is done, done, total)."""
    if quiet:
        yield lambda _what, _done, _total: None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda now, done, total: bar.update(task, description=now, completed=done, total=total)


def _lines() -> Show:
    """Says how far it is, at most once in `LINE_S`."""
    begun = said = time.monotonic()

    def show(now: str, done: int, total: int) -> None:
        nonlocal said
        at = time.monotonic()
        if at - said < LINE_S:
            return
        said = at
        print(f"gainnet: {now}: {done} of {total}, {(at - begun) / 60.0:.0f} min", file=sys.stderr, flush=True)

    return show
