"""The commands of the live network: what they start, how they end, and what they say of wrong input."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gainnet.apps import cli
from gainnet.serving import lab as labs
from gainnet.serving.lab_child import LabFailed

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Call the command line: (exit code, stdout, stderr). Its log and signals are put back."""
    monkeypatch.chdir(tmp_path)
    root, before = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@contextmanager
def ended_when_ready(url: str) -> Iterator[list[str]]:
    """Once something answers there, what it says is kept, and this process gets SIGTERM."""
    said: list[str] = []

    def wait() -> None:
        until = time.monotonic() + 60.0
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(url, timeout=5.0) as response:
                    said.append(response.read().decode())
                break
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    yield said
    thread.join()


def test_a_node_serves_until_it_is_told_to_leave(call: Call, tmp_path: Path) -> None:
    port = free_port()
    small = {"kind": "small", "layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "vocabulary": 300}
    config = {"listen": {"port": port}, "model": small, "ids": ["m"], "threads": 1}
    (tmp_path / "node.yaml").write_text(json.dumps(config))
    with ended_when_ready(f"http://127.0.0.1:{port}/node/state") as said:
        code, _, err = call("node", "--tier", "cloud", "--config", "node.yaml")
    assert code == 0
    assert json.loads(said[0])["tier"] == "cloud"
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["listening", "draining", "left"]


def test_a_gateway_serves_until_it_is_told_to_leave(call: Call, tmp_path: Path) -> None:
    port = free_port()
    nodes = [{"name": "a", "tier": "edge", "url": f"http://127.0.0.1:{free_port()}", "models": ["m"]}]
    (tmp_path / "gateway.yaml").write_text(json.dumps({"listen": {"port": port}, "admin": {"port": 0}, "nodes": nodes}))
    with ended_when_ready(f"http://127.0.0.1:{port}/v1/models") as said:
        code, _, _ = call("gateway", "--config", "gateway.yaml")
    assert code == 0
    assert json.loads(said[0])["data"][0]["id"] == "m"


def test_what_is_wrong_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "priced.yaml").write_text("router: priced\n")
    (tmp_path / "named.yaml").write_text("router: priced\nscenario: lab\n")
    (tmp_path / "slots.yaml").write_text("slots: 0\n")
    (tmp_path / "model").mkdir()
    for arguments, said in (
        (("node", "--config", "none.yaml"), "none.yaml: the settings cannot be read"),
        (("node", "--config", "slots.yaml"), "slots: "),
        (("node", "--tier", "sky"), "tier: "),
        (("gateway", "--config", "priced.yaml"), "router: priced needs a scenario"),
        (("gateway", "--config", "priced.yaml", "--scenario", "lab"), "nodes: none serves a model of the scenario"),
        (("gateway", "--config", "named.yaml"), "nodes: none serves a model of the scenario"),
        (("gateway", "--config", "named.yaml", "--scenario", "nowhere"), "nowhere"),
        (("gateway", "--scenario", "lab"), "only `router: priced`"),
        (("lab", "up", "nowhere"), "nowhere"),
        (("lab", "up", "--nodes", "sky=1"), "--nodes sky=1"),
        (("lab", "up", "--links", "any"), "--links any: must be one of proxy, netem"),
        (("lab", "up", "--model", "cloud=none"), "--model cloud=none"),
        (("lab", "ask", "Hello"), "there is no lab running from here"),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err


class FakeLab:
    """Starts as it is told to."""

    how = "well"
    closed = 0

    def __init__(self, _scenario: Any, folder: Path, **given: Any) -> None:
        self.folder, self.given, self.url, self.ready_s = folder, given, "http://127.0.0.1:1", 1.25
        self.failed = "the gateway ended by signal 9" if self.how == "fails" else None
        self.parts = [type("Part", (), {"public": "assistant"})]

    async def start(self) -> None:
        if self.how == "not":
            raise LabFailed("edge-0: no")
        if self.how == "late":
            raise TimeoutError
        if self.how == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30.0)

    async def run(self, stop: Any) -> None:
        if self.how == "well":
            os.kill(os.getpid(), signal.SIGINT)
            await stop.wait()

    async def close(self) -> None:
        FakeLab.closed += 1


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("well", 0, ""),
        ("stopped", 0, ""),
        ("not", 2, "edge-0: no"),
        ("late", 2, "not ready in time"),
        ("fails", 2, "the gateway ended by signal 9"),
    ],
)
def test_a_lab_is_started_and_ended(
    call: Call, monkeypatch: pytest.MonkeyPatch, how: str, code: int, said: str
) -> None:
    monkeypatch.setattr(labs, "Lab", FakeLab)
    monkeypatch.setattr(FakeLab, "how", how)
    closed = FakeLab.closed
    found, out, err = call("lab", "up")
    assert (found, FakeLab.closed) == (code, closed + 1)
    assert said in err
    if how == "well":
        assert out.startswith("lab: http://127.0.0.1:1/v1 answers (1 nodes, ready in 1.2 s")
        assert "http://127.0.0.1:1/live shows it" in out
        assert "curl" in out


class Answering(BaseHTTPRequestHandler):
    """A gateway that says one thing, and refuses the end 9."""

    asked: ClassVar[Any] = None

    def do_POST(self) -> None:
        Answering.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        bad = self.headers.get("x-gainnet-end") == "9"
        body = {"error": {"message": "there is no end 9"}} if bad else {"choices": [{"message": {"content": "Hi."}}]}
        self.send_response(400 if bad else 200)
        for name, value in (("x-gainnet-node", "edge-0"), ("x-gainnet-tier", "edge"), ("x-gainnet-why", "near")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_a_lab_is_asked(call: Call, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "runs" / "lab").mkdir(parents=True)
    file = tmp_path / "runs" / "lab" / "lab.json"
    lab = {"address": f"http://127.0.0.1:{server.server_port}/v1", "models": ["a", "m"]}
    file.write_text(json.dumps(lab | {"nodes": [{"models": {"m": "own"}}, {"models": {"a": "own", "m": "own"}}]}))
    try:
        assert call("lab", "ask", "Hello") == (0, "Hi.\n", "-- edge-0 (edge): near\n")
        assert Answering.asked["model"] == "m"  # which most nodes serve
        assert call("lab", "ask", "Hello", "--end", "9") == (2, "", "gainnet: there is no end 9\n")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    code, _, err = call("lab", "ask", "Hello")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not answer" in err
