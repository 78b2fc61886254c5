"""Public text from a file: questions and answers (MedQuAD), a text a row, or paragraphs; a part is held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gainnet.errors import InputError
from gainnet.knowledge.rows import FIELD_MAX, FORMATS, Refused, broken, fault, kind, lines, opened, rows
from gainnet.models.held_out import hold_out

CHARACTERS_MAX = 200_000_000  # of a file; texts lie in memory

_COLUMNS = (("question", "answer"), ("text",))


def read(path: Path, refused: Refused) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The public texts of a file, and those held out (see `hold_out`).

    A CSV or JSONL file has the columns question and answer (as MedQuAD), or text; a file that ends in .txt has texts
    with empty lines between them. What is there twice is taken once. Errors: InputError where the file cannot be read
    or has less than two texts.
    """
    taken: dict[str, None] = {}
    repeated = characters = 0
    for text in _paragraphs(path, refused) if kind(path) == ".txt" else _rows(path, refused):
        if characters + len(text) > CHARACTERS_MAX:
            refused.note(f"{path.name}: what is beyond {CHARACTERS_MAX:,} characters")
            break
        repeated += text in taken
        characters += len(text) if text not in taken else 0
        taken[text] = None
    if repeated:
        refused.note(f"{path.name}: {repeated} texts that are there twice")
    if len(taken) < 2:
        raise InputError(f"{path}: has {len(taken)} texts; public text needs at least 2, one of them to hold out")
    return hold_out(tuple(taken))


def _rows(path: Path, refused: Refused) -> Iterator[str]:
    if kind(path) not in (".csv", ".jsonl"):
        raise InputError(f"{path}: public text must end in .txt, {FORMATS}")
    for row in rows(path, _COLUMNS, refused):
        yield "Question: {}\nAnswer: {}".format(*row.fields) if len(row.fields) == 2 else row.fields[0]


def _paragraphs(path: Path, refused: Refused) -> Iterator[str]:
    """Texts of a plain file; one that is too long or no UTF-8 is refused."""
    found = 0
    try:
        with opened(path) as file:
            for start, paragraph in _blocks(lines(file)):
                if why := fault(paragraph):
                    refused.row(path, start, f"text is {why}")
                else:
                    found += 1
                    yield paragraph
    except (OSError, EOFError) as error:
        if not found:
            raise InputError(f"{path}: cannot be read: {broken(error)}") from error
        refused.note(f"{path.name}: {broken(error)}, after {found} texts that can be used")


def _blocks(read_lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Lines joined up to an empty one, with the number of the first; past `FIELD_MAX` only enough to see it."""
    start, size, parts = 1, 0, list[str]()
    for number, line in enumerate(read_lines, 1):
        if line.strip():
            start = start if parts else number
            if size <= FIELD_MAX:
                parts.append(line.strip())
                size += len(line)
        elif parts:
            yield start, "\n".join(parts)
            size, parts = 0, []
    if parts:
        yield start, "\n".join(parts)
