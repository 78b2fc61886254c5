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
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
_PACKAGE = Path(__file__).parent
WITHOUT_KERNELS = ("apps", "knowledge", "measurement")  # packages that no kernel is in or takes anything from


def njit(function: Function) -> Function:
    """Compile a function that Python or compiled code calls, once for each signature."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inner(function: Function) -> Function:
    """Compile a function that only compiled code calls, and that allocates nothing."""
    options: dict[str, Any] = {
        "cache": True, "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "_nrt": False,
    }  # fmt: skip
    return cast(Function, numba.njit(**options)(function))


def _drop_stale_cache() -> None:
    """Delete cached machine code if the package is not the one it was compiled from; does nothing where it may not write."""
    apart = [_PACKAGE / name for name in WITHOUT_KERNELS]
    sources = sorted(path for path in _PACKAGE.rglob("*.py") if not any(map(path.is_relative_to, apart)))
    stamps = "".join(f"{path.relative_to(_PACKAGE)}{path.stat().st_mtime_ns}{path.stat().st_size}" for path in sources)
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
