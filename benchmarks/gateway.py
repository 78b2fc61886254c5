"""The gateway on one core: what it adds to a request, and how many it passes on in a second.

Three processes: a fake upstream that answers after a fixed delay, the gateway alone on one core, and this one, which
makes the load beside the upstream on the other cores. What is added is the median over many requests through the
gateway less that of the same calls made to the upstream itself; clients are spread over the delay, so that they do not
come in step. The two take turns, so that what else the machine does meets both. The upstream keeps its delay by a
timer of the kernel: an event loop's go by whole milliseconds, which rounds what is added to whole milliseconds too,
and answers all that are due within one at once. The rate is that of 32 clients who ask again at once, with an upstream
that answers at once.

The peer is LiteLLM's proxy, whose pins clash with ours: give a virtual environment that has ``litellm[proxy]`` in
``GAINNET_BENCH_LITELLM``. It gets the same load on the same core, with one worker, its logs and telemetry off.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gainnet.errors import GainnetError, InputError

PEER = "GAINNET_BENCH_LITELLM"
CLIENTS = (1, 8, 32, 200)
BUSY_CLIENTS = 32
DELAY_S = 0.2
LEAST_ASKED = 40
TURNS = 4
"""How often the upstream itself and the gateway are asked, by turns."""
MEANING: dict[str, str] = {
    **{
        f"added_s_p50_{clients}": f"median added to a request by the gateway, {clients} at once, s"
        for clients in CLIENTS
    },
    "added_s_p50": "the largest of them, s",
    "requests_per_s": f"through the gateway on one core, {BUSY_CLIENTS} clients, an upstream without delay",
    "requests_per_cpu_s": "the same over the processor time that the gateway took: steady on a busy machine",
    "streams_per_s": "streamed answers of 16 chunks, all else alike",
    "peer_requests_per_s": "the same requests through LiteLLM's proxy",
    "peer_requests_per_cpu_s": "the same over its processor time",
    "ratio": "requests_per_s over the peer's",
    "cpu_ratio": "requests_per_cpu_s over the peer's",
}
ASKED = {
    "model": "m",
    "messages": [{"role": "user", "content": "Say something nice about edges. " * 8}],
    "max_tokens": 64,
}
ANSWERED = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "They are near. " * 16}}],
    "usage": {"prompt_tokens": 64, "completion_tokens": 64, "total_tokens": 128},
}  # fmt: skip
CHUNK = {
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
    "choices": [{"index": 0, "delta": {"content": "near "}, "finish_reason": None}],
}  # fmt: skip


def figures(quick: bool = False) -> dict[str, float]:
    """The figures; see MEANING."""
    if sys.platform != "linux":
        raise InputError("bench gateway pins processes to cores: it needs Linux")
    seconds = 0.5 if quick else 3.0
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[:-1] or cores
    made: dict[str, float] = {}
    with ExitStack() as stack:
        os.sched_setaffinity(0, mine)
        stack.callback(os.sched_setaffinity, 0, cores)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        slow, fast = (stack.enter_context(_upstream(delay_s, mine)) for delay_s in (DELAY_S, 0.0))
        with _gateway(slow, cores[-1:]) as (port, _):
            for clients in CLIENTS:
                long_s = max(seconds, (4 if quick else LEAST_ASKED) * DELAY_S / (1 if quick else clients))
                took: dict[int, list[float]] = {slow: [], port: []}
                for at in (slow, port) * TURNS:
                    took[at] += uvloop.run(_load(at, clients, long_s / TURNS)).seconds
                made[f"added_s_p50_{clients}"] = statistics.median(took[port]) - statistics.median(took[slow])
        made["added_s_p50"] = max(made.values())
        with _gateway(fast, cores[-1:]) as (port, process):
            made["requests_per_s"], made["requests_per_cpu_s"] = _rates(port, process, seconds)
            made["streams_per_s"] = _rates(port, process, seconds, stream=True)[0]
        if (environment := os.environ.get(PEER)) is not None:
            with _peer(Path(environment), fast, cores[-1:], folder) as (port, process):
                rates = _rates(port, process, max(seconds, 2.0))
            made["peer_requests_per_s"], made["peer_requests_per_cpu_s"] = rates
            made["ratio"] = made["requests_per_s"] / rates[0]
            made["cpu_ratio"] = made["requests_per_cpu_s"] / rates[1]
    return made


def _rates(port: int, process: subprocess.Popen[bytes], seconds: float, stream: bool = False) -> tuple[float, float]:
    """Requests a second, and a second of the process's time."""
    uvloop.run(_load(port, BUSY_CLIENTS, 0.3, stream))  # connections, and what is made at its first use
    before = _cpu_s(process.pid)
    load = uvloop.run(_load(port, BUSY_CLIENTS, seconds, stream))
    return len(load.seconds) / load.wall_s, len(load.seconds) / max(_cpu_s(process.pid) - before, 0.01)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class _Load:
    """What came of a load: the time that each request took, and all of it."""

    seconds: list[float] = field(default_factory=list)
    wall_s: float = 0.0


