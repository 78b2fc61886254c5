"""Namespaces are found, entered and removed; and what is missing is said. What root alone may do is skipped for others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from plumbing import need, rate_only

from gainnet.serving import namespaces
from gainnet.serving.links import Shape
from gainnet.serving.namespaces import CommandFailed, Family, run

RATE = rate_only(Shape(), 0)


@pytest.fixture
def permitted() -> None:
    need(RATE)


def there() -> str:
    return run("ip", "netns", "list")


@pytest.mark.usefixtures("permitted")
def test_two_families_are_removed_one_by_one() -> None:
    first, second = Family(), Family()
    try:
        names = [first.add("a"), first.add("b"), second.add("a")]
        assert len(set(names)) == 3
        first.remove()
        found = there()
        assert [name in found for name in names] == [False, False, True]
    finally:
        first.remove()
        second.remove()
    assert names[2] not in there()


@pytest.mark.usefixtures("permitted")
def test_what_a_killed_process_left_is_removed_and_nothing_else() -> None:
    code = "import signal\nfrom gainnet.serving.namespaces import Family\nprint(Family().add('a'), flush=True)\nsignal.pause()"
    own = Family()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = process.stdout.readline().strip()
        try:
            mine = own.add("a")
            namespaces.remove_left()
            assert mine in there()
            assert theirs in there()
            os.kill(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table of processes
            namespaces.remove_left()
            assert mine in there()
            assert theirs not in there()
        finally:
            process.kill()
            own.remove()


@pytest.mark.usefixtures("permitted")
def test_a_thread_enters() -> None:
    family, found = Family(), []

    def inside(name: str) -> None:
        namespaces.enter(name)
        found.extend(name for _, name in socket.if_nameindex())

    try:
        thread = threading.Thread(target=inside, args=(family.add("a"),))
        thread.start()
        thread.join()
        assert "eth0" not in found
        assert "lo" in found
        with pytest.raises(OSError, match="nowhere"):
            namespaces.enter("nowhere")
    finally:
        family.remove()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: str) -> str:
        if "replace" in words:
            raise CommandFailed("tc: Error: Specified qdisc kind is unknown.")
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert namespaces.missing(RATE) == "namespaces are Linux's, this is darwin"
    monkeypatch.setattr(namespaces, "_CAPABILITIES", {61: "CAP_ONE", 62: "CAP_TWO"})
    assert namespaces.missing(RATE) == "this process lacks CAP_ONE and CAP_TWO, which root has outside containers"
    monkeypatch.setattr(namespaces, "_CAPABILITIES", {})
    monkeypatch.setattr(namespaces, "COMMANDS", ("no-such-ip",))
    assert namespaces.missing(RATE) == "there is no command no-such-ip, of the package iproute2"
    monkeypatch.setattr(namespaces, "COMMANDS", ())
    monkeypatch.setattr(namespaces, "run", refused)
    assert namespaces.missing(("netem",)) == "the kernel has no netem (its module sch_netem)"


def test_a_command_that_fails_says_why() -> None:
    assert run("echo", "here") == "here\n"
    with pytest.raises(CommandFailed, match=r"^sh -c 'echo no >&2; exit 3': no$"):
        run("sh", "-c", "echo no >&2; exit 3")
    with pytest.raises(CommandFailed, match=r"^false: exit code 1$"):
        run("false")
    with pytest.raises(CommandFailed, match=r"no-such-command: .*No such file"):
        run("no-such-command")
