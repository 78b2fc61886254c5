"""``--set path.to.value=x``: one value of a scenario, changed before it is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gainnet.errors import ScenarioError
from gainnet.scenario import document, shape
from gainnet.scenario.complaint import shown
from gainnet.scenario.hardware import BASE_STATIONS, HARDWARE
from gainnet.scenario.models import MODELS


def parse(text: str) -> tuple[list[str], Any]:
    """The path and the value (read as YAML) of ``path.to.value=x``; ScenarioError names what is wrong."""
    name, equals, given = text.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise ScenarioError(f"--set {shown(text)}: must read path.to.value=x, like network.ends=50")
    return path, document.read(given, f"--set {name.strip()}")


def apply(tree: dict[str, Any], text: str, folder: Path) -> None:
    """Change one value of a complete scenario tree in place; relative paths are under ``folder``.

    The keys of a path may hold dots themselves (``models.llama-3.2-3b.quality``): the longest key that is there wins.
    A section that does not exist yet is made; whether it may exist is for the schema to say.
    """
    try:
        path, value = parse(text)
        _set(tree, shape.schema(), path, value, folder, [])
    except ScenarioError as error:
        raise ScenarioError(" ".join(str(error).split())) from None  # a path may hold line ends


def _set(branch: Any, node: shape.Node, path: list[str], value: Any, folder: Path, done: list[str]) -> None:
    """Set ``path`` below ``branch``, a section or list for which ``node`` (a union or not) is declared."""
    key, rest = _key(branch, path, done)
    declared = shape.below(shape.member(node, branch), key)
    if rest:
        here = [*done, str(key)]
        _set(_child(branch, key, declared, rest, here), declared, rest, value, folder, here)
    elif key == "kind" and isinstance(value, str) and isinstance(branch, dict):
        _change_kind(branch, shape.kinds(node), value)
    else:
        short = shape.normalised(declared, value, folder)
        if isinstance(branch, list) and key == len(branch):
            branch.append(short)
        else:
            branch[key] = short


def _key(branch: Any, path: list[str], done: list[str]) -> tuple[str | int, list[str]]:
    if isinstance(branch, dict):
        known = {*branch, *(MODELS if done == ["models"] else ())}
        for count in range(len(path), 0, -1):
            if (key := ".".join(path[:count])) in known:
                return key, path[count:]
        return path[0], path[1:]
    name = ".".join(done)
    if not isinstance(branch, list):
        raise ScenarioError(f"{name} is {shown(branch)}, which has no {path[0]!r}")
    if not path[0].isdecimal() or not path[0].isascii() or int(path[0]) > len(branch):
        entries = f"entries 0 to {len(branch) - 1}" if branch else "no entries"
        raise ScenarioError(f"{name}.{path[0]}: the list has {entries}; {len(branch)} adds one")
    return int(path[0]), path[1:]


def _child(branch: Any, key: str | int, node: shape.Node, rest: list[str], here: list[str]) -> Any:
    """The section or list at ``key``, made where it is missing; presets are written out so that they can be changed."""
    if isinstance(branch, list) and key == len(branch):
        branch.append({})
    if isinstance(branch, dict) and branch.get(str(key)) is None:
        preset = MODELS.get(str(key)) if here[:-1] == ["models"] else None
        made = preset.model_dump(mode="json") if preset is not None else ([] if node.get("type") == "array" else {})
        branch[key] = made
    child = branch[key]
    if isinstance(child, str):
        table = {"hardware": HARDWARE, "base_station": BASE_STATIONS}.get(str(key), {})
        if child in table:
            branch[key] = child = table[child].model_dump(mode="json")
    if not isinstance(child, dict | list):
        raise ScenarioError(f"{'.'.join(here)} is {shown(child)}, which has no {rest[0]!r}")
    return child


def _change_kind(branch: dict[str, Any], kinds: dict[str, shape.Node], value: str) -> None:
    """Make ``branch`` another kind: it keeps what means the same in both, and what only the new kind knows."""
    old = shape.fields(kinds.get(str(branch.get("kind")), {}))
    new = shape.fields(kinds.get(value, {}))
    kept = {
        name: given
        for name, given in branch.items()
        if name in new and name != "kind" and (name not in old or _meaning(old[name]) == _meaning(new[name]))
    }
    branch.clear()
    branch.update({"kind": value}, **kept)


def _meaning(node: shape.Node) -> shape.Node:
    return {key: entry for key, entry in node.items() if key != "default"}
