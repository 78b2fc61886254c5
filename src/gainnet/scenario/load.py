"""From a name or a file to a Scenario, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gainnet.errors import ScenarioError
from gainnet.scenario import document, override, shape
from gainnet.scenario.complaint import complaint, nearest, shown
from gainnet.scenario.hardware import BASE_STATIONS, HARDWARE
from gainnet.scenario.home import expanded
from gainnet.scenario.models import MODELS
from gainnet.scenario.quantity import Section
from gainnet.scenario.scenario import Scenario

_BUILTIN = resources.files("gainnet.scenario") / "builtin"
_BYTES_MAX = 16_000_000


def names() -> tuple[str, ...]:
    """The built-in scenarios, in alphabetical order."""
    files = (entry.name for entry in _BUILTIN.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


def builtin(name: str) -> str:
    """The file of a built-in scenario as it was written, comments included; ScenarioError where there is none of that name."""
    if name not in names():
        raise ScenarioError(f"unknown scenario {name!r}: one of {', '.join(names())}{nearest(name, names())}")
    return (_BUILTIN / f"{name}.yaml").read_text("utf-8")


def presets() -> str:
    """What a scenario may name, as YAML by the field that names it: hardware, base stations and models, with their sources."""
    known: dict[str, Mapping[str, Section]] = {"hardware": HARDWARE, "base_station": BASE_STATIONS, "models": MODELS}
    return document.write(
        {
            field: {name: preset.model_dump(mode="json") for name, preset in found.items()}
            for field, found in known.items()
        }
    )


def load(name_or_path: str, overrides: Sequence[str] = (), **top_level: Any) -> Scenario:
    """The scenario of that built-in name or in that YAML file, with values changed.

    Args:
        name_or_path: a built-in name, or the path of a YAML file (a built-in name wins: write ``./name`` for a file).
        overrides: ``path.to.value=x`` each, applied in order; x is YAML. A bare name where a section with a ``kind`` is
            expected means that kind, and another kind drops the fields that only the old one has; a bare path means the
            one kind that is read from a path (``knowledge.data=notes.csv``, ``knowledge.foundation=models/mine``). Relative
            paths in them are under the working folder; relative paths in the file are under the file's folder.
        top_level: values of the scenario's own fields (``seed=3``), applied last; None leaves the field alone.

    Raises:
        ScenarioError: one line that begins with the path of the field (or the file and its line).
    """
    text, origin, folder = _source(name_or_path)
    tree = document.read(text, origin)
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"is {shown(tree)}"
        raise ScenarioError(f"{origin}: {found}: a scenario is a section with the fields name, network, demand, ...")
    scenario = _checked(shape.normalised(shape.schema(), tree, folder))
    return change(scenario, overrides, **top_level)


def change(scenario: Scenario, overrides: Sequence[str] = (), **top_level: Any) -> Scenario:
    """The scenario with values changed, as in `load`. ScenarioError in one line."""
    given = {field: value for field, value in top_level.items() if value is not None}
    if not overrides and not given:
        return scenario
    changed = scenario.model_dump(mode="json")
    for text in overrides:
        override.apply(changed, text, Path.cwd())
    return _checked(changed | given)


def dump(scenario: Scenario) -> str:
    """The resolved scenario as YAML, defaults written out; `load` gives an equal Scenario."""
    return document.write(scenario.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """The JSON schema of scenario files."""
    return shape.schema()


def _source(name_or_path: str) -> tuple[str, str, Path]:
    """Text, name for errors, and folder for relative paths."""
    if name_or_path in names():
        return builtin(name_or_path), name_or_path, Path.cwd()
    path = expanded(name_or_path)
    try:
        if path.is_file():
            if path.stat().st_size > _BYTES_MAX:
                raise ScenarioError(f"{path}: is larger than {_BYTES_MAX // 1_000_000} MB: not a scenario")
            return path.read_text("utf-8"), str(path), path.resolve().parent
        if path.exists():
            raise ScenarioError(f"{path}: is not a file: give a YAML file or one of {', '.join(names())}")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScenarioError(f"{shown(name_or_path)}: cannot be read: {reason}") from None
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise ScenarioError(f"{path}: there is no such file")
    known = names()
    raise ScenarioError(
        f"unknown scenario {name_or_path!r}: one of {', '.join(known)}, or a YAML file{nearest(name_or_path, known)}"
    )


def _checked(tree: dict[str, Any]) -> Scenario:
    """The scenario in a tree of plain data. JSON's rules hold: no text for a number, no true for one."""
    try:
        text = json.dumps(tree, default=str)
    except ValueError as error:  # a whole number of thousands of digits
        raise ScenarioError(f"a value is too large: {error}") from None
    try:
        return Scenario.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ScenarioError(complaint(error)) from None
