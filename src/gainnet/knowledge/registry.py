"""The registry: every version of every model, who made it from what, how good it is, and which one is in use.

Versions are MLflow's idea of them: numbers under a name, artifacts, the aliases champion and candidate. They are kept
in plain files; `gainnet.knowledge.publish` brings them to an MLflow registry. See docs/gotchas.md for why they are not
kept in MLflow's own files.

::

    folder/NAME/versions.json    all versions of a name and its aliases, replaced as a whole
    folder/NAME/3/               what was saved of version 3: an adapter that plain peft loads, or a model
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gainnet.errors import InputError
from gainnet.knowledge.gate import Scores

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_FILE = "versions.json"
_WRITING = ".writing"
Save = Callable[[Path], None]
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who a version was learnt from.

    Attributes:
        edge: name of the edge.
        ends: how many of its ends took part.
        weight: its part in what was aggregated.
    """

    edge: str
    ends: int
    weight: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Privacy that the data behind a version has lost by then (differential privacy)."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from, and what it is worth.

    Attributes:
        round: that made it; -1 of what the first round begins from.
        base: digest of the foundation model that it belongs to.
        parents: digests of the versions that it was made from.
        contributors: edges that it was learnt from.
        privacy: spent by then; None where nothing is promised.
        scores: on held-out data; None where it was not judged.
        rouge: F1 of ROUGE-1, -2 and -L, by domain.
    """

    round: int
    base: str
    parents: tuple[str, ...] = ()
    contributors: tuple[Contributor, ...] = ()
    privacy: Spent | None = None
    scores: Scores | None = None
    rouge: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """One version.

    Attributes:
        name: of the model.
        number: from 1 on, in order of registration.
        digest: SHA-256 of what it is.
        origin: where it comes from.
        status: of a candidate that was not judged yet, or what came of it; a champion that was replaced stays promoted.
        reasons: why it was rejected.
        folder: where it was saved.
    """

    name: str
    number: int
    digest: str
    origin: Origin
    status: Literal["candidate", "promoted", "rejected"]
    reasons: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class _Shelf:
    """All that is known under a name.

    Attributes:
        versions: in the order of their numbers.
        candidate: number of the version that waits to be judged.
        champions: (round, number) of each promotion, rounds rising.
    """

    versions: tuple[Version, ...] = ()
    candidate: int | None = None
    champions: tuple[tuple[int, int], ...] = ()

    def champion(self, before: int | None = None) -> int | None:
        """Number of the version in use, or of that in use when round ``before`` began."""
        found = [number for promoted, number in self.champions if before is None or promoted < before]
        return found[-1] if found else None


class Registry:
    """Versions by name, in a folder. Whatever is done twice is done once, so a killed run may do again what it began.

    One process writes to a folder at a time.

    Args:
        folder: made at the first registration.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shelves: dict[str, _Shelf] = {}

    def names(self) -> tuple[str, ...]:
        """The names that have versions, sorted."""
        return tuple(sorted(path.parent.name for path in self.folder.glob(f"*/{_FILE}")))

    def versions(self, name: str) -> tuple[Version, ...]:
        """All versions of a name, oldest first; InputError where the file that lists them is broken."""
        return self._shelf(name).versions

    def champion(self, name: str, before: int | None = None) -> Version | None:
        """The version in use, if there is one.

        Args:
            name: of the model.
            before: the one in use when that round began, for a run that does the round again.
        """
        shelf = self._shelf(name)
        number = shelf.champion(before)
        return shelf.versions[number - 1] if number else None

    def candidate(self, name: str) -> Version | None:
        """The version that waits to be judged, if there is one."""
        shelf = self._shelf(name)
        return shelf.versions[shelf.candidate - 1] if shelf.candidate else None

    def register(self, name: str, digest: str, save: Save, origin: Origin) -> Version:
        """Keep a version, as the candidate. One of the same digest under that name is found again, as it is.

        Args:
            name: of the model.
            digest: of what it is.
            save: writes it to an empty folder.
            origin: where it comes from.

        Raises:
            InputError: the name cannot name a folder.
            OSError: it cannot be written; the registry is then as it was.
        """
        shelf = self._shelf(name)
        known = [version for version in shelf.versions if version.digest == digest]
        if known:
            self._put(name, replace(shelf, candidate=known[0].number))
            return known[0]
        number = len(shelf.versions) + 1
        folder = self.folder / name / str(number)
        _fill(folder, save)
        version = Version(name, number, digest, origin, "candidate", (), folder)
        self._put(name, replace(shelf, versions=(*shelf.versions, version), candidate=number))
        return version

    def promote(self, version: Version, number: int | None = None) -> Version:
        """Make it the champion in round ``number``, by default its own.

        A round that is done again forgets what was promoted since.
        """
        number = version.origin.round if number is None else number
        shelf = self._shelf(version.name)
        shelf = replace(shelf, champions=tuple(found for found in shelf.champions if found[0] < number))
        if shelf.champion() != version.number:
            shelf = replace(shelf, champions=(*shelf.champions, (number, version.number)))
        return self._judged(shelf, version, "promoted", ())

    def reject(self, version: Version, reasons: tuple[str, ...]) -> Version:
        """Mark it as failed. It is kept, and the champion stays: also where it is the same version, judged again."""
        shelf = self._shelf(version.name)
        kept = shelf.champion() == version.number
        return self._judged(shelf, version, "promoted" if kept else "rejected", reasons)

    def clear(self) -> None:
        """Forget everything: a run begins anew in this folder."""
        self._shelves.clear()
        for name in self.names():
            shutil.rmtree(self.folder / name)

    def _judged(
        self, shelf: _Shelf, version: Version, status: Literal["promoted", "rejected"], reasons: tuple[str, ...]
    ) -> Version:
        """The version with its judgement; it is no candidate any more."""
        judged = replace(shelf.versions[version.number - 1], status=status, reasons=reasons)
        at = version.number - 1
        versions = (*shelf.versions[:at], judged, *shelf.versions[at + 1 :])
        candidate = None if shelf.candidate == version.number else shelf.candidate
        self._put(version.name, replace(shelf, versions=versions, candidate=candidate))
        return judged

    def _shelf(self, name: str) -> _Shelf:
        if not _NAME.fullmatch(name):
            raise InputError(f"registry: a name has letters, digits, spaces, '.', '_' and '-' only, not {name!r}")
        if name not in self._shelves:
            path = self.folder / name / _FILE
            self._shelves[name] = _read(path) if path.exists() else _Shelf()
        return self._shelves[name]

    def _put(self, name: str, shelf: _Shelf) -> None:
        """Replace a name's file as a whole: a process that is killed leaves the old or the new one."""
        if shelf == self._shelf(name):
            return
        path = self.folder / name / _FILE
        beside = path.with_name(_FILE + _WRITING)
        beside.write_text(_text(shelf), encoding="utf-8")
        os.replace(beside, path)
        self._shelves[name] = shelf


