"""Steps take another machine's time, and no longer for having been woken late."""

from __future__ import annotations

import time

import pytest
from served import greedy, language, prompts, read

from gainnet.inference.engine import Engine
from gainnet.inference.tempo import Machine, Tempo
from gainnet.network.compute_kernel import decode_step_s, prefill_s

CARD = (2e9, 4e3, 1e5, 1e9)
"""Flop of a token and of attention, byte of a token and of the weights."""


def machine(flop_per_s: float, byte_per_s: float, count: float = 1.0) -> Machine:
    flop, attention, kv, size = CARD
    return Machine(count, flop_per_s, byte_per_s, size, flop, attention, kv)


@pytest.mark.parametrize("rates", [(1e12, 1e10), (1e13, 1e9)])
@pytest.mark.untraced
def test_steps_are_those_of_the_simulators_machines(rates: tuple[float, float]) -> None:
    made = machine(*rates)
    assert made.step_s([(200, 0)]) == pytest.approx(prefill_s(200.0, *CARD, *rates))
    assert made.step_s([(1, 99)] * 4) == pytest.approx(decode_step_s(4.0, 100.0, *CARD, *rates), rel=1e-3)
    assert machine(*rates, count=2.0).step_s([(1, 99)] * 4) <= made.step_s([(1, 99)] * 2) * 1.001


def test_a_late_wake_is_made_up_for_and_idle_time_is_not() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds + 0.002  # woken late

    tempo = Tempo(machine(1e15, 1e11), lambda: now[0], sleep)  # 10 ms for the weights
    step_s = tempo.machine.step_s([(1, 0)])
    for _ in range(5):
        tempo.keep([(1, 0)], now[0])
    assert now[0] == pytest.approx(5.0 * step_s + 0.002)
    now[0] += 1.0
    begun = now[0]
    tempo.keep([(1, 0)], begun)
    assert now[0] == pytest.approx(begun + step_s + 0.002)
    assert tempo.behind_s == 0.0
    now[0] += 0.001
    begun, now[0] = now[0], now[0] + 3.0 * step_s
    tempo.keep([(1, 0)], begun)
    assert 1.5 * step_s < tempo.behind_s < 2.5 * step_s
    assert len(slept) == 6


def test_an_engine_takes_its_machines_time_and_says_the_same() -> None:
    asked = prompts(1)[0]
    with Engine(language(), slots=2, threads=1) as engine:
        plain = read(engine.submit(asked, greedy(6, ignore_eos=True)))
    with Engine(language(), slots=2, threads=1, machine=machine(1e15, 5e10)) as engine:
        began = time.monotonic()
        assert read(engine.submit(asked, greedy(6, ignore_eos=True))) == plain
        assert time.monotonic() - began >= 6 * 0.02 - 0.005  # what is computed takes time only where it is longer
        stats = engine.stats()
    assert stats.counters.busy_s >= 0.11
    assert stats.behind_s >= 0.0
