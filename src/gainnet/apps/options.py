"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A built-in name or a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="PATH=X", help="Change a value: network.ends=50. Repeatable.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The scenario's seed.")]
DurationOption = Annotated[float | None, typer.Option("--duration-s", metavar="S", help="Simulated time.")]
RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on Ray: auto, HOST:PORT or ray://HOST:PORT.")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results folder. [default: runs/...]")]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where the folder holds a long work's results.")
]


def slug(name: str) -> str:
    """A scenario's name as one harmless part of a path."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).lstrip(".") or "run"
