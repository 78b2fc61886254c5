"""Puts tests/ on the path, starts Ray for tests that ask for it, keeps models that tests train out of the user's cache.

The shapes and types of all that is not compiled are checked at run time. Where coverage is measured, tests that are marked
``untraced`` run without its tracer, which makes Python half as fast: other tests run nearly all of the same lines.

Left alone are compiled modules, since the compiler reads their plain functions, the command line, whose annotations
typer reads, and the scenario, whose annotations pydantic holds it to.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

COMPILES = "from gainnet.compiled import "
READ_BY_OTHERS = ("__init__.py", "compiled.py", "cli.py")
LARGE = ("scipy.stats", "numba", "torch", "transformers", "peft", "diffusers", "matplotlib.pyplot", "openai")
"""Other people's packages that tests import and that take seconds to."""


def _checked() -> list[str]:
    """The modules of gainnet whose annotations are checked, found without importing them."""
    spec = find_spec("gainnet")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    files = (path for path in sorted(package.rglob("*.py")) if path.name not in READ_BY_OTHERS)
    plain = (path.relative_to(package) for path in files if COMPILES not in path.read_text("utf-8"))
    return [".".join(("gainnet", *path.with_suffix("").parts)) for path in plain if path.parts[0] != "scenario"]


install_import_hook(_checked(), "beartype.beartype")


@contextmanager
def _untraced() -> Iterator[None]:
    """Nothing is traced meanwhile. Pausing coverage would not do: a worker of pytest-xdist has two of it, and one stays."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def pytest_collection(session: pytest.Session) -> None:
    """Workers collect all tests: what these import of others is imported before, without the tracer."""
    if hasattr(session.config, "workerinput") and sys.gettrace() is not None:
        with _untraced():
            for name in filter(_found, LARGE):
                import_module(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: workers take whole files in this order, and none should end long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("untraced") is None:
        return (yield)
    with _untraced():
        return (yield)


def _found(name: str) -> bool:
    return find_spec(name.partition(".")[0]) is not None


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A test leaves signals to whom it found them with, though event loops and the command line take them in it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs on this machine, to which this process is connected; it finds jobs.py."""
    if find_spec("ray") is None:
        pytest.skip("needs the extra scale")
    from gainnet.workers.cluster import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "workers"), prepend=os.pathsep)
        workers = Cluster("local", 2)
    import ray

    with workers:
        host, port = ray.get_runtime_context().gcs_address.split(":")
        yield f"{host}:{port}"
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that loops train are kept for the session, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
