"""Rows of text files that people bring: CSV and JSON lines with named columns, and plain text; gzipped or not.

Files are read as streams, a line at a time. A row that cannot be used is refused with its line and the reason, and the
next is read; a file that is of no use as a whole is an error. White space around a field is no part of it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from gainnet.errors import InputError

FIELD_MAX = 100_000  # characters of a field; the csv module's own limit is 131,072
LINE_MAX = 1_000_000  # characters of a line that are held in memory
REFUSED_MAX = 1000  # lines of a file that are named one by one
COLUMNS_MAX = 100  # columns that an error names
COLUMN_MAX = 80  # characters of a name that nobody asked for
FORMATS = ".csv or .jsonl, or one of them with .gz"

_BROKEN = (OSError, EOFError, zlib.error)  # what a file that is cut or damaged raises while it is read


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be used: the line on which it starts, and its fields in the order of the columns asked for."""

    line: int
    fields: tuple[str, ...]


class Refused:
    """What was refused of files, one line for each row (`REFUSED_MAX` a file, then how many more)."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._number: Counter[str] = Counter()

    def row(self, path: Path, line: int, why: str) -> None:
        """A row of that file that cannot be used, and why."""
        self._number[path.name] += 1
        if self._number[path.name] <= REFUSED_MAX:
            self.note(f"{path.name}:{line}: {why}")

    def note(self, text: str) -> None:
        """Anything else that was left out."""
        self._lines.append(text)

    def lines(self) -> tuple[str, ...]:
        """All of them, in the order in which they were met."""
        more = [f"{name}: {n - REFUSED_MAX} more rows" for name, n in self._number.items() if n > REFUSED_MAX]
        return (*self._lines, *more)


def kind(path: Path) -> str:
    """The ending that tells a file's format, without ``.gz``: ``.csv``, ``.jsonl`` or whatever it has."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def stem(path: Path) -> str:
    """The name of a file without the endings that tell its format."""
    return Path(path.name.removesuffix(".gz")).stem


class MissingColumn(InputError):
    """A file has other columns than those that were asked for."""


def rows(path: Path, choices: Sequence[tuple[str, ...]], refused: Refused) -> Iterator[Row]:
    """The rows of a CSV or JSONL file that have text in all columns of one of the choices, the first that is there.

    Errors: InputError, in one line, where the file cannot be read, is of another format, has none of the choices or a
    column of one twice, has a malformed header, or has no row that can be used (then with the first reason).
    """
    reason, usable, seen = "", 0, Counter[str]()
    reader = {".csv": _csv, ".jsonl": _jsonl}.get(kind(path))
    if reader is None:
        raise InputError(f"{path}: the file must end in {FORMATS}")
    try:
        with opened(path) as file:
            for line, found in reader(file, path, choices, seen):
                picked = found if isinstance(found, str) else _picked(found, choices)
                if isinstance(picked, str):
                    reason = reason or f"{path.name}:{line}: {picked}"
                    refused.row(path, line, picked)
                else:
                    usable += 1
                    yield Row(line, picked)
    except _BROKEN as error:
        why = broken(error)
        if not usable:
            raise InputError(f"{path}: cannot be read: {why}") from error
        refused.note(f"{path.name}: {why}, after {usable} rows that can be used")
    if seen and not any(set(names) <= set(seen) for names in choices):
        raise _lacks(path, choices, list(seen))
    if not usable:
        raise InputError(f"{path}: has no row that can be used; {reason or 'it is empty'}")