class _Client(asyncio.Protocol):
    """Asks, and asks again as soon as the answer is there."""

    def __init__(self, load: _Load, request: bytes, stream: bool) -> None:
        self._load, self._request, self._stream = load, request, stream
        self._got = b""
        self._since = 0.0
        self.wrong: str | None = None
        self.stopped = False
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self._transport = transport

    def ask(self) -> None:
        self._since = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not (self._got.endswith(b"0\r\n\r\n") if self._stream else _whole(self._got)):
            return
        self._load.seconds.append(time.perf_counter() - self._since)
        if not self._got.startswith(b"HTTP/1.1 200"):
            self.wrong = self._got[:200].decode("latin-1")
        self._got = b""
        if self.stopped or self.wrong:
            self._transport.close()
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.gone.done():
            self.gone.set_result(None)

    def stop(self) -> None:
        self.stopped = True


def _whole(data: bytes) -> bool:
    """Whether an HTTP message with a content-length has come whole."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = data.lower().find(b"content-length:", 0, head)
    return at >= 0 and len(data) >= head + 4 + int(data[at + 15 : data.index(b"\r\n", at)])


async def _load(port: int, clients: int, seconds: float, stream: bool = False) -> _Load:
    """Clients that ask for some seconds."""
    loop, load = asyncio.get_running_loop(), _Load()
    body = json.dumps(ASKED | ({"stream": True} if stream else {})).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += "authorization: Bearer sk-bench\r\nuser-agent: bench\r\naccept: */*\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    made = [
        (await loop.create_connection(lambda: _Client(load, request, stream), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    began = time.perf_counter()
    for number, client in enumerate(made):
        loop.call_later(number * DELAY_S / clients, client.ask)
    await asyncio.sleep(seconds)
    for client in made:
        client.stop()
    load.wall_s = time.perf_counter() - began
    async with asyncio.timeout(30.0):
        await asyncio.gather(*(client.gone for client in made))
    if wrong := next((client.wrong for client in made if client.wrong), None):
        raise GainnetError(f"bench gateway: an answer was wrong: {wrong!r}")
    return load


class _Later:
    """Writes what is given to it a fixed time later, to some tens of microseconds; see the module."""

    def __init__(self, delay_s: float) -> None:
        self._delay_ns = round(delay_s * 1e9)
        self._libc = ctypes.CDLL(None, use_errno=True)  # Python has no timerfd before 3.13
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._waiting: deque[tuple[int, Any, bytes]] = deque()
        asyncio.get_running_loop().add_reader(self._timer, self._due)

    def write(self, transport: Any, data: bytes) -> None:
        """Write to the transport when the time is over."""
        self._waiting.append((time.monotonic_ns() + self._delay_ns, transport, data))
        if len(self._waiting) == 1:
            self._set()

    def _due(self) -> None:
        os.read(self._timer, 8)
        while self._waiting and self._waiting[0][0] <= time.monotonic_ns():
            _, transport, data = self._waiting.popleft()
            transport.write(data)
        if self._waiting:
            self._set()

    def _set(self) -> None:
        at = (ctypes.c_long * 4)(0, 0, *divmod(self._waiting[0][0], 1_000_000_000))  # no interval; seconds, then ns
        if self._libc.timerfd_settime(self._timer, 1, at, None):  # 1: on the clock, not from now
            raise OSError(ctypes.get_errno(), "timerfd_settime")


class _Upstream(asyncio.Protocol):
    """Answers every request alike: at once, or later."""

    def __init__(self, later: _Later | None) -> None:
        self._later = later
        self._got = b""
        answer = json.dumps(ANSWERED).encode()
        head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        self._answer = f"{head}content-length: {len(answer)}\r\n\r\n".encode() + answer
        events = [f"data: {json.dumps(CHUNK)}\n\n".encode()] * 16 + [b"data: [DONE]\n\n"]
        parts = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._stream = head.encode() + b"".join(parts) + b"0\r\n\r\n"

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._got.startswith(b"GET ") and self._got.endswith(b"\r\n\r\n"):  # the gateway's probes
            self._got = b""
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        if not _whole(self._got):
            return
        streamed = b'"stream": true' in self._got or b'"stream":true' in self._got
        answer = self._stream if streamed else self._answer
        self._got = b""
        if self._later is not None:
            self._later.write(self._transport, answer)
        else:
            self._transport.write(answer)


async def _serve_upstream(delay_s: float) -> None:
    later = _Later(delay_s) if delay_s else None
    server = await asyncio.get_running_loop().create_server(lambda: _Upstream(later), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


async def _serve_gateway(upstream: str) -> None:
    from gainnet.serving.gateway import Gateway
    from gainnet.serving.listener import serve
    from gainnet.serving.settings import GatewaySettings

    node = {"name": "node", "tier": "edge", "url": f"http://127.0.0.1:{upstream}", "models": ["m"]}
    gateway = Gateway(GatewaySettings(listen={"port": 0}, admin={"port": 0}, nodes=[node]))  # type: ignore[arg-type]
    await serve(gateway, started=lambda: print(gateway.url.rsplit(":", 1)[1], flush=True))  # noqa: T201


@contextmanager
def _started(command: list[str], cores: list[int], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process on these cores, ended at the end."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | environment
    )  # fmt: skip
    os.sched_setaffinity(process.pid, cores)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise GainnetError("bench gateway: a process ended at its start")
    return int(line)


@contextmanager
def _upstream(delay_s: float, cores: list[int]) -> Iterator[int]:
    with _started([sys.executable, __file__, "upstream", str(delay_s)], cores) as process:
        yield _port(process)


@contextmanager
def _gateway(upstream: int, cores: list[int]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with _started([sys.executable, __file__, "gateway", str(upstream)], cores) as process:
        yield _port(process), process


@contextmanager
def _peer(
    environment: Path, upstream: int, cores: list[int], folder: Path
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    program = environment / "bin" / "litellm"
    if not program.is_file():
        raise InputError(f"{PEER}: {environment} has no bin/litellm")
    model = {"model": "openai/m", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "m", "litellm_params": model}],
                "litellm_settings": {"telemetry": False, "set_verbose": False, "num_retries": 0},
                "general_settings": {"disable_spend_logs": True, "disable_error_logs": True},
            }
        )
    )
    port = _free_port()
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # neither of the two asks for keys here
    with _started([*command, "--telemetry", "False"], cores, **quiet) as process:
        _until_up(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield port, process


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180.0
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5.0):
                return
        except OSError:
            time.sleep(0.2)
    raise GainnetError(f"bench gateway: {PEER}: the proxy did not start")


if __name__ == "__main__":
    uvloop.run(_serve_upstream(float(sys.argv[2])) if sys.argv[1] == "upstream" else _serve_gateway(sys.argv[2]))
