"""The commands of the live network: nodes, gateways, and labs of them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gainnet.errors import GainnetError, InputError

ASK_S = 120.0


def node(config: Path | None, tier: str | None) -> None:
    """Serve a node until SIGTERM or SIGINT. InputError in one line where its settings are wrong."""
    import uvloop

    from gainnet.serving import log
    from gainnet.serving.listener import serve
    from gainnet.serving.node_settings import NodeSettings
    from gainnet.serving.reading import read

    settings = read(NodeSettings, config, **({} if tier is None else {"tier": tier}))
    log.begin(settings.log_level)

    from gainnet.serving.node import Node

    uvloop.run(serve(Node(settings)))


def gateway(config: Path | None, scenario: str | None, overrides: Sequence[str]) -> None:
    """Serve a gateway until SIGTERM or SIGINT. InputError in one line where its settings are wrong."""
    import uvloop

    from gainnet.serving import log
    from gainnet.serving.gateway import Gateway, MakeRouter
    from gainnet.serving.listener import serve
    from gainnet.serving.reading import read
    from gainnet.serving.settings import GatewaySettings

    settings = read(GatewaySettings, config)
    make: MakeRouter | None = None
    if settings.router == "priced":
        named = scenario or settings.scenario
        if named is None:
            raise InputError(
                "router: priced needs a scenario, whose network is priced: `scenario`, or --scenario SCENARIO"
            )
        from gainnet.scenario.load import load
        from gainnet.serving.node_watch import Watched
        from gainnet.serving.upstream import context

        loaded = load(named, overrides)
        roots = {name: known.root for name, known in settings.models.items() if known.root is not None}
        headers = {place.name: place.headers for place in settings.nodes}
        tls = {place.name: context(place.tls) for place in settings.nodes if place.url.startswith("https:")}
        make = lambda places: Watched(loaded, places, roots=roots, headers=headers, tls=tls)  # noqa: E731
    elif scenario is not None:
        raise InputError(f"--scenario {scenario}: only `router: priced` has one, the settings say {settings.router!r}")
    log.begin(settings.log_level)

    uvloop.run(serve(Gateway(settings, make)))


def lab_up(
    scenario: str,
    overrides: Sequence[str],
    nodes: str,
    router: str,
    models: Sequence[str],
    port: int,
    links: str,
    patience_s: float,
    out: Path,
) -> None:
    """Start a lab, say where it is, and end it on SIGTERM or SIGINT."""
    import uvloop

    from gainnet.scenario.load import load
    from gainnet.serving.lab import Lab, asking
    from gainnet.serving.lab_child import LabFailed

    loaded = load(scenario, overrides)
    folders = _folders(models)

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        lab = Lab(
            loaded, out, nodes=nodes, router=router, models=folders, port=port, links=links, patience_s=patience_s, say=_say
        )  # fmt: skip
        try:
            if not await _started(lab.start(), stop):
                return
            model = lab.parts[0].public
            address = f"{lab.url}/v1"
            print(f"lab: {address} answers ({len(lab.parts)} nodes, ready in {lab.ready_s:.1f} s; {out / 'lab.json'})")
            print(f"{lab.url}/live shows it in a browser")
            print(asking(address, model))
            print(f"gainnet lab ask Hello --out {out}; Ctrl-C ends all of it", flush=True)
            await lab.run(stop)
        finally:
            await lab.close()
        if lab.failed is not None:
            raise LabFailed(lab.failed)

    uvloop.run(main())


async def _started(starting: Any, stop: asyncio.Event) -> bool:
    """Whether it started before it was to stop."""
    work, stopping = asyncio.ensure_future(starting), asyncio.ensure_future(stop.wait())
    await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not work.done():
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return False
    try:
        await work
    except TimeoutError:
        raise GainnetError("the lab was not ready in time: see its logs, or wait longer with --patience-s") from None
    return True


def _folders(models: Sequence[str]) -> dict[str, Path]:
    found = {}
    for item in models:
        tier, _, folder = item.partition("=")
        if not folder or not Path(folder).is_dir():
            raise InputError(f"--model {item}: must be TIER=DIR, a folder with a model")
        found[tier] = Path(folder)
    return found


def lab_ask(text: str, end: int | None, model: str | None, out: Path) -> None:
    """Ask a running lab, and print its answer, then who gave it and why."""
    file = out / "lab.json"
    try:
        lab = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{file}: there is no lab running from here: gainnet lab up --out {out}") from None
    most = max(lab["models"], key=lambda known: sum(known in node["models"] for node in lab["nodes"]))
    body = {"model": model or most, "messages": [{"role": "user", "content": text}], "max_tokens": 60}
    headers = {"content-type": "application/json"} | ({} if end is None else {"x-gainnet-end": str(end)})
    request = urllib.request.Request(  # noqa: S310  the address is the lab's own
        f"{lab['address']}/chat/completions", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=ASK_S) as response:  # noqa: S310
            answer, said = json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        with error:
            raise GainnetError(json.loads(error.read())["error"]["message"]) from None
    except OSError as error:
        raise GainnetError(f"{lab['address']}: does not answer ({error})") from None
    print(answer["choices"][0]["message"]["content"])
    print(f"-- {said['x-gainnet-node']} ({said['x-gainnet-tier']}): {said['x-gainnet-why']}", file=sys.stderr)


def _say(message: str) -> None:
    print(f"gainnet: {message}", file=sys.stderr, flush=True)
