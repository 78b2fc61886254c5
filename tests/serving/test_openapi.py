"""schemathesis finds nothing against the page at /openapi.json."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvloop
from fakes import network
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

EXAMPLES = 5
"""Of each operation, good and bad."""


@pytest.fixture(scope="module")
def api() -> Iterator[schemathesis.schemas.BaseSchema]:
    """The schema of a gateway that runs in a thread of its own."""
    started, over = threading.Event(), asyncio.Event()
    found: list[tuple[str, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        async with network() as place:
            found.append((place.gateway.url, asyncio.get_running_loop()))
            started.set()
            await over.wait()

    def serve() -> None:
        try:
            uvloop.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(60.0)
    url, loop = found[0]
    yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    loop.call_soon_threadsafe(over.set)
    thread.join()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.untraced
def test_nothing_is_found_against_the_page(mode: GenerationMode, api: schemathesis.schemas.BaseSchema) -> None:
    number = itertools.count()
    for found in api.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method.upper() != "POST":
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: schemathesis.Case) -> None:
            if mode is GenerationMode.POSITIVE:  # what the page says in words: a key is one request's, and time passes
                own = {"idempotency-key": f"key-{next(number)}", "x-gainnet-deadline-ms": "60000"}
                case.headers.update({name: value for name, value in own.items() if name in case.headers})
            case.call_and_validate()

        holds()
