"""What a person sees of long work: a bar on stderr, where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal; yields what to call with (done, total)."""
    with stages(what, quiet) as show:
        yield lambda done, total: show(what, done, total)


@contextlib.contextmanager
def stages(what: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, where that is a terminal; yields what to call with (what is done, done, total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda now, done, total: bar.update(task, description=now, completed=done, total=total)
