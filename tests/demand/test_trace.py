from pathlib import Path

import numpy as np
import pytest
from asked import AZURE, CHAT, GENTD26, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gainnet.demand.arrivals import Replay
from gainnet.demand.task import ServiceKind
from gainnet.demand.trace import Trace, read
from gainnet.errors import TraceError
from gainnet.rng import stream
from gainnet.scenario.demand import TraceArrivals


def test_azure_rows(tmp_path: Path) -> None:
    trace = read(written(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n\n2023-11-16 18:15:50.9951690,396,0\n"))
    assert trace.kind is ServiceKind.TEXT
    assert trace.time_s == pytest.approx([0.0, 4.314579], abs=2e-6)
    assert (trace.prompt_token.tolist(), trace.output_token.tolist()) == ([374.0, 396.0], [44.0, 0.0])
    assert (len(trace), trace.skipped, trace.resolution_s) == (2, 0, 0.0)
    assert not trace.adapted.any()


def test_gentd26_rows_keep_failures_and_skip_what_never_started(tmp_path: Path) -> None:
    rows = "2024-11-15 16:57:50,T,SUCCEED,1.0,30.0,0\n2024-11-15 16:57:51,T,PENDING,,,0\n"
    trace = read(written(tmp_path, GENTD26 + rows + "2024-11-15 16:58:50,T,FAILED,4.0,28.0,2\n"))
    assert trace.kind is ServiceKind.IMAGE
    assert (trace.time_s.tolist(), trace.length_s) == ([0.0, 60.0], 60.0)
    assert (trace.step.tolist(), trace.image.tolist(), trace.adapted.tolist()) == ([30, 28], [1, 4], [False, True])
    assert (trace.skipped, trace.resolution_s) == (1, 1.0)


def test_windows_line_ends_byte_order_mark_column_order_and_zones(tmp_path: Path) -> None:
    content = "\ufeffGeneratedTokens,Extra,TIMESTAMP,ContextTokens\r\n1,x,2024-05-10 00:00:00+02:00,2\r\n"
    trace = read(written(tmp_path, content + "3,,2024-05-09 22:00:01.5Z,4\r\n"))
    assert trace.time_s.tolist() == [0.0, 1.5]
    assert trace.prompt_token.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty; a trace has the columns TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("\n\n", "the file is empty"),
        ("a,b\n1,2\n", ":1: unknown header 'a,b'; a trace has the columns TIMESTAMP.*num_lora"),
        (AZURE, "holds no request"),
        (GENTD26 + "2024-11-15 16:57:51,T,PENDING,,,0\n", "holds no request that was started, in 1 rows"),
        (CHAT + "2023-11-16 18:15:50.0,10\n", ":43: 2 fields where the header has 3"),
        (CHAT + "2023-11-16 18:15:50.0,10,5,6\n", ":43: 4 fields"),
        (
            CHAT + "\n\n2023-11-16 18:15:50.0,-1,5\n",
            ":45: ContextTokens must be a whole number of at least 0, not '-1'",
        ),
        (CHAT + "2023-11-16 18:15:50.0,10,nan\n", ":43: GeneratedTokens .* not 'nan'"),
        (CHAT + "2023-11-16 18:15:50.0,inf,5\n", ":43: ContextTokens"),
        (CHAT + "2023-11-16 18:15:50.0,1.5,5\n", ":43: ContextTokens"),
        (CHAT + "2023-11-16 18:15:50.0,,5\n", ":43: ContextTokens .* not ''"),
        (CHAT + "yesterday,10,5\n", ":43: TIMESTAMP must be a time such as .* not 'yesterday'"),
        (CHAT + "2023-11-16 18:15:39.0,10,5\n", ":43: time goes back by 1.5 s; sort the rows by TIMESTAMP"),
        (CHAT + '2023-11-16 18:15:50.0,"10,5\n', ":43: malformed row: unexpected end of data"),
        (CHAT + "2023-11-16 18:15:50.0,\udcff,5\n", ":43: ContextTokens"),
        (GENTD26 + "2024-11-15 16:57:51,T,SUCCEED,,30.0,0\n", ":2: num_images_per_prompt .* not ''"),
    ],
)
def test_a_bad_trace_is_named_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        read(written(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path / "trace.csv"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_or_a_folder_is_a_trace_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: cannot be read: No such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        read(tmp_path)


_field = st.one_of(
    st.text(max_size=12),
    st.integers(-5, 10**6).map(str),
    st.datetimes().map(str),
    st.sampled_from(
        ["", "nan", "1e999", "SUCCEED", "PENDING", "0001-01-01 00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
    ),
)
_table = st.builds(
    lambda header, rows: header + "\n".join(",".join(row) for row in rows),
    st.sampled_from([AZURE, GENTD26, ""]),
    st.lists(st.lists(_field, min_size=1, max_size=7), max_size=6),
)


def _is_consistent(trace: Trace) -> None:
    assert len(trace) > 0
    assert (np.diff(trace.time_s) >= 0.0).all()
    for column in (trace.prompt_token, trace.output_token, trace.step, trace.image):
        assert len(column) == len(trace)
        assert (np.isfinite(column) & (column >= 0.0)).all()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(_table, st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))))
