"""Network namespaces by the commands `ip` and `tc`: made, entered, and removed, also those that a killed process left.

Their names begin with ``gainnet-``, the number of the process that made them, and when that began: two processes never meet,
and a name whose process is gone is nobody's.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gainnet.errors import GainnetError

logger = logging.getLogger(__name__)
COMMANDS = ("ip", "tc")
PATIENCE_S = 20.0
"""For a command, which takes milliseconds."""
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
"""To set up networks, and to name namespaces and enter them (capabilities(7))."""
_FOLDER = Path("/var/run/netns")
_CLONE_NEWNET = 0x40000000
_NAME = re.compile(r"gainnet-(\d+)-(\d+)-\d+-.+")
_count = itertools.count()


class CommandFailed(GainnetError):
    """A command did not do what it was to: the message has what it said."""


def run(*words: str) -> str:
    """What a command prints. CommandFailed with what it complains of."""
    try:
        done = subprocess.run(  # noqa: S603  words are this package's own
            words, env={"PATH": _PATH, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False, process_group=0,
        )  # fmt: skip  # a terminal's Ctrl-C is not for it
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{shlex.join(words)}: {error}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise CommandFailed(f"{shlex.join(words)}: {said}")
    return done.stdout


class Family:
    """Namespaces that are made, and removed, together."""

    def __init__(self) -> None:
        """None yet."""
        self._prefix = f"gainnet-{os.getpid()}-{_began(os.getpid())}-{next(_count)}-"

    def name(self, part: str) -> str:
        """Of the namespace for a part."""
        return self._prefix + part

    def add(self, part: str) -> str:
        """Make the namespace for a part, whose loopback interface is up. Its name."""
        name = self.name(part)
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "dev", "lo", "up")
        return name

    def remove(self) -> None:
        """Remove all that there are; those that stay are logged."""
        _remove([name for name in _names() if name.startswith(self._prefix)])


def remove_left() -> None:
    """Remove namespaces of processes that are gone, which were killed before they could."""
    found = [(name, known) for name in _names() if (known := _NAME.fullmatch(name))]
    _remove([name for name, known in found if _began(int(known.group(1))) != known.group(2)])


def missing(qdisc: Sequence[str]) -> str | None:
    """What this process or machine lacks to have namespaces with shaped links between them; None for nothing.

    Args:
        qdisc: a kind of queueing discipline, and its arguments: tried on a link between two namespaces made for it.
    """
    if sys.platform != "linux":
        return f"namespaces are Linux's, this is {sys.platform}"
    held = int(_field(Path("/proc/self/status").read_text("ascii"), "CapEff"), 16)
    if lacking := [name for bit, name in _CAPABILITIES.items() if not held >> bit & 1]:
        return f"this process lacks {' and '.join(lacking)}, which root has outside containers"
    if absent := [command for command in COMMANDS if shutil.which(command, path=_PATH) is None]:
        return f"there is no command {' and no command '.join(absent)}, of the package iproute2"
    family = Family()
    try:
        near, far = family.add("near"), family.add("far")
        run("ip", "-n", near, "link", "add", "name", "a", "type", "veth", "peer", "name", "b", "netns", far)
        run("tc", "-n", near, "qdisc", "replace", "dev", "a", "root", *qdisc)
    except CommandFailed as error:
        unknown = "qdisc kind is unknown" in str(error)
        return f"the kernel has no {qdisc[0]} (its module sch_{qdisc[0]})" if unknown else str(error)
    finally:
        family.remove()
    return None


def enter(name: str) -> None:
    """Put this thread, and those that it starts, into a namespace. OSError where that may not be."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (_FOLDER / name).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)


def _names() -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]


def _remove(names: Sequence[str]) -> None:
    for name in names:
        try:
            run("ip", "netns", "delete", name)
        except CommandFailed as error:
            logger.warning("a network namespace stays: %s", error)


def _began(pid: int) -> str | None:
    """When a process began, in clock ticks since the machine did; None where it is gone (proc(5): fields 3 and 22 of stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _field(status: str, name: str) -> str:
    return status.partition(f"{name}:")[2].split(maxsplit=1)[0]
