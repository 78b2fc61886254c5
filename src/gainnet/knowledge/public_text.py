"""Public text from files: questions and answers (MedQuAD), a text a row, or paragraphs; a part is held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gainnet.errors import InputError
from gainnet.knowledge.rows import FIELD_MAX, FORMATS, Refused, broken, fault, kind, lines, opened, rows
from gainnet.models.held_out import hold_out

CHARACTERS_MAX = 200_000_000  # of all; texts lie in memory
KINDS = (".csv", ".jsonl", ".txt")

_COLUMNS = (("question", "answer"), ("text",))


def read(path: Path, refused: Refused) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The public texts of a file, or of the files of a folder by their names, and those held out (see `hold_out`).

    A CSV or JSONL file has the columns question and answer (as MedQuAD), or text; a file that ends in .txt has texts
    with empty lines between them. What is there twice is taken once. Errors: InputError where a file cannot be read,
    a folder holds none, or there are less than two texts.
    """
    taken: dict[str, None] = {}
    repeated = characters = 0
    for text in (text for file in _files(path) for text in _texts(file, refused)):
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


def _files(path: Path) -> list[Path]:
    """The file itself; of a folder, its files of public text, not those of folders in it."""
    if not path.is_dir():
        return [path]
    try:
        found = [file for file in path.iterdir() if kind(file) in KINDS and not file.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {broken(error)}") from error
    if files := sorted(file for file in found if file.is_file()):
        return files
    raise InputError(f"{path}: holds no public text; it must have files that end in .txt, {FORMATS}")


def _texts(path: Path, refused: Refused) -> Iterator[str]:
    return _paragraphs(path, refused) if kind(path) == ".txt" else _rows(path, refused)


def _rows(path: Path, refused: Refused) -> Iterator[str]:
    if kind(path) not in KINDS:
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
