"""Recorded positions from a CSV file."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gainnet.errors import TraceError

COLUMNS = ("time_s", "end", "x_m", "y_m")


def _rows(path: Path) -> dict[str, list[tuple[float, float, float]]]:
    """(time, x, y) of each end, in the order in which the ends first appear.

    Raises:
        TraceError: with the file and the line of what is wrong.
    """
    tracks: dict[str, list[tuple[float, float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if header is None:
                raise TraceError(f"{path}: the trace is empty: give the header {','.join(COLUMNS)} and rows")
            if tuple(name.strip() for name in header) != COLUMNS:
                raise TraceError(f"{path}, line 1: the header is {','.join(header)!r}, not {','.join(COLUMNS)!r}")
            for row in reader:
                if not row:
                    continue
                end, sample = _sample(path, reader.line_num, row)
                track = tracks.setdefault(end, [])
                if track and sample[0] <= track[-1][0]:
                    raise TraceError(f"{path}, line {reader.line_num}: time_s of end {end!r} does not increase")
                track.append(sample)
    except OSError as error:
        raise TraceError(f"{path}: the trace cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: the trace is not CSV text: {error}") from error
    if not tracks:
        raise TraceError(f"{path}, line 2: the trace has a header and no rows")
    return tracks


def _sample(path: Path, line: int, row: list[str]) -> tuple[str, tuple[float, float, float]]:
    if len(row) != len(COLUMNS):
        raise TraceError(f"{path}, line {line}: {len(row)} values where {','.join(COLUMNS)} needs {len(COLUMNS)}")
    try:
        time_s, x_m, y_m = float(row[0]), float(row[2]), float(row[3])
    except ValueError as error:
        raise TraceError(f"{path}, line {line}: time_s, x_m and y_m must be numbers: {error}") from error
    if not (math.isfinite(time_s) and math.isfinite(x_m) and math.isfinite(y_m)):
        raise TraceError(f"{path}, line {line}: time_s, x_m and y_m must be finite")
    return row[1].strip(), (time_s, x_m, y_m)


def read(path: Path, *, ends: int, frame_s: float, duration_s: float) -> Float[np.ndarray, "frame user 4"]:
    """Tracks of the first ``ends`` ends of the file, linearly interpolated to the frames of a run.

    Time counts from the file's earliest sample. Before its first and after its last sample an end stands there. The
    velocity is that between the samples about a frame.

    Raises:
        TraceError: the file is missing, empty or malformed (naming the line), shorter than the run, or has fewer ends.
    """
    tracks = _rows(path)
    if len(tracks) < ends:
        raise TraceError(f"{path}: the trace has {len(tracks)} ends, the scenario network.ends = {ends}")
    start = min(track[0][0] for track in tracks.values())
    length = max(track[-1][0] for track in tracks.values()) - start
    if length + frame_s < duration_s:
        raise TraceError(
            f"{path}: the trace lasts {length:g} s, the run {duration_s:g} s: shorten the run or loop the trace"
        )
    times = np.arange(math.ceil(duration_s / frame_s - 1e-9) + 1) * frame_s
    result = np.zeros((len(times), ends, 4))
    for user, samples in enumerate(list(tracks.values())[:ends]):
        known = np.array(samples)
        known[:, 0] -= start
        for axis in (0, 1):
            result[:, user, axis] = np.interp(times, known[:, 0], known[:, 1 + axis])
        after = np.searchsorted(known[:, 0], times, side="right")
        moving = (after > 0) & (after < len(known))
        late = after[moving]
        span = known[late, 0] - known[late - 1, 0]
        result[moving, user, 2:] = (known[late, 1:] - known[late - 1, 1:]) / span[:, None]
    return result
