"""Workers: the same results wherever the jobs run, whatever happens to a worker, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

from gainnet.errors import GainnetError, InputError
from gainnet.workers import cluster as on_ray
from gainnet.workers.start import start

PLACES = pytest.mark.parametrize("place", ["here", "processes", "ray"])
APART = pytest.mark.parametrize("place", ["processes", "ray"])
HOW = {"here": (1, None), "processes": (2, None), "ray": (2, "auto")}
PATH = os.pathsep.join([str(Path(__file__).parent), *sys.path])


@PLACES
def test_each_job_comes_with_its_result(place: str, cluster: str) -> None:
    with start(*HOW[place]) as workers:
        assert sorted(workers.map(jobs.double, range(5))) == [(job, 2 * job) for job in range(5)]
        assert list(workers.map(jobs.double, [])) == []
        if place != "here":
            assert list(workers.map(jobs.threads, [7])) == [(7, {"1"})]


@PLACES
def test_a_job_that_fails_raises_its_own_error(place: str, cluster: str) -> None:
    with start(*HOW[place]) as workers:
        with pytest.raises(ArithmeticError, match="no ones"):
            list(workers.map(jobs.refuse, range(4)))
        assert list(workers.map(jobs.double, [4])) == [(4, 8)]


@APART
def test_at_most_the_number_asked_for_run_at_once(place: str, cluster: str, tmp_path: Path) -> None:
    one = 1 if place == "ray" else 2  # one process is this one
    with start(one, HOW[place][1]) as workers:
        most = [count for _, count in workers.map(jobs.overlap, [(str(tmp_path), number) for number in range(4)])]
    assert max(most) <= one


@APART
def test_a_job_whose_worker_dies_is_tried_again(place: str, cluster: str, tmp_path: Path) -> None:
    with start(*HOW[place]) as workers:
        asked = [(str(tmp_path / "mark"), number) for number in range(3)]
        assert sorted(workers.map(jobs.die_once, asked)) == [(job, 2 * job[1]) for job in asked]
        assert list(workers.map(jobs.double, [4])) == [(4, 8)]


@APART
def test_a_job_whose_worker_always_dies_is_named(
    place: str, cluster: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "TRIES", 2)
    with (
        start(*HOW[place]) as workers,
        pytest.raises(GainnetError, match=r"job 1: its worker process died (twice|2 times)"),
    ):
        list(workers.map(jobs.die_once, [("always", 0), ("always", 1)], lambda job: f"job {job[1]}"))
    assert capfd.readouterr() == ("", "")


INTERRUPTED = """
import signal, sys, jobs
from gainnet.workers.start import start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background are born deaf to it
try:
    with start({number}, {ray}) as workers:
        list(workers.map(jobs.linger, [{mark!r}, {mark!r} + "2"]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@APART
def test_an_interrupt_ends_the_jobs_but_no_foreign_cluster(place: str, cluster: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    ray = repr(cluster) if place == "ray" else None
    script = INTERRUPTED.format(number=2, ray=ray, mark=str(mark))
    environment = os.environ | {"PYTHONPATH": PATH}
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        try:
            worker = _wait_for(mark)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.communicate(timeout=20)[1] == ""
        finally:
            process.kill()
    assert process.returncode == 130
    _wait_until_gone(worker)
    with start(2, "auto") as workers:
        assert list(workers.map(jobs.double, [1])) == [(1, 2)]


def _wait_for(mark: Path) -> int:
    end = time.monotonic() + 30
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(mark.read_text())


def _wait_until_gone(process: int) -> None:
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("address", ["head", "head:", ":1", "ray://head", "head:70000", "a:b"])
def test_a_malformed_address_is_named(address: str) -> None:
    with pytest.raises(InputError, match=f"--ray {address}: must be auto, HOST:PORT or ray://HOST:PORT"):
        start(ray=address)


def test_an_address_where_no_cluster_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_CONNECT_S", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(InputError, match=f"--ray {address}: nothing answers: Connection refused"):
            start(ray=address)
        mute.listen()
        with pytest.raises(InputError, match=f"--ray {address}: no Ray cluster answers within 1 s"):
            start(ray=address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--ray: needs the extra scale: pip install 'gainnet\[scale\]'$"):
        start(ray="auto")


def test_auto_knows_what_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    assert on_ray._running() == ("local", "local")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        note.write_text(address)
        assert on_ray._running() == ("auto", address)
    assert on_ray._running() == ("local", "local")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert on_ray._running() == ("head:6379", "head:6379")


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"a worker has gainnet .*, but this is 0\.0\.0: install the same version"):
        on_ray._call("0.0.0", jobs.double, 1)


def test_importing_gainnet_never_imports_ray() -> None:
    script = "import sys, gainnet.compare, gainnet.apps.cli, gainnet.workers.cluster; print('ray' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )
