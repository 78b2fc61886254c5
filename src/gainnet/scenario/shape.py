"""The shape of a scenario, read from its JSON schema: what may stand where, in words and for finding one's way."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from gainnet.scenario.home import expanded
from gainnet.scenario.quantity import MODEL
from gainnet.scenario.scenario import Scenario

Node = dict[str, Any]
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "none": "null"}
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_TYPES = {"dict": "object", "list": "array", "str": "string"}


@cache
def schema() -> Node:
    """The JSON schema of a scenario; what sections say of their fields stands at the fields, where editors show it."""
    found = Scenario.model_json_schema()
    for section in (found, *found["$defs"].values()):
        _described(section)
    return found


def _described(section: Node) -> None:
    """Move what a section's text says under ``Attributes:`` to its fields."""
    text, _, listed = section.get("description", "").partition("\nAttributes:\n")
    if not listed:
        return
    section["description"] = text.strip()
    for name, told in _ATTRIBUTE.findall(listed):
        if name in section.get("properties", {}):
            section["properties"][name].setdefault("description", " ".join(told.split()))


def resolved(node: Node) -> Node:
    """The node that ``node`` refers to, or itself."""
    while "$ref" in node:
        node = schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def kinds(node: Node) -> dict[str, Node]:
    """The members of a section that is told apart by ``kind``, else nothing."""
    mapping = resolved(node).get("discriminator", {}).get("mapping", {})
    return {kind: resolved({"$ref": reference}) for kind, reference in mapping.items()}


def member(node: Node, value: Any) -> Node:
    """The branch of a union that ``value`` belongs to (by its kind, or by its type), or the node itself."""
    node = resolved(node)
    if members := kinds(node):
        kind = value.get("kind") if isinstance(value, dict) else None
        return members.get(kind, node) if isinstance(kind, str) else node
    wanted = _TYPES.get(type(value).__name__)
    for branch in map(resolved, node.get("anyOf", ())):
        if wanted is not None and (branch.get("type") == wanted or (wanted == "object" and kinds(branch))):
            return member(branch, value)
    return node


def fields(node: Node) -> dict[str, Node]:
    """The declared fields of a section, by name; also of one that may be left out."""
    properties: dict[str, Node] = _given(node).get("properties", {})
    return properties


def _given(node: Node) -> Node:
    """A section that may be null, as it is where it is not."""
    branches = [branch for branch in map(resolved, node.get("anyOf", ())) if branch.get("type") != "null"]
    return branches[0] if len(branches) == 1 and branches[0].get("type") == "object" else node


def below(node: Node, part: str | int) -> Node:
    """What may stand at the field, entry or index ``part`` of a section or list; empty where nothing is declared."""
    node = _given(node)
    if isinstance(part, int):
        return resolved(node.get("items", {}))
    if part in fields(node):
        return resolved(fields(node)[part])
    extra = node.get("additionalProperties")
    return resolved(extra) if isinstance(extra, dict) else {}


def locate(location: tuple[str | int, ...]) -> tuple[list[str], Node, Node]:
    """The path that a person sees of a pydantic location (union tags left out), what may stand there, its section."""
    path: list[str] = []
    declared = section = node = schema()
    for part in location:
        branch = _tagged(node, part)
        if branch is not None:
            node = branch
            continue
        section = node
        declared = node = below(node, part)
        path.append(str(part))
    return path, declared, section


def _tagged(node: Node, part: str | int) -> Node | None:
    if not isinstance(part, str):
        return None
    if part in (members := kinds(node)):
        return members[part]
    for branch in map(resolved, node.get("anyOf", ())):
        if branch.get("title") == part or branch.get("type") == _JSON_TYPES.get(part, ""):
            return branch
    return None


def describe(node: Node) -> str:
    """What may stand at a node, in words: ``a number above 0``."""
    node = resolved(node)
    if members := kinds(node):
        return f"a section with kind = one of {', '.join(members)}"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(describe(branch) for branch in node["anyOf"]))
    if "enum" in node or "const" in node:
        return "one of " + ", ".join(str(value) for value in node.get("enum", [node.get("const")]))
    match node.get("type"):
        case "number" | "integer":
            return _number(node)
        case "boolean":
            return "true or false"
        case "string":
            return {"path": "a path", MODEL: "a model's folder, or its name on a hub"}.get(
                node.get("format", ""), "text"
            )
        case "null":
            return "null"
        case "array":
            least = node.get("minItems", 0)
            return f"a list of at least {least}" if least else "a list"
        case "object" if fields(node):
            return f"a section with the fields {', '.join(fields(node))}"
        case "object":
            least = node.get("minProperties", 0)
            return f"a section with at least {least} name" if least else "a section of names"
    return "something else"


def _number(node: Node) -> str:
    words = ["a whole number" if node["type"] == "integer" else "a finite number"]
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {node[key]:g}" for key, word in bounds.items() if key in node]
    return " ".join([*words, " and ".join(limits)]) if limits else words[0]


def normalised(node: Node, value: Any, folder: Path) -> Any:
    """``value`` with every short form written out: a bare kind or path as a section, a relative path under ``folder``."""
    if isinstance(value, str) and (members := kinds(node)):
        reader = None if value in members else _reader(members)
        if reader is None or not _is_path(value, folder):
            return {"kind": value}
        value = {"kind": reader[0], reader[1]: value}
    node = member(node, value)
    if isinstance(value, dict):
        return {key: normalised(below(node, str(key)), entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [normalised(below(node, 0), entry, folder) for entry in value]
    form = node.get("format")
    if isinstance(value, str) and value and (form == "path" or (form == MODEL and _is_folder(value, folder))):
        return str((folder / expanded(value)).resolve())
    return value


def _reader(members: dict[str, Node]) -> tuple[str, str] | None:
    """The kind that a bare path means, and its field: the only one that is read from a path, or loaded from a folder."""
    readers = [
        (kind, name)
        for kind, node in members.items()
        for name, form in (("path", "path"), ("name", MODEL))
        if fields(node).get(name, {}).get("format") == form
    ]
    return readers[0] if len(readers) == 1 else None


def _is_path(value: str, folder: Path) -> bool:
    """Whether a word is meant as a path: it is more than a name, or something is there."""
    path = expanded(value)
    if len(path.parts) > 1 or path.suffix:
        return True
    try:
        return bool(value) and (folder / path).exists()
    except OSError:  # a name too long for any file
        return False


def _is_folder(value: str, folder: Path) -> bool:
    try:
        return (folder / expanded(value)).is_dir()
    except OSError:  # a name too long for any file
        return False
