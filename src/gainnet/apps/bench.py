"""The benchmarks of a source checkout: ``benchmarks/NAME.py`` with ``figures(...)`` and, if it likes, ``MEANING``."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gainnet.errors import InputError
from gainnet.scenario.complaint import nearest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


def names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The benchmarks there are; InputError outside a source checkout."""
    found = tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))
    if not found:
        raise InputError(f"benchmarks come with a source checkout of gainnet, and {folder} is none (pip install -e .)")
    return found


def told(folder: Path = FOLDER) -> dict[str, str]:
    """What each benchmark is for, by its docstring up to the first full stop or colon; nothing of it is run."""
    found = {}
    for name in names(folder):
        text = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text("utf-8"))) or ""
        found[name] = re.split(r"[.:](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    return found


def run(name: str, options: Mapping[str, Any], folder: Path = FOLDER) -> tuple[dict[str, float], Mapping[str, str]]:
    """The figures of a benchmark, and what each means where it says so.

    Args:
        name: which one.
        options: as of the command; None or False where not given. Only those that it takes may be given.
        folder: where the benchmarks are.

    Raises:
        InputError: no such benchmark, or it takes no such option, or needs one.
    """
    known = names(folder)
    if name not in known:
        raise InputError(f"unknown benchmark {name!r}: one of {', '.join(known)}{nearest(name, known)}")
    module = _module(folder / f"{name}.py")
    taken = inspect.signature(module.figures).parameters
    given = {option: value for option, value in options.items() if value is not None and value is not False}
    for option in given:
        if option not in taken:
            listed = ", ".join(f"--{_shown(parameter)}" for parameter in taken if parameter in options) or "none"
            raise InputError(f"--{_shown(option)}: bench {name} does not take it; it takes {listed}")
    for option, parameter in taken.items():
        if parameter.default is inspect.Parameter.empty and option not in given:
            raise InputError(f"--{_shown(option)} is missing: bench {name} needs it")
    figures: dict[str, float] = module.figures(**given)
    meaning: Mapping[str, str] = getattr(module, "MEANING", {})
    return figures, meaning


def _shown(option: str) -> str:
    return option.replace("_", "-")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gainnet_benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
