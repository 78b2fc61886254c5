"""One line that a person can act on, from pydantic's list of errors: which field, what was given, what is allowed."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gainnet.scenario import shape

_URGENCY = {"extra_forbidden": 0, "union_tag_invalid": 1, "union_tag_not_found": 1, "missing": 3}
_FIELDS_SHOWN = 12


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`` (did you mean 'x'?)`` for the known word nearest to ``word``, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def shown(value: Any) -> str:
    """A given value on one short line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list) and value:
        return "a section" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def complaint(error: ValidationError) -> str:
    """The most telling of the errors, in one line that begins with the path of the field."""
    details = error.errors(include_url=False)
    first = min(details, key=lambda detail: _URGENCY.get(detail["type"], 2))
    others = len(details) - 1
    more = f" (and {others} more)" if others and first["type"] == "missing" else ""
    return " ".join((_line(first) + more).split())


def _line(detail: ErrorDetails) -> str:
    path, declared, section = shape.locate(detail["loc"])
    name = ".".join(path)
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_field(name, path[-1], list(shape.fields(section)))
        case "union_tag_invalid":
            tag = str(context["tag"])
            allowed = list(shape.kinds(declared))
            return f"{name}: unknown {_singular(path)} {tag!r}: one of {', '.join(allowed)}{nearest(tag, allowed)}"
        case "union_tag_not_found":
            return f"{name}.kind is missing: must be one of {', '.join(shape.kinds(declared))}"
        case "missing":
            return f"{name} is missing: must be {shape.describe(declared)}"
        case "value_error":
            reason = detail["msg"].removeprefix("Value error, ")
            return f"{name}: {reason}" if name else reason
    return f"{name or 'scenario'} = {shown(detail['input'])}: must be {shape.describe(declared)}"


def _singular(path: list[str]) -> str:
    """What stands at ``path``: a ``matcher``, a ``fault`` (execution.faults.0), a ``service`` (demand.services.x)."""
    named = path[-1].isdecimal() or (len(path) > 1 and path[-2] in ("services", "models"))
    return path[-2].removesuffix("s") if named else path[-1]


def _unknown_field(name: str, field: str, allowed: list[str]) -> str:
    listed = ", ".join(allowed[:_FIELDS_SHOWN]) + (", ..." if len(allowed) > _FIELDS_SHOWN else "")
    return f"{name} is not a field: one of {listed}{nearest(field, allowed)}"
