"""Readers of recorded request traces: CSV files whose format is found by their header.

Two formats are read. *Azure LLM inference trace 2023* (Azure/AzurePublicDataset, Patel et al., ISCA 2024): one row for
each text request. *GenTD26* ``requests.csv`` (alibaba/clusterdata, Lin et al., SoCC 2025): one row for each image
request, stamped to the second. Columns beyond those named here are ignored, and so are blank lines.

Rows must be in time order: a trace is a log, and time that goes back means that files were joined or cut wrongly, so
it is an error and not sorted away. GenTD26 keeps requests that were never started (``PENDING``), and these lack their
sizes: a row without steps or images whose status is not ``SUCCEED`` is skipped and counted in ``Trace.skipped``.
Requests that failed later are kept: they were asked for.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from gainnet.demand.task import ServiceKind
from gainnet.errors import TraceError

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_GENTD26 = ("gmt_create", "predict_status", "num_images_per_prompt", "num_inference_steps", "num_lora")


@dataclass(frozen=True, slots=True)
class Trace:
    """The requests of a recorded trace, in time order; a size that its format does not record is zero.

    Attributes:
        path: the file.
        kind: what its requests ask for (text or image).
        time_s: time since the first request.
        resolution_s: how coarse the time stamps are, 0 where they are fine.
        prompt_token: tokens of each prompt.
        output_token: tokens of each answer.
        step: denoising steps.
        image: images asked for.
        adapted: whether at least one adapter was asked for.
        skipped: rows that were left out because their request was never started.
    """

    path: Path
    kind: ServiceKind
    time_s: Float[np.ndarray, " row"]
    resolution_s: float
    prompt_token: Float[np.ndarray, " row"]
    output_token: Float[np.ndarray, " row"]
    step: Float[np.ndarray, " row"]
    image: Float[np.ndarray, " row"]
    adapted: Bool[np.ndarray, " row"]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def length_s(self) -> float:
        """Time from the first request to the last."""
        return float(self.time_s[-1])


Row = tuple[float, float, float, float, float, float]  # time since 1970, prompt, output, step, image, adapters
Parse = Callable[[Mapping[str, str]], Row | None]


def read(path: Path) -> Trace:
    """Read a trace, in the format that its header tells.

    Errors: TraceError in one line where the file is missing, unreadable, empty or of an unknown header, and as
    ``file:line`` where a row has too few or too many fields, a number that is not whole and at least 0, an unknown
    time stamp, or a time before the row above.
    """
    rows = _rows(path)
    if not rows:
        raise TraceError(f"{path}: the file is empty; {_allowed()}")
    (_, header), body = rows[0], rows[1:]
    if set(_AZURE) <= set(header):
        return _trace(path, ServiceKind.TEXT, 0.0, *_parsed(path, header, body, _AZURE, _azure))
    if set(_GENTD26) <= set(header):
        return _trace(path, ServiceKind.IMAGE, 1.0, *_parsed(path, header, body, _GENTD26, _gentd26))
    found = ",".join(header)
    raise TraceError(f"{path}:{rows[0][0]}: unknown header {found[:120]!r}; {_allowed()}")


def _allowed() -> str:
    return f"a trace has the columns {', '.join(_AZURE)} (Azure LLM 2023) or {', '.join(_GENTD26)} (GenTD26)"


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of the line on which it ends."""
    rows: list[tuple[int, list[str]]] = []
    line = 0
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                line = reader.line_num
                if row:
                    rows.append((line, row))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise TraceError(f"{path}:{line + 1}: malformed row: {error}") from error
    return rows


def _parsed(
    path: Path, header: list[str], body: Sequence[tuple[int, list[str]]], columns: Sequence[str], parse: Parse
) -> tuple[Float[np.ndarray, "row 6"], int]:
    """The numbers of every row, and how many rows were skipped."""
    place = {name: header.index(name) for name in columns}
    numbers: list[Row] = []
    latest = float("-inf")
    for line, row in body:
        if len(row) != len(header):
            raise TraceError(f"{path}:{line}: {len(row)} fields where the header has {len(header)}; is the row cut?")
        try:
            parsed = parse({name: row[index] for name, index in place.items()})
        except ValueError as error:
            raise TraceError(f"{path}:{line}: {error}") from error
        if parsed is None:
            continue
        if parsed[0] < latest:
            back_s = latest - parsed[0]
            raise TraceError(f"{path}:{line}: time goes back by {back_s:g} s; sort the rows by {columns[0]}")
        latest = parsed[0]
        numbers.append(parsed)
    if not numbers:
        raise TraceError(f"{path}: holds no request that was started, in {len(body)} rows below its header")
    skipped = len(body) - len(numbers)
    if skipped:
        _log.info("%s: %d requests that were never started are left out", path, skipped)
    return np.array(numbers, dtype=np.float64), skipped


def _trace(
    path: Path, kind: ServiceKind, resolution_s: float, numbers: Float[np.ndarray, "row 6"], skipped: int
) -> Trace:
    time_s, prompt, output, step, image, adapters = np.ascontiguousarray(numbers.T)
    return Trace(path, kind, time_s - time_s[0], resolution_s, prompt, output, step, image, adapters > 0.0, skipped)


def _azure(row: Mapping[str, str]) -> Row:
    prompt, output = _whole(row, "ContextTokens"), _whole(row, "GeneratedTokens")
    return (_time_s(row, "TIMESTAMP"), prompt, output, 0.0, 0.0, 0.0)


def _gentd26(row: Mapping[str, str]) -> Row | None:
    sized = row["num_inference_steps"] and row["num_images_per_prompt"]
    if not sized and row["predict_status"] != "SUCCEED":
        return None
    step, image = _whole(row, "num_inference_steps"), _whole(row, "num_images_per_prompt")
    return (_time_s(row, "gmt_create"), 0.0, 0.0, step, image, _whole(row, "num_lora"))


def _whole(row: Mapping[str, str], name: str) -> float:
    """The whole number of at least 0 in that column; ValueError names the column otherwise."""
    text = row[name]
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not (number >= 0.0 and number.is_integer()):
        raise ValueError(f"{name} must be a whole number of at least 0, not {text[:40]!r}")
    return number


def _time_s(row: Mapping[str, str], name: str) -> float:
    """Seconds since 1970 of an ISO 8601 time stamp, in UTC where it names no zone; ValueError otherwise."""
    text = row[name]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be a time such as 2023-11-16 18:15:46.68, not {text[:40]!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH).total_seconds()