def _fill(folder: Path, save: Save) -> None:
    """Save to a folder that is whole, or not there; what a killed process left of it is replaced."""
    beside = folder.with_name(folder.name + _WRITING)
    for left in (beside, folder):
        if left.exists():
            shutil.rmtree(left)
    beside.mkdir(parents=True)
    save(beside)
    os.replace(beside, folder)


def _text(shelf: _Shelf) -> str:
    """As JSON, a version a line; figures that are no finite numbers are null."""
    head = json.dumps({"candidate": shelf.candidate, "champions": shelf.champions})
    lines = ",\n".join(map(_line, shelf.versions))
    return f'{head[:-1]}, "versions": [\n{lines}\n]}}\n'


def _line(version: Version) -> str:
    tree = asdict(version)
    del tree["folder"], tree["name"]
    return json.dumps(_finite(tree), allow_nan=False)


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _read(path: Path) -> _Shelf:
    try:
        tree = json.loads(path.read_text("utf-8"))
        versions = tuple(_version(found, path.parent) for found in tree["versions"])
        champions = tuple((number, version) for number, version in tree["champions"])
        shelf = _Shelf(versions, tree["candidate"], champions)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is broken: {type(error).__name__} {error}") from None
    numbers = {version.number for version in versions}
    pointed = {shelf.candidate, *(number for _, number in shelf.champions)} - {None}
    if not pointed <= numbers or numbers != set(range(1, len(numbers) + 1)):
        raise InputError(f"{path}: is broken: versions are missing")
    return shelf


def _version(tree: Tree, folder: Path) -> Version:
    origin = tree["origin"]
    scores, privacy = origin["scores"], origin["privacy"]
    return Version(
        name=folder.name,
        number=tree["number"],
        digest=tree["digest"],
        origin=Origin(
            round=origin["round"],
            base=origin["base"],
            parents=tuple(origin["parents"]),
            contributors=tuple(Contributor(**found) for found in origin["contributors"]),
            privacy=Spent(**privacy) if privacy else None,
            scores=_scores(scores) if scores else None,
            rouge={
                name: (_number(one), _number(two), _number(longest))
                for name, (one, two, longest) in origin["rouge"].items()
            },
        ),
        status=tree["status"],
        reasons=tuple(tree["reasons"]),
        folder=folder / str(tree["number"]),
    )


def _scores(tree: Tree) -> Scores:
    domain = {name: _number(loss) for name, loss in tree["domain"].items()}
    return Scores(domain, _number(tree["public"]), tree["latency_s"], tree["memory_byte"])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
