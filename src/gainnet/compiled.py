"""One door to the compiler: machine code is cached on disk beside the source, and mypy sees the plain function.

Functions that only compiled code calls are marked ``inner``: they get no wrapper for Python callers and count no
references, since building the wrappers is most of the compile time of a function that takes tuples of arrays, and the
counting most of the run time of one that touches many. They can't allocate arrays.

The compiler's cache looks at the time stamp of a function's own file, not at those of the functions and constants that
were compiled into it. So the cache is thrown away here whenever a source file that a kernel could be made of has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
_PACKAGE = Path(__file__).parent
_INNER: dict[str, Any] = {
    "cache": True, "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "_nrt": False,
}  # fmt: skip
_IMPORT = re.compile(r"^\s*(?:from|import) (gainnet[\w.]*)", re.MULTILINE)


def njit(function: Function) -> Function:
    """Compile a function that Python or compiled code calls, once for each signature."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inner(function: Function) -> Function:
    """Compile a function that only compiled code calls, and that allocates nothing."""
    return cast(Function, numba.njit(**_INNER)(function))


def pasted(function: Function) -> Function:
    """Compile an ``inner`` function into each of its callers.

    A call puts seven words on the stack for each array of each tuple that it passes: with tuples of tens of arrays that
    takes longer than a short function runs. For what is called often, from few places.
    """
    return cast(Function, numba.njit(**_INNER, forceinline=True)(function))


def sources() -> list[Path]:
    """The files that machine code may be made of: those with kernels, and all that they import, directly or not."""
    texts = {path: path.read_text("utf-8") for path in _PACKAGE.rglob("*.py")}
    found = {path for path, text in texts.items() if "from gainnet.compiled import" in text}
    new = set(found)
    while new:
        named = {name for path in new for name in _IMPORT.findall(texts[path])}
        new = {path for name in named for path in _files(name) if path in texts} - found
        found |= new
    return sorted(found)


def _files(module: str) -> tuple[Path, Path]:
    """Where a module of this package may be: in a file of its name, or a folder."""
    base = _PACKAGE.joinpath(*module.split(".")[1:])
    return base.with_suffix(".py"), base / "__init__.py"


def _drop_stale_cache() -> None:
    """Delete cached machine code if the package is not the one it was compiled from; does nothing where it may not write."""
    stamps = "".join(f"{p.relative_to(_PACKAGE)}{p.stat().st_mtime_ns}{p.stat().st_size}" for p in sources())
    digest = hashlib.sha256(stamps.encode()).hexdigest()
    stamp = _PACKAGE / "__pycache__" / "compiled.stamp"
    with contextlib.suppress(OSError):
        if stamp.exists() and stamp.read_text() == digest:
            return
        for cached in _PACKAGE.rglob("*.nb[ic]"):
            cached.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest)


_drop_stale_cache()
