"""Links shaped by the kernel: each node in a network namespace of its own, joined by a pair of interfaces to a bridge.

The bridge is in a namespace too, the hub, and so is one end of a pair whose other end is where the lab and its gateway run:
they find each node at an address of the lab's own subnet. `netem`, the kernel's queueing discipline, is on both interfaces of
a node: what leaves the hub for it, and what leaves the node. From one node to another is over the links of both. There is
no way out of the subnet for a node, and no interface of the machine's own is touched.

Linux, with root's capabilities, `ip`, `tc`, and a kernel that has the module sch_netem.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gainnet.errors import InputError
from gainnet.serving import namespaces
from gainnet.serving.links import BUFFER_BYTE, SEGMENT_BYTE, Links, Shape, Site
from gainnet.serving.namespaces import CommandFailed, run

PORT = 8_000
NETWORK = "198.19"
"""Half of what RFC 2544 sets apart for tests of networks; each lab has one of its 256 subnets."""
FIRST = 10
"""The number of the first node in its subnet; that of the lab is 1."""
MOST = 240
"""Nodes of a subnet."""
RATE_BIT_PER_S = 32e9
"""Where there is no limit: without any rate, netem reorders what jitter delays."""
_FRAME_BYTE = SEGMENT_BYTE + 54
_NODE, _HOST = "eth0", "host"


def arguments(shape: Shape, direction: int) -> list[str]:
    """The queueing discipline of a link's direction, 0 to the node or 1 from it: its kind, and its arguments for `tc`.

    An outage is a loss of everything. What netem draws evenly from delay - jitter to delay + jitter is what `Shape` draws
    from its latency on. As many packets may be queued as are on their way at that rate, and `BUFFER_BYTE` more.
    """
    rate_bit_per_s = min(max(shape.rate(direction), 8.0), RATE_BIT_PER_S)
    half_s = shape.jitter_s / 2.0
    way_byte = rate_bit_per_s / 8.0 * (shape.latency_s + shape.jitter_s)
    limit = math.ceil((way_byte + BUFFER_BYTE) / _FRAME_BYTE)
    delay = f"{round(1e6 * (shape.latency_s + half_s))}us", f"{round(1e6 * half_s)}us"
    loss = 100.0 * shape.loss if shape.up else 100.0
    return [
        "netem", "limit", str(limit), "delay", *delay, "loss", f"{loss:g}%", "rate", f"{round(rate_bit_per_s)}bit",
    ]  # fmt: skip


class Netem(Links):
    """A namespace to each node, on a bridge of the lab."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """See `Links`. InputError where there are more than a subnet has room for."""
        super().__init__(shapes)
        if len(shapes) > MOST:
            raise InputError(f"--links netem: must be at most {MOST} nodes, not {len(shapes)}")
        self._number = {name: number for number, name in enumerate(shapes)}
        self._family = namespaces.Family()
        self._hub = self._family.name("hub")
        self._told: dict[tuple[str, int], list[str]] = {}
        self._subnet = 0
        self._began = False
        self._worker = ThreadPoolExecutor(1, "netem")

    async def start(self) -> None:
        """See `Links.start`."""
        await self._in_thread(self._set_up)

    async def close(self) -> None:
        """See `Links.close`."""
        await self._in_thread(self._tear_down)  # after what was given up, which goes on to its end
        self._worker.shutdown()

    def site(self, name: str) -> Site:
        """See `Links.site`."""
        return Site(self._address(name), PORT, self._family.name(name))

    def joined(self, name: str, url: str) -> None:
        """See `Links.joined`: it is where it was told to be."""

    def url(self, name: str) -> str:
        """See `Links.url`."""
        return f"http://{self._address(name)}:{PORT}"

    async def _apply(self, name: str, shape: Shape) -> None:
        for direction in (0, 1):
            if arguments(shape, direction) != self._told[name, direction]:
                await self._in_thread(partial(self._shape, name, shape, direction))

    async def _carried(self) -> dict[str, dict[str, Any]]:
        said = await self._in_thread(lambda: run("ip", "-n", self._hub, "-s", "-j", "link", "show"))
        counted = {each["ifname"]: each["stats64"] for each in json.loads(said)}
        return {
            name: {"to_node_byte": counts["tx"]["bytes"], "from_node_byte": counts["rx"]["bytes"]}
            for name, counts in ((name, counted[self._port(name)]) for name in self._shapes)
        }

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Do something that blocks, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    # What blocks.

    def _set_up(self) -> None:
        """Make all of it. InputError where this machine can't, or hasn't room for one more lab."""
        if lacking := namespaces.missing(arguments(Shape(), 0)):
            raise InputError(f"--links netem: {lacking}; --links proxy shapes in user space, everywhere")
        self._began = True
        namespaces.remove_left()
        self._family.add("hub")
        self._ip("link", "add", "name", "hub", "type", "bridge")
        self._ip("link", "set", "dev", "hub", "up")
        self._join_lab()
        for name, shape in self._shapes.items():
            self._join_node(name)
            for direction in (0, 1):
                self._shape(name, shape, direction)

    def _tear_down(self) -> None:
        """Interfaces go with the namespaces that they, or their other ends, are in."""
        if self._began:
            self._family.remove()

    def _join_lab(self) -> None:
        """Join the hub to where this process runs; the interface's name is what makes the subnet the lab's own."""
        routed = run("ip", "-4", "route", "show", "root", f"{NETWORK}.0.0/16")
        for subnet in range(256):
            mine = f"gainnet{subnet}"
            if f"{NETWORK}.{subnet}." in routed:
                continue
            try:
                run("ip", "link", "add", "name", mine, "type", "veth", "peer", "name", _HOST, "netns", self._hub)
            except CommandFailed as error:
                if "File exists" not in str(error):
                    raise
                continue
            self._subnet = subnet
            self._plug(_HOST)
            run("ip", "link", "set", "dev", mine, "gso_max_segs", "1", "up")
            run("ip", "addr", "add", f"{NETWORK}.{subnet}.1/24", "dev", mine)
            return
        raise InputError(f"--links netem: all subnets of {NETWORK}.0.0/16 are in use on this machine")

    def _join_node(self, name: str) -> None:
        there, port = self._family.add(name), self._port(name)
        self._ip("link", "add", "name", port, "type", "veth", "peer", "name", _NODE, "netns", there)
        self._plug(port)
        # Each packet is one for netem, rather than up to 44 of them that are lost, or wait, together.
        run("ip", "-n", there, "link", "set", "dev", _NODE, "gso_max_segs", "1", "up")
        run("ip", "-n", there, "addr", "add", f"{self._address(name)}/24", "dev", _NODE)

    def _plug(self, port: str) -> None:
        """Make an interface one of the bridge's."""
        self._ip("link", "set", "dev", port, "master", "hub", "up")

    def _shape(self, name: str, shape: Shape, direction: int) -> None:
        """Change a direction of a link, which keeps what is on its way."""
        at, device = (self._family.name(name), _NODE) if direction else (self._hub, self._port(name))
        told = arguments(shape, direction)
        run("tc", "-n", at, "qdisc", "replace", "dev", device, "root", *told)
        self._told[name, direction] = told

    def _ip(self, *words: str) -> None:
        """In the hub."""
        run("ip", "-n", self._hub, *words)

    def _port(self, name: str) -> str:
        """The hub's interface to a node."""
        return f"node{self._number[name]}"

    def _address(self, name: str) -> str:
        return f"{NETWORK}.{self._subnet}.{FIRST + self._number[name]}"
