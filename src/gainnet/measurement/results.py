"""The folder of a run: resolved scenario.yaml, records and frames as Parquet, report.json and .html, environment.json.

All files are written beside their final names first and renamed together at the end, so a full disk leaves the folder
as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gainnet.errors import OutputError
from gainnet.execution.outcome import Result
from gainnet.measurement import metrics
from gainnet.measurement.metrics import Report
from gainnet.measurement.record import STATUSES, Record
from gainnet.network.state import Tier
from gainnet.orchestrator.pool import POOL_KINDS
from gainnet.scenario.load import dump
from gainnet.scenario.scenario import Scenario

ENVIRONMENT, STATE = "environment.json", "state.safetensors"
RUN_FILES = ("scenario.yaml", ENVIRONMENT, "records.parquet", "frames.parquet", "report.json", "report.html")
COMPARE_FILES = ("compare.json", "compare.csv", "compare.html")
TRAIN_FILES = (
    "scenario.yaml", "curve.csv", "curve.svg", STATE,
    "neural.safetensors", "drl.safetensors", "diffusion.safetensors",
    "pretrain.yaml", "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
JOURNAL, REGISTRY, ADAPTERS = "rounds", "registry", "adapters"  # folders of a run that learns
KEPT = "compared"  # folder of a comparison
_PACKAGES = ("numpy", "scipy", "numba", "pydantic", "pyarrow", "matplotlib")
_TEMPORARY = ".writing"
_PACKAGE = Path(__file__).parents[1]
Writer = Callable[[Path], None]


def prepare(folder: Path, *, over: bool = False) -> None:
    """Make sure, before a run, that its results can be written to ``folder``; it is made where it is missing.

    Args:
        folder: of the results.
        over: whether what took long to make and lies there may be gone on with, or written over.

    Raises:
        OutputError: it cannot be written, holds files that are not results of gainnet, or what took long to make.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = {*RUN_FILES, *COMPARE_FILES, *TRAIN_FILES, JOURNAL, REGISTRY, ADAPTERS, KEPT}
        foreign = sorted(e.name for e in folder.iterdir() if e.name not in known and not e.name.endswith(_TEMPORARY))
        if foreign:
            raise OutputError(f"{folder}: holds {foreign[0]!r}, no result of gainnet: give an empty folder")
        costly = None if over else _costly(folder)
        if costly is not None:
            again = f"go on with --resume {folder}, give another --out, or --overwrite"
            raise OutputError(f"{folder}: holds {costly}: {again}")
        handle, name = tempfile.mkstemp(suffix=_TEMPORARY, dir=folder)
        os.close(handle)
        os.unlink(name)
    except FileExistsError:
        raise OutputError(f"{folder}: is not a folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _costly(folder: Path) -> str | None:
    """What a folder holds that took long to make and can be gone on with, None for nothing."""
    if len(list((folder / JOURNAL).glob("round-*.json"))) > 1:  # the first is the start
        return "rounds of a run that learns"
    if (folder / STATE).is_file():
        return "a training"
    if any((folder / KEPT).glob("*.json")) and not (folder / COMPARE_FILES[0]).is_file():
        return "runs of a comparison that was stopped"
    return None


def begin(folder: Path, scenario: Scenario, command: str) -> None:
    """Keep what is about to run, so that it can be gone on with; what an earlier run learnt in the folder is removed.

    ``command`` is what makes it again, see `begun_with`.

    Raises:
        OutputError: that can't be.
    """
    try:
        for name in (JOURNAL, REGISTRY, ADAPTERS):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        (folder / JOURNAL).mkdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    machine = environment(command)
    replace(folder, {"scenario.yaml": text_writer(dump(scenario)), ENVIRONMENT: text_writer(as_json(machine))})


def begun_with(folder: Path) -> str | None:
    """The command that began the run in a folder, None where it is not known."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_text("utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def write(folder: Path, record: Record, command: str) -> Report:
    """Write everything about a run to ``folder`` and return its report; ``command`` is what makes it again.

    Raises:
        OutputError: a file cannot be written; the folder is then as it was.
    """
    report = metrics.report(record)
    replace(folder, run_writers(record, report, environment(command)))
    return report


def run_writers(record: Record, report: Report, machine: Report) -> dict[str, Writer]:
    """The files of a run, by name; ``machine`` is its `environment`."""
    from gainnet.measurement.report import page  # matplotlib takes most of a second to import

    return {
        "scenario.yaml": text_writer(dump(record.scenario)),
        ENVIRONMENT: text_writer(as_json(machine)),
        "records.parquet": lambda path: _write_parquet(path, task_table(record)),
        "frames.parquet": lambda path: _write_parquet(path, frame_table(record)),
        "report.json": text_writer(as_json(report)),
        "report.html": text_writer(page(record, report, machine)),
    }


def replace(folder: Path, writers: Mapping[str, Writer]) -> None:
    """Replace the results in ``folder`` by the files that ``writers`` make, all or none; names may have folders of their own.

    Raises:
        OutputError: a file cannot be written.
    """
    add(folder, writers, {*RUN_FILES, *COMPARE_FILES} - set(writers))


def add(folder: Path, writers: Mapping[str, Writer], without: Collection[str] = ()) -> None:
    """Put the files that ``writers`` make into ``folder``, all or none, and remove those it is then to be ``without``.

    Raises:
        OutputError: a file cannot be written.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for name, writer in writers.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}{_TEMPORARY}")
            staged.append((temporary, target))
            writer(temporary)
        for temporary, target in staged:
            os.replace(temporary, target)
        for name in without:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def text_writer(text: str) -> Writer:
    """A writer of a text file that is on disk when it returns."""

    def writer(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    return writer


def as_json(tree: Any) -> str:
    """Plain data as indented JSON; NaN is refused."""
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"


def environment(command: str) -> Report:
    """What the figures were made with: versions, commit, machine, command and time."""
    return {
        "gainnet": importlib.metadata.version("gainnet"),
        "commit": _commit(),
        "command": command,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _commit() -> str | None:
    """The commit of the source checkout, with a digest of what was changed in the package since; None outside of one."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # else it is installed in somebody's checkout
        commit = _git("rev-parse", "HEAD").decode().strip()
        changed = _git("diff", "HEAD", "--no-ext-diff", "--binary", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+{hashlib.sha256(changed).hexdigest()[:12]}" if commit and changed else commit or None


def _git(*words: str) -> bytes:
    """What git says in the package's folder. OSError or SubprocessError where it can't."""
    return subprocess.run(  # noqa: S603  words are this module's
        ["git", *words],  # noqa: S607  whichever git the person uses
        cwd=_PACKAGE, capture_output=True, timeout=5, check=True,
    ).stdout  # fmt: skip


def task_table(record: Record) -> Any:
    """The tasks as an Arrow table: the fields of Outcomes, with service, result, tier and model by name."""
    import pyarrow as pa

    names = {
        "service": list(record.scenario.demand.services),
        "result": [result.name.lower() for result in Result],
        "tier": [tier.name.lower() for tier in Tier],
        "model": list(record.scenario.artifacts),
    }
    return pa.table(
        {
            name: _named(pa, column, names[name]) if name in names else pa.array(column)
            for name, column in record.tasks.items()
        }
    )


def frame_table(record: Record) -> Any:
    """The frames as an Arrow table; what is by cell, node or link is a list, prices are a column each."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, column in record.frames.items():
        if name == "price":
            columns |= {f"price_{kind}": pa.array(column[:, k]) for k, kind in enumerate(POOL_KINDS)}
        elif name == "status":
            columns[name] = _named(pa, column, [status.value for status in STATUSES])
        elif column.ndim == 2:
            flat = pa.array(np.ascontiguousarray(column).ravel())
            offsets = pa.array(np.arange(len(column) + 1, dtype=np.int32) * column.shape[1])
            columns[name] = pa.ListArray.from_arrays(offsets, flat)
        else:
            columns[name] = pa.array(column)
    return pa.table(columns)


def _named(pa: Any, code: np.ndarray, names: list[str]) -> Any:
    """Whole numbers as names, negative ones as null."""
    index = pa.array(code.astype(np.int32), mask=code < 0)
    return pa.DictionaryArray.from_arrays(index, pa.array(names, pa.string()))


def _write_parquet(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")
