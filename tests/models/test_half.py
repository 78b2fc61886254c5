"""Kernels for products in bfloat16, which are kept for each number of rows."""

import os
import subprocess
import sys

from gainnet.models import half

PRODUCTS = """
import random
import torch
from gainnet.models import half

def held_byte():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

torch.set_num_threads(1)
half.keep_few()
weights = [torch.randn(out, into).bfloat16() for out, into in ((384, 384), (128, 384), (1024, 384), (384, 1024), (512, 384))]
rng = random.Random(0)
for turn in range(90):
    if turn == 15:
        before = held_byte()
    rows = rng.randint(100, 700)
    for weight in weights:
        torch.nn.functional.linear(torch.randn(rows, weight.shape[1]).bfloat16(), weight)
print(held_byte() - before)
"""


def grown_byte(**named: str) -> int:
    """By how much memory grows in 75 numbers of rows, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in half.CACHES}
    made = subprocess.run(
        [sys.executable, "-c", PRODUCTS], env=kept | named, capture_output=True, text=True, check=True
    )
    return int(made.stdout)


def test_memory_does_not_grow_with_numbers_of_rows():
    assert grown_byte() < 100e6


def test_what_the_environment_says_counts(monkeypatch):
    first, second = half.CACHES
    monkeypatch.setattr(os, "environ", {first: "7"})
    half.keep_few()
    assert os.environ == {first: "7", second: half.KERNELS}
