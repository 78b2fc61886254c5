"""What is seen of long work."""

import pytest

from gainnet.apps import progress as module
from gainnet.apps.progress import progress, stages


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock, capsys):
    with stages("simulating", quiet=False) as show:
        for second in range(0, 200, 10):
            clock[0] = 1000.0 + second
            show("simulating" if second < 100 else "round 2", second, 200)
    assert capsys.readouterr().err == (
        "gainnet: simulating: 60 of 200, 1 min\ngainnet: round 2: 120 of 200, 2 min\ngainnet: round 2: 180 of 200, 3 min\n"
    )


def test_short_work_says_nothing(clock, capsys):
    with progress("comparing", quiet=False) as show:
        for done in range(59):
            clock[0] += 1.0
            show(done, 59)
    assert capsys.readouterr() == ("", "")


def test_who_asked_for_json_reads_nothing_else(clock, capsys):
    with progress("comparing", quiet=True) as show:
        clock[0] += 1000.0
        show(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with stages("simulating", quiet=False) as show:
        show("round 1", 1, 2)
    assert "gainnet:" not in capsys.readouterr().err