def opened(path: Path) -> TextIOWrapper:
    """The file as text with its line ends as they are; bytes that are not UTF-8 become lone surrogates."""
    form: Mapping[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    if path.name.endswith(".gz"):
        return cast("TextIOWrapper", gzip.open(path, "rt", **form))
    return cast("TextIOWrapper", path.open(**form))


def broken(error: BaseException) -> str:
    """What is wrong with a file that could not be read (to its end), in a few words."""
    return str(error.strerror or error) if isinstance(error, OSError) else f"it is cut or damaged ({error})"


def fault(text: str) -> str:
    """Why a text cannot be used, empty where it can."""
    if not text.strip():
        return "empty"
    if len(text) > FIELD_MAX:
        return f"of {len(text):,} characters, at most {FIELD_MAX:,} are allowed"
    try:
        text.encode("utf-8")  # lone surrogates stand for bytes that could not be decoded
    except UnicodeEncodeError:
        return "not UTF-8 text"
    return "not text: it has a NUL" if "\0" in text else ""


def lines(file: TextIOWrapper) -> Iterator[str]:
    """The lines of a file; one that is longer than `LINE_MAX` comes in pieces, so that memory stays bounded."""
    while line := file.readline(LINE_MAX):
        yield line


Found = Mapping[str, object] | str  # a row's fields by name, or why there are none


def _picked(fields: Mapping[str, object], choices: Sequence[tuple[str, ...]]) -> tuple[str, ...] | str:
    """The fields of the first choice that is there, or why they cannot be used."""
    names = next((names for names in choices if set(names) <= set(fields)), None)
    if names is None:
        return f"lacks {', '.join(repr(name) for name in choices[0] if name not in fields)}"
    picked = []
    for name in names:
        text = fields[name]
        if not isinstance(text, str):
            return f"{name!r} is not text"
        if why := fault(text):
            return f"{name!r} is {why}"
        picked.append(text.strip())
    return tuple(picked)


class _Again:
    """Lines of a file, where those that a malformed row took with it can be had again: a quote that is not closed
    takes all up to the next one, or up to the end."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._ahead: deque[str] = deque()
        self._taken: list[str] = []
        self._ended = False
        self._line = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self._ahead.popleft() if self._ahead else next(self._source, None)
        if text is None:
            self._ended = True
            raise StopIteration
        self._taken.append(text)
        return text

    def begin(self) -> int:
        """A row begins: the number of its first line."""
        self._line += len(self._taken)
        self._taken, self._ended = [], False
        return self._line

    def again(self) -> None:
        """All lines but the first of the row come again."""
        self._ahead.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    def why(self, error: csv.Error) -> str:
        """What is wrong with the row."""
        if self._ended:
            return "a quote is not closed"
        return f"{error}; a quote may not be closed" if len(self._taken) > 1 else str(error)


def _csv(
    file: TextIOWrapper, path: Path, choices: Sequence[tuple[str, ...]], seen: Counter[str]
) -> Iterator[tuple[int, Found]]:
    source = _Again(lines(file))
    reader = csv.reader(source, strict=True)
    header: list[str] = []
    while True:
        line = source.begin()
        try:
            row = next(reader, None)
        except csv.Error as error:
            why = f"malformed: {source.why(error)}"
            if not header:
                raise InputError(f"{path}:{line}: the header is {why}") from error
            source.again()
            yield line, why
            continue
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = row
            seen.update(header)
            names = next((names for names in choices if set(names) <= set(header)), None)
            if names is None:
                raise _lacks(path, choices, header)
            if twice := [name for name in names if seen[name] > 1]:
                raise InputError(f"{path}: has the column {twice[0]!r} {seen[twice[0]]} times; it must be there once")
        elif len(row) != len(header):
            yield line, f"{len(row)} fields where the header has {len(header)}"
        else:
            yield line, dict(zip(header, row, strict=True))


def _jsonl(
    file: TextIOWrapper, _path: Path, choices: Sequence[tuple[str, ...]], seen: Counter[str]
) -> Iterator[tuple[int, Found]]:
    wanted = {name for names in choices for name in names}
    number, whole = 0, True
    for text in lines(file):
        begins, whole = whole, text.endswith("\n")
        number += begins
        if not begins or not text.strip():
            continue
        if not whole and len(text) >= LINE_MAX:
            yield number, f"the line has more than {LINE_MAX:,} characters"
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, f"no JSON: {str(error)[:80]}"
            continue
        if isinstance(found, dict):
            seen.update(name for name in found if name in wanted)
            seen.update(name[:COLUMN_MAX] for name in found if name not in wanted and len(seen) <= COLUMNS_MAX)
            yield number, found
        else:
            yield number, "no JSON object"


def _lacks(path: Path, choices: Sequence[tuple[str, ...]], there: Sequence[str]) -> MissingColumn:
    wanted = " or ".join(", ".join(names) for names in choices)
    missing = ", ".join(repr(name) for name in choices[0] if name not in there)
    shown = ascii(", ".join(name[:COLUMN_MAX] for name in there[:COLUMNS_MAX]))[1:-1]
    shown += ", ..." if len(there) > COLUMNS_MAX else ""
    return MissingColumn(f"{path}: has no column {missing}; it must have the columns {wanted}, and has {shown}")
