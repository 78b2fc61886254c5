"""The live page in a browser: on a phone, from the keyboard, and nothing from anywhere else."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import Place, network, run
from test_keys import ALICE, _kept
from test_live_page import Seeing

async_api = pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra dev")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "GAINNET_TEST_BROWSER" not in os.environ,
    reason="needs chromium in PATH (Debian: apt-get install chromium)",
)
PHONE: Any = {"width": 375, "height": 667}
PATIENCE_MS = 10_000.0


@asynccontextmanager
async def page_of(place: Place, asked: list[str], complaints: list[str]) -> AsyncIterator[Any]:
    """The page of a gateway on a phone, what it asks for, and what the browser says against it."""
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport=PHONE)
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{place.gateway.url}/live")
        yield page
        await browser.close()


def on_page(**network_of: Any) -> Callable[[Callable[[Place, Any], Awaitable[list[str]]]], Callable[..., None]]:
    """A test of a coroutine with a gateway's page; what it returns are the complaints that are to be expected."""

    def decorate(test: Callable[[Place, Any], Awaitable[list[str]]]) -> Callable[..., None]:
        def wrapped() -> None:
            async def main() -> None:
                asked: list[str] = []
                complaints: list[str] = []
                async with network(page=True, **network_of) as place, page_of(place, asked, complaints) as page:
                    url = place.gateway.url
                    expected = await test(place, page)
                assert all(one.startswith(f"{url}/") for one in asked), asked
                assert {one.removeprefix(url) for one in asked} >= {"/live", "/live/state"}
                for said in complaints:
                    assert any(part in said for part in expected), complaints

            run(main())

        wrapped.__name__ = test.__name__
        return wrapped

    return decorate


async def says(page: Any, where: str, what: str) -> None:
    """Wait until an element holds a text."""
    await async_api.expect(page.locator(where)).to_contain_text(what, timeout=PATIENCE_MS)


@on_page(make_router=Seeing, scenario="town", aliases={"now": "m"})
async def test_a_prompt_is_sent_from_the_keyboard_on_a_phone(place: Place, page: Any) -> list[str]:
    await says(page, "#status", "live")
    await says(page, "#nodes", "edge-0")
    for _ in range(3):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "prompt":
            break
    assert await page.evaluate("document.activeElement.id") == "prompt"
    await page.keyboard.press("Control+A")
    await page.keyboard.type("How are you?")
    await page.keyboard.press("Control+Enter")
    await says(page, "#answer", "one two")
    await says(page, "#routed", "edge · edge-0 ·")
    await says(page, "#routed", "nearest: lowest tier with the model is edge")
    body = place.nodes[0].asked[-1][2]
    assert (body["messages"], body["stream"]) == ([{"role": "user", "content": "How are you?"}], True)
    await says(page, "#recent", "nearest: lowest tier")
    await says(page, "#services", "100.0 %")
    await says(page, "#versions", "now")
    await says(page, "#scenario", "town")
    assert await page.locator("#prices li").count() == 12
    widths = await page.eval_on_selector_all("#prices b", "bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths[0] > widths[-1] > 0.0
    assert await page.locator("#map .cell").count() == 2
    assert not await page.locator("#key-field").is_visible()
    assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return []


@on_page(tiers="edge cloud end")
async def test_failures_are_said(place: Place, page: Any) -> list[str]:
    await says(page, "#nodes", "cloud-1")
    assert await page.locator("#map .node").count() == 3  # in rows of tiers, as nobody knows where they stand
    for node in place.nodes:
        node.how = "500"
    await page.click("#send")
    await says(page, "#routed", "the nodes that serve 'm' failed")
    place.nodes[2].how = "cut"
    await page.click("#send")
    await says(page, "#routed", "the node was lost")
    await says(page, "#answer", "one")
    place.nodes[2].how = "held"
    await page.click("#send")
    await page.click("#stop")
    await says(page, "#routed", "stopped")
    await says(page, "#recent", "the client left")
    await place.gateway.drain()
    await place.gateway.close()
    await says(page, "#status", "no news")
    return ["502", "ERR_", "Failed to load resource"]


def test_a_key_is_asked_for(tmp_path: Any) -> None:
    @on_page(**_kept(tmp_path))
    async def with_a_key(place: Place, page: Any) -> list[str]:
        await says(page, "#status", "a key is needed")
        await page.fill("#key", ALICE)
        await says(page, "#status", "live")
        await page.click("#send")
        await says(page, "#answer", "one two")
        return ["401"]

    with_a_key()
