"""Recording: nothing is lost, nothing is shared, and it is cheap to read back."""

from __future__ import annotations

import numpy as np
import pytest

import fabricated
from gainnet.execution.outcome import Result
from gainnet.measurement.record import TRACKED_MAX, Recorder
from gainnet.measurement.table import Table
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.load import load

CAMPUS = load("campus")
NO_PRICE = np.zeros(len(POOL_KINDS))


def _frame(recorder: Recorder, index: int, outcomes: object, arrived: int) -> None:
    users = recorder._scenario.network.ends
    state = fabricated.state(index, 0.1, np.full((users, 2), float(index)), np.zeros(users, np.int64))
    recorder.frame(state, arrived, 1, 2, fabricated.plan(), NO_PRICE, outcomes, fabricated.usage())  # type: ignore[arg-type]


def test_rows_are_copied_and_kept_in_order() -> None:
    recorder = Recorder(CAMPUS)
    mine = fabricated.outcomes(2)
    _frame(recorder, 0, mine, 3)
    mine.quality[:] = -1.0
    _frame(recorder, 1, fabricated.outcomes(0), 0)
    record = recorder.close(fabricated.outcomes(1, task_id=9, result=int(Result.OPEN)))
    assert record.tasks["task_id"].tolist() == [0, 1, 9]
    assert record.tasks["quality"].tolist() == [0.8, 0.8, 0.8]
    assert record.frames["ended"].tolist() == [2, 0]
    assert record.frames["price"].shape == (2, len(POOL_KINDS))
    assert record.frames["cell_use"].shape == (2, 3)
    assert record.run_s == pytest.approx(0.2)
    assert not record.complete
    assert recorder.record is record


def test_a_lost_task_is_noticed() -> None:
    recorder = Recorder(CAMPUS)
    _frame(recorder, 0, fabricated.outcomes(2), 3)
    with pytest.raises(AssertionError, match="3 tasks arrived, but 2"):
        recorder.close(fabricated.outcomes(0))


def test_a_task_that_ends_twice_is_noticed() -> None:
    recorder = Recorder(CAMPUS)
    _frame(recorder, 0, fabricated.outcomes(2, task_id=5), 2)
    with pytest.raises(AssertionError, match="twice"):
        recorder.close(fabricated.outcomes(0))


def test_a_recorder_closes_after_no_frame_at_all() -> None:
    record = Recorder(CAMPUS).close(fabricated.outcomes(0))
    assert len(record.tasks["task_id"]) == len(record.frames["time_s"]) == 0
    assert record.track_xy_m.shape == (0, 24, 2)


def test_positions_are_sampled_each_second_and_thinned() -> None:
    record = fabricated.run(CAMPUS).record
    assert record is not None
    assert record.track_time_s.tolist() == pytest.approx(list(range(10)))
    assert record.track_xy_m.shape == (10, 24, 2)
    crowd = Recorder(load("campus", ["network.ends=5000"]))
    assert len(crowd._track_user) <= TRACKED_MAX
    assert (crowd._track_user[0], crowd._track_user[-1]) == (0, 4999)


def test_tables_grow() -> None:
    table = Table({"whole": np.int64, "matrix": (np.float64, 2)}, 1)
    for number in range(5):
        table.append((number, [number, -number]))
    table.extend([np.array([7, 8, 9]), np.ones((3, 2))])
    columns = table.columns()
    assert columns["whole"].tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert columns["matrix"][3].tolist() == [3.0, -3.0]
    assert len(table) == 8
