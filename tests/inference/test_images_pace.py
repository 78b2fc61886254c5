"""When first steps are worth taking elsewhere: the rule beside its inequalities, and what is tried to keep it true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.errors import InputError
from gainnet.inference.images.pace import AGAIN, Handing, Prices, Work, begun, whole

WORK = Work(1, 20, 8)
TIME = Prices()
MONEY = Prices(1.0, 10.0, 0.0)


def known(step_s: float, above_step_s: float, crossing_s: float, alike: int) -> Handing:
    made = Handing()
    made.drawn(12, 12 * step_s)
    made.handed(8, 8 * above_step_s, 8 * above_step_s + crossing_s, alike)
    return made


@given(
    images=st.integers(1, 8), step_s=st.floats(1e-3, 1.0), above_step_s=st.floats(1e-3, 1.0),
    crossing_s=st.floats(0.0, 2.0), alike=st.integers(1, 8),
)  # fmt: skip
def test_the_rule_is_its_inequalities(
    images: int, step_s: float, above_step_s: float, crossing_s: float, alike: int
) -> None:
    work, pace = Work(images, 20, 8), known(step_s, above_step_s, crossing_s, alike)
    saved_s = 8 * (images * step_s - above_step_s) - crossing_s
    if abs(saved_s) > 1e-6:
        assert pace.pays(work, TIME) == (saved_s > 0.0)
    saved = images * 8 * step_s - 10.0 * 8 * above_step_s / alike
    if abs(saved) > 1e-6:
        assert pace.pays(work, MONEY) == (saved > 0.0)


def test_a_round_trip_and_few_alike_requests_speak_against_it() -> None:
    assert known(0.075, 0.0032, 0.1, 1).pays(WORK, TIME)
    assert not known(0.075, 0.0032, 0.6, 1).pays(WORK, TIME)
    dear = Prices(4e-6, 9e-4, 2e-5)
    assert [known(0.075, 0.0032, 0.1, alike).pays(WORK, dear) for alike in (1, 2, 4)] == [False, True, True]
    assert not known(0.075, 0.0032, 0.0, 4).pays(Work(1, 2, 0), TIME)


def test_what_answers_take() -> None:
    alone = whole(Work(2, 20, 8), 0.01, 3.0, crossing_s=0.1, beside=2.0)
    assert (alone.latency_s, alone.cost) == (pytest.approx(0.9), pytest.approx(1.2))
    other = begun(Work(2, 20, 8), 0.01, 0.005, 0.1, 4.0, Prices(3.0, 8.0, 0.0))
    assert (other.latency_s, other.cost) == (pytest.approx(0.04 + 0.1 + 0.24), pytest.approx(0.08 + 0.72))
    assert other.loss(2.0) == pytest.approx(other.cost + 2.0 * other.latency_s)


def test_what_is_unknown_or_long_ago_is_tried() -> None:
    pace = Handing()
    assert pace.pays(WORK, TIME)
    assert not pace.known
    assert pace.alike == 1.0
    pace = known(0.01, 0.02, 0.1, 1)
    tried = [pace.pays(WORK, TIME) for _ in range(2 * AGAIN)]
    assert [place + 1 for place, one in enumerate(tried) if one] == [AGAIN, 2 * AGAIN]
    for _ in range(60):
        pace.handed(8, 0.008, 0.009, 4)
    assert pace.above_step_s == pytest.approx(0.001, abs=1e-4)
    assert pace.crossing_s == pytest.approx(0.001, abs=1e-3)
    assert pace.alike == pytest.approx(4.0, abs=0.1)
    assert pace.pays(WORK, TIME)


def test_prices_are_none_below_nothing() -> None:
    with pytest.raises(InputError, match=r"prices\.waiting_per_s -1"):
        Prices(waiting_per_s=-1.0)
