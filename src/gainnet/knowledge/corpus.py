"""Recorded data: dialogues and notes from files, in domains of note sections, and public text.

Two layouts are read. A *folder* has a training, a validation and a test file, found by ``train``, ``valid`` and
``test`` in their names (MTS-Dialog as published, Ben Abacha et al., EACL 2023: ID, section_header, section_text,
dialogue). A single *file* is split here: `HELD` of each domain for validation and as much for the test. Files are CSV
or JSON lines with named columns, gzipped or not; see `gainnet.knowledge.rows`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from gainnet.errors import InputError
from gainnet.knowledge import general, public_text
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.example import Corpus, Example
from gainnet.knowledge.grouping import grouped
from gainnet.knowledge.rows import FORMATS, MissingColumn, Refused, kind, rows, stem
from gainnet.knowledge.shards import Parts, domains, refuse_endless
from gainnet.rng import stream
from gainnet.scenario.knowledge import Recorded, Synthetic

SECTION = "note"  # of data whose sections are not told apart
SECTION_MAX = 100  # characters of a section's name
HELD = 0.1  # part of a single file's rows that is held out for validation, and as much for the test

_PARTS = {"train": "train", "valid": "validation", "test": "test"}  # in a file's name -> what it is
Read = tuple[list[Example], list[Example], list[Example]]  # train, validation, test


def read(
    data: Recorded, *, ends_of_edge: Sequence[int], rng: np.random.Generator, unfit: Mapping[str, str] | None = None
) -> Corpus:
    """The corpus of ``data.path`` and ``data.public``, with one domain for each edge, dealt to that many ends.

    Where there are fewer sections than edges, several share the examples of one (see `gainnet.knowledge.grouping`).

    A row that cannot be used is a line of ``Corpus.refused`` (all those of a section that is ``unfit``, with the reason
    that is given there); so are the sections that no domain has. Test and validation examples whose note or dialogue
    stands in the training data are marked as seen. Without ``data.public`` the general texts of synthetic data stand in
    for it, as many as its default is.

    Errors: InputError, in one line, where a file is missing or useless as a whole, lacks a column, the domains do not
    fit the edges, or a domain has no example to learn from, to decide by or to test on.
    """
    refuse_endless(ends_of_edge)
    refused = Refused()
    if not data.path.exists():
        raise InputError(f"knowledge.data.path: {data.path} does not exist; give a folder or a file")
    unfit = unfit or {}
    read_parts = _folder(data, refused, unfit) if data.path.is_dir() else _file(data, data.path, refused, unfit)
    counts = Counter(example.section for example in read_parts[0])
    wanted = {name: tuple(s for s in sections if not _fault(s, unfit)) for name, sections in data.domains.items()}
    groups = grouped(counts, len(ends_of_edge), wanted)
    _name_strays(read_parts, groups, refused)
    parted = []
    by_domain = [_by_domain(part, groups) for part in read_parts]
    for name, sections in groups.items():
        train, validation, test = (found[name] for found in by_domain)
        if not data.path.is_dir():
            train, validation, test = _split(train, rng)
        _refuse_empty(data.path, name, {"training": train, "validation": validation, "test": test})
        parted.append(Parts(name, sections, train, validation, test))
    dealt = domains(parted, ends_of_edge, rng)
    public, public_held = _public(data.public, refused)
    return Corpus(dealt, public, public_held, refused.lines())


def _folder(data: Recorded, refused: Refused, unfit: Mapping[str, str]) -> Read:
    """The examples of the three files of a folder."""
    try:
        files = sorted(path for path in data.path.iterdir() if kind(path) in (".csv", ".jsonl"))
    except OSError as error:
        raise InputError(f"knowledge.data.path: {data.path} cannot be read: {error.strerror}") from error
    found: dict[str, Path] = {}
    for path in files:
        part = next((part for word, part in _PARTS.items() if word in path.name.lower()), None)
        if part is None or part in found:
            reason = (
                "is none of train, validation and test" if part is None else f"{found[part].name} is the {part} file"
            )
            refused.note(f"{path.name}: not read: {reason}")
        else:
            found[part] = path
    for part in _PARTS.values():
        if part not in found:
            raise InputError(
                f"{data.path}: has no {part} file; one must have {part!r} in its name and end in {FORMATS}"
            )
    train, validation, test = (_file(data, found[part], refused, unfit)[0] for part in _PARTS.values())
    return train, validation, test


def _file(data: Recorded, path: Path, refused: Refused, unfit: Mapping[str, str]) -> Read:
    """The examples of one file, all of them first, as if to train on."""
    columns = (data.dialogue, data.note) if data.section is None else (data.section, data.dialogue, data.note)
    name = stem(path)
    examples, reason = [], ""
    try:
        for row in rows(path, (columns,), refused):
            *of, dialogue, note = row.fields
            section = of[0] if of else SECTION
            if why := _fault(section, unfit):
                reason = reason or f"{path.name}:{row.line}: {why}"
                refused.row(path, row.line, why)
            else:
                examples.append(Example(f"{name}/{row.line}", section, dialogue, note))
    except MissingColumn as error:
        hint = "knowledge.data.section (null for data without), .dialogue and .note name others"
        raise InputError(f"{error}; {hint}") from None
    if not examples:
        raise InputError(f"{path}: has no row that can be used; {reason}")
    return examples, [], []


def _fault(section: str, unfit: Mapping[str, str]) -> str:
    """Why no row of a section can be used, empty where they can."""
    if len(section) > SECTION_MAX:
        return f"its section has {len(section):,} characters, at most {SECTION_MAX} are allowed"
    return unfit.get(section, "")


def _by_domain(examples: Sequence[Example], groups: Mapping[str, Sequence[str]]) -> dict[str, list[Example]]:
    """The examples of each domain; those of a section which several share go to them in turn."""
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    for name, sections in groups.items():
        for section in sections:
            sharing[section].append(name)
    turns = {section: cycle(names) for section, names in sharing.items()}
    found: dict[str, list[Example]] = {name: [] for name in groups}
    for example in examples:
        if example.section in turns:
            found[next(turns[example.section])].append(example)
    return found


def _split(examples: Sequence[Example], rng: np.random.Generator) -> Read:
    """Examples shuffled and cut into train, validation and test; those held out at least one each."""
    shuffled = [examples[int(index)] for index in rng.permutation(len(examples))]
    held = max(1, round(HELD * len(shuffled)))
    return shuffled[2 * held :], shuffled[:held], shuffled[held : 2 * held]


def _name_strays(parts: Read, groups: Mapping[str, Sequence[str]], refused: Refused) -> None:
    """Name the sections that are in no domain, with how many rows are left out for it."""
    known = {section for sections in groups.values() for section in sections}
    strays = Counter(example.section for part in parts for example in part if example.section not in known)
    for section in sorted(strays):
        refused.note(f"section {section[:80]!r}: in no domain, {strays[section]} rows are left out")


def _refuse_empty(path: Path, name: str, parts: Mapping[str, Sequence[Example]]) -> None:
    for part, examples in parts.items():
        if not examples:
            raise InputError(f"{path}: domain {name!r} has no {part} example; each domain needs at least one")


def _public(path: Path | None, refused: Refused) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if path is not None:
        return public_text.read(path, refused)
    default = Synthetic()
    texts = general.texts(Draw(stream(0, "knowledge.public")), default.public + default.held)
    return tuple(texts[: default.public]), tuple(texts[default.public :])