@pytest.mark.untraced
def test_any_content_is_read_or_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    try:
        trace = read(path)
    except TraceError as error:
        message = str(error)
    else:
        _is_consistent(trace)
        return
    assert len(message.splitlines()) == 1


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**5), st.integers(0, 10**5)), min_size=1, max_size=9))
def test_what_was_written_is_read(tmp_path: Path, rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows)
    start = np.datetime64("2023-11-16T00:00:00.000000")
    lines = [f"{start + np.timedelta64(ms, 'ms')},{prompt},{output}" for ms, prompt, output in rows]
    trace = read(written(tmp_path, AZURE + "\n".join(lines)))
    assert trace.time_s == pytest.approx([(ms - rows[0][0]) / 1000.0 for ms, _, _ in rows], abs=1e-6)
    assert trace.prompt_token.tolist() == [prompt for _, prompt, _ in rows]


def replay(path: Path, duration_s: float = 10.0, **changes: float) -> Replay:
    return Replay(TraceArrivals.model_validate({"path": path, **changes}), 4, stream(0, "path"), duration_s)


def test_replay_starts_and_speeds_up(tmp_path: Path) -> None:
    process = replay(written(tmp_path, CHAT), start_s=10.0, speed=2.0)
    drawn = process.draw(stream(0, "a"), 0.0, 10.0)
    assert drawn.time_s.tolist() == [k / 2.0 for k in range(20)]
    assert drawn.row.tolist() == list(range(10, 30))
    assert process.rate_per_s == pytest.approx(2.05)


def test_whole_second_stamps_are_spread_within_their_second(tmp_path: Path) -> None:
    rows = "".join(f"2024-11-15 16:57:{second:02},T,SUCCEED,1.0,30.0,0\n" for second in range(40) for _ in range(5))
    drawn = replay(written(tmp_path, GENTD26 + rows), duration_s=20.0).draw(stream(0, "a"), 0.0, 20.0)
    assert (np.floor(drawn.time_s) == np.repeat(np.arange(20.0), 5)).all()
    assert len(np.unique(drawn.time_s)) == 100


def test_a_trace_that_is_too_short_names_the_lengths(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"is 40 s long, but start_s \+ duration_s \* speed = 1 \+ 20 \* 2 = 41 s"):
        replay(written(tmp_path, CHAT), duration_s=20.0, start_s=1.0, speed=2.0)


@pytest.mark.untraced
def test_the_real_traces(data: Path) -> None:
    chat = read(data / "azure_llm_2023" / "conv.csv")
    assert (len(chat), np.median(chat.prompt_token), np.median(chat.output_token)) == (19_366, 1020.0, 129.0)
    assert chat.length_s == pytest.approx(3501.7, abs=0.1)
    image = read(data / "gentd26" / "requests.csv")
    assert (len(image), image.skipped) == (17_865, 17)
    assert image.adapted.sum() == 2910
    assert np.median(image.step) == 30.0
