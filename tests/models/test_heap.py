"""Memory that is kept between steps."""

import subprocess
import sys

import pytest

from gainnet.models import heap

PIECES = """
import ctypes, resource, sys
from gainnet.models import heap

if sys.argv[1] == "keep":
    assert heap.keep()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes, library.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(40):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    size = (4 + turn % 8) << 20  # no two in a row of one size
    piece = library.malloc(size)
    ctypes.memset(piece, 1, size)
    library.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Pages that the system had to hand out after the first turn."""
    return int(subprocess.run([sys.executable, "-c", PIECES, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_is_taken_again():
    assert faults("keep") < faults("not") / 2


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not heap.keep()
