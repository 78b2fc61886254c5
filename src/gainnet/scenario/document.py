"""YAML documents, read safely: plain data only, no duplicate keys, no code, no documents that unfold without end."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import numpy as np
import yaml

from gainnet.errors import ScenarioError

NODES_MAX = 1_000_000
LARGE = 1e5
"""From which on a number is written with an exponent."""
# YAML 1.2 numbers: PyYAML takes 1e9 (no dot) for text, which nobody means.
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool) and key is not None:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be text or a number", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that knows the same numbers as the loader, so that text like 1e9 is quoted."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _number(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    """Large numbers as 1.7e+13, with the dot and the sign that YAML 1.1 asks for; the others as they are."""
    if LARGE <= abs(value) < float("inf"):
        text = np.format_float_scientific(value, trim="0", exp_digits=1)
        return dumper.represent_scalar("tag:yaml.org,2002:float", text)
    return dumper.represent_float(value)


_Dumper.add_representer(float, _number)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read(text: str, origin: str) -> Any:
    """The data in a YAML text; ``origin`` names it in errors. ScenarioError in one line, with the line number."""
    try:
        loader = _Loader(text)
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ScenarioError(f"{origin}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ScenarioError(f"{origin}: is not YAML that a scenario can hold: {reason}") from None
    if _unfolded(tree, {}) > NODES_MAX:
        raise ScenarioError(f"{origin}: unfolds to more than {NODES_MAX} values: give fewer aliases")
    return tree


def write(tree: Any) -> str:
    """The YAML text of plain data; `read` gives the same data again."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=110)
    return text


def _unfolded(node: Any, known: dict[int, int]) -> float:
    """Number of values that ``node`` holds when aliases are written out; inf for one that holds itself."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) in known:
        return known[id(node)] or float("inf")
    known[id(node)] = 0
    total = 1 + sum(_unfolded(child, known) for child in (node.values() if isinstance(node, dict) else node))
    known[id(node)] = int(min(total, 10 * NODES_MAX))
    return total
