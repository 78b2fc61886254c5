"""Workers on a Ray cluster: one that runs somewhere, or one on this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from gainnet.errors import GainnetError, InputError
from gainnet.workers.workers import ONE_THREAD, Job, Result, Workers, died

TRIES = 4
_QUEUED = 1000
_ANSWER_S, _CONNECT_S = 3.0, 12.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical"}
_SILENT = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_USAGE_STATS_ENABLED": "0"}  # else each death is told on stdout
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_CONNECT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="critical")
except Exception as error:
    print((str(error).splitlines() or [type(error).__name__])[0])
    sys.exit(1)
"""


class Cluster(Workers):
    """Ray workers of one CPU and one thread each.

    Ray moves a job whose worker or machine dies to another, up to `TRIES` tries in all. An interrupt cancels the jobs.
    A cluster that was started here ends with the context, any other one is left as it was found.
    """

    def __init__(self, address: str, number: int | None) -> None:
        """Connect to ``address`` (see `connect`); at most ``number`` of jobs run at once, None for all that have room."""
        self._ray, self._ours = connect(address, number)
        self._room = number or _QUEUED
        self._running: dict[Any, Any] = {}

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], name: Callable[[Job], str] = str
    ) -> Iterator[tuple[Job, Result]]:
        """See `Workers.map`. The machines of the cluster must have this version of gainnet."""
        environment = {"env_vars": ONE_THREAD}
        task = self._ray.remote(_call).options(num_cpus=1, max_retries=TRIES - 1, runtime_env=environment)
        version, waiting = importlib.metadata.version("gainnet"), iter(jobs)
        try:
            for job in islice(waiting, self._room):
                self._running[task.remote(version, function, job)] = job
            while self._running:
                (done,), _ = self._ray.wait(list(self._running), num_returns=1)
                job = self._running.pop(done)
                result = self._result(done, name(job))
                for following in islice(waiting, 1):
                    self._running[task.remote(version, function, following)] = following
                yield job, result
        except BaseException:
            self._cancel()
            raise

    def _result(self, done: Any, name: str) -> Any:
        failures = self._ray.exceptions
        try:
            return self._ray.get(done)
        except failures.RayTaskError as error:
            if isinstance(error.cause, failures.RayError):
                raise GainnetError(f"{name}: {_first_line(error.cause)}") from error
            raise error.cause from error
        except (failures.WorkerCrashedError, failures.NodeDiedError, failures.OutOfMemoryError):
            raise died(name, f"{TRIES} times") from None
        except failures.RayError as error:
            raise GainnetError(f"{name}: Ray gave it up: {_first_line(error)}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what still runs and end what `connect` began."""
        self._cancel()
        if self._ours:
            self._ray.shutdown()

    def _cancel(self) -> None:
        """Cancel what still runs, which is nothing after a map that was exhausted."""
        while self._running:
            running, _ = self._running.popitem()
            self._ray.cancel(running, force=True)


def _call(version: str, function: Callable[[Job], Result], job: Job) -> Result:
    """What a worker does, where it has the version of gainnet that asks: another one might give other results."""
    here = importlib.metadata.version("gainnet")
    if here != version:
        raise InputError(f"--ray: a worker has gainnet {here}, but this is {version}: install the same version")
    return function(job)


def connect(address: str, number: int | None) -> tuple[Any, bool]:
    """Connect this process to a Ray cluster.

    Args:
        address: ``HOST:PORT`` from one of the cluster's machines; ``ray://HOST:PORT`` from anywhere; ``local`` for a new
            cluster on this machine, which listens on the loopback interface only and has no dashboard; ``auto`` for
            the connection that this process has, or else what ``RAY_ADDRESS`` names, or what ``ray start`` left
            running on this machine, or else ``local``.
        number: CPUs of a new cluster; None for those of the machine.

    Returns:
        The module ray, and whether the connection, with the cluster where it is new, is ours to end.

    Raises:
        InputError: the extra is missing, the address is malformed, or no cluster answers there within 15 s.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray: needs the extra scale: pip install 'gainnet[scale]'")
    loaded = sys.modules.get("ray")
    connected = loaded is not None and loaded.is_initialized()
    if connected and address == "auto":
        return loaded, False
    given, found = _running() if address == "auto" else (address, address)
    if found != "local":
        _reach(given, found)
    if connected:
        raise InputError(f"--ray {address}: this process is connected to a Ray cluster already: give auto")
    return (_start(number) if found == "local" else _join(given, found)), True


def _running() -> tuple[str, str]:
    """What to give Ray, and the address that this means: from the environment, or of the cluster that runs here.

    Ray sends its token of this machine only to a cluster that it finds by ``auto``, which looks for what ``ray start``
    noted; where that does not answer, both are ``local``.
    """
    named = os.environ.get("RAY_ADDRESS") or "auto"
    if named != "auto":
        return named, named
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    with contextlib.suppress(OSError, InputError):
        address = note.read_text().strip()
        _knock(_endpoint(address))
        return "auto", address
    return "local", "local"


def _start(number: int | None) -> Any:
    """Start a cluster on this machine.

    Ray keeps to the loopback interface where it believes that this machine can have no cluster, which it reads from
    the environment as it is imported: a process that imported ray before opens its ports on every interface.
    """
    retries = {"task_oom_retries": TRIES - 1}
    with _undisturbed(_SILENT | _LOOPBACK):
        ray = importlib.import_module("ray")
        ray.init("local", num_cpus=number, include_dashboard=False, _system_config=retries, **_QUIET)
    return ray


def _join(given: str, address: str) -> Any:
    """Connect to a cluster that is known to answer at the address, as `_running` says."""
    with _undisturbed(_SILENT | _literally(address)):
        ray = importlib.import_module("ray")
        ray.init(given, **_QUIET)
    return ray


def _literally(address: str) -> dict[str, str]:
    """What has Ray take a loopback address as it is, not for this machine's address in its network."""
    return _LOOPBACK if address.startswith(("127.", "localhost:", "[::1]:")) else {}


def _reach(given: str, address: str) -> None:
    """Connect once in another process, which can be ended: Ray's own attempt takes minutes and cannot be."""
    endpoint = _endpoint(address)
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise InputError(f"--ray {address}: ray:// needs Ray's client: pip install 'ray[client]'")
    try:
        _knock(endpoint)
        tried = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _CONNECT, given],
            capture_output=True, timeout=_CONNECT_S, check=False, env=os.environ | _literally(address),
        )  # fmt: skip
        said, complaint = tried.stderr, tried.stdout.decode().strip() or "Ray could not connect"
    except OSError as error:
        raise InputError(f"--ray {address}: nothing answers: {error.strerror or error}") from None
    except subprocess.TimeoutExpired as error:
        tried, said, complaint = None, error.stderr or b"", f"no Ray cluster answers within {_CONNECT_S:.0f} s"
    if tried is not None and tried.returncode == 0:
        return
    if b"Unauthenticated" in said:
        complaint = (
            "the cluster wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where it is another machine's"
        )
    raise InputError(f"--ray {address}: {complaint}")


def _endpoint(address: str) -> tuple[str, int]:
    """Host and port. InputError where the address has none."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 1 << 16:
        raise InputError(f"--ray {address}: must be auto, HOST:PORT or ray://HOST:PORT")
    return host.strip("[]"), int(port)


def _knock(endpoint: tuple[str, int]) -> None:
    """OSError where nothing listens."""
    socket.create_connection(endpoint, timeout=_ANSWER_S).close()


@contextlib.contextmanager
def _undisturbed(environment: dict[str, str]) -> Iterator[None]:
    """Set variables for a while, and keep this process's own reaction to SIGTERM, which ``ray.init`` replaces."""
    before = {name: os.environ.get(name) for name in environment}
    reaction = signal.getsignal(signal.SIGTERM)
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, reaction)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
