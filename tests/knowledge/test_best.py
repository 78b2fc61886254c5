"""What answers is the best of what was learnt, and learning goes on from the last."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gainnet.knowledge.best import Best
from gainnet.models.low_rank import Factors, LowRank


def adapter(value: float) -> LowRank:
    factors = Factors(np.full((2, 3), value, np.float32), np.full((4, 2), value, np.float32))
    return LowRank({"layer": factors}, 2.0, "base")


def test_the_lowest_loss_answers_and_learning_goes_on_from_the_last() -> None:
    offered = [adapter(float(n)) for n in range(4)]
    own = Best(offered[0])
    assert own.best is offered[0]
    for made, loss in zip(offered[1:], (3.0, 2.0, 2.5), strict=True):
        own.offer(made, loss)
    assert (own.best, own.last, own.loss) == (offered[2], offered[3], 2.0)


def test_without_held_out_notes_the_last_answers() -> None:
    own, made = Best(adapter(0.0)), adapter(1.0)
    own.offer(adapter(2.0), math.nan)
    own.offer(made, math.nan)
    assert own.best is own.last is made


@pytest.mark.parametrize("losses", [(2.0, 3.0), (math.nan,), ()])
def test_it_goes_on_as_it_was(losses: tuple[float, ...]) -> None:
    own, again = Best(adapter(0.0)), Best(adapter(9.0))
    for number, loss in enumerate(losses):
        own.offer(adapter(1.0 + number), loss)
    again.restore("own", own.weights("own"), "base")
    assert again.loss == own.loss
    assert (again.best.digest(), again.last.digest()) == (own.best.digest(), own.last.digest())
