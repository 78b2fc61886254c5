"""One door to the compiler: machine code is cached on disk beside the source, and mypy sees the plain function.

Functions that only compiled code calls are marked ``inner``: they get no wrapper for Python callers, and building those
wrappers is most of the compile time of a function that takes tuples of arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def njit(function: Function) -> Function:
    """Compile a function that Python or compiled code calls, once for each signature."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inner(function: Function) -> Function:
    """Compile a function that only compiled code calls."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, _nrt=False)(function))
