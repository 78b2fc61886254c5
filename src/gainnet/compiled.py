"""One door to the compiler: ``njit`` with a cache on disk and a type that mypy can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def njit(function: Function) -> Function:
    """Compile ``function`` with numba, once for each signature; the machine code is cached beside the source."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
