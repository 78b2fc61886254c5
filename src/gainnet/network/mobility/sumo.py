"""Traffic of a SUMO configuration: recorded once, cached, and sampled for a run."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gainnet.errors import InputError
from gainnet.scenario.network import SumoMobility

RECORDER = Path(__file__).with_name("sumo_recorder.py")


def cache_folder() -> Path:
    """Where recordings are kept: ``$XDG_CACHE_HOME/gainnet/sumo``, by default below ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gainnet" / "sumo"


def _inputs(path: Path) -> list[Path]:
    """The configuration and the files that its input section names.

    Raises:
        InputError: the configuration is missing or no XML.
    """
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - a local file that SUMO itself is about to run
    except OSError as error:
        raise InputError(f"network.mobility.path: {path} cannot be read: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise InputError(f"network.mobility.path: {path} is not a SUMO configuration: {error}") from error
    section = root.find("input")
    values = [entry.get("value", "") for entry in section] if section is not None else []
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    return [path, *(path.parent / name for name in names)]


def _key(path: Path, parameters: tuple[str, ...]) -> str:
    """Hash of everything that a recording depends on."""
    digest = hashlib.sha256("\0".join(parameters).encode())
    for file in _inputs(path):
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _recording(kind: SumoMobility, duration_s: float) -> Float[np.ndarray, "second vehicle 2"]:
    """Positions of all vehicles each second, nan while off the road; from the cache, or recorded into it.

    Raises:
        InputError: SUMO is not installed, or cannot run the configuration.
    """
    begin = "none" if kind.begin_s is None else repr(kind.begin_s)
    parameters = (begin, repr(kind.warmup_s), str(math.ceil(duration_s) + 1))
    found = importlib.util.find_spec("libsumo") is not None
    version = metadata.version("libsumo") if found else "any"
    folder = cache_folder()
    file = folder / f"{_key(kind.path, (*parameters, version))}.npy"
    if not file.is_file():
        if not found:
            raise InputError("network.mobility: kind = sumo needs SUMO: pip install gainnet[sumo]")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            target = Path(draft) / "recording.npy"
            command = [sys.executable, "-P", str(RECORDER), str(kind.path), *parameters, str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own file
            if done.returncode != 0:
                lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
                cause = next((line for line in lines if line.startswith("Error")), lines[-1])
                raise InputError(f"network.mobility.path: SUMO cannot run {kind.path}: {cause}")
            target.replace(file)
    return np.asarray(np.load(file), dtype=np.float64)


def _held(seconds: Float[np.ndarray, " second"]) -> Float[np.ndarray, " second"]:
    """The values with gaps filled by the last one before, and the start by the first."""
    known = np.flatnonzero(~np.isnan(seconds))
    last = np.searchsorted(known, np.arange(len(seconds)), side="right") - 1
    return np.asarray(seconds[known[np.maximum(last, 0)]])


def record(
    kind: SumoMobility, area_m: tuple[float, float, float, float], *, ends: int, frame_s: float, duration_s: float
) -> Float[np.ndarray, "frame user 4"]:
    """Tracks of the ``ends`` vehicles that are longest on the road during the run, at its frames.

    SUMO steps once a second with the configuration's own seed; between, positions are interpolated. A vehicle that is
    off the road stands where it left, or where it will enter. The mean place of the traffic becomes the centre of
    ``area_m``.

    Raises:
        InputError: SUMO is missing or fails, or there are fewer vehicles than ends.
    """
    seconds = _recording(kind, duration_s)
    present = (~np.isnan(seconds[:, :, 0])).sum(axis=0)
    if (present > 0).sum() < ends:
        raise InputError(
            f"network.ends = {ends}, but only {(present > 0).sum()} vehicles are on the road in the {duration_s:g} s "
            f"recorded from {kind.path}"
        )
    chosen = seconds[:, np.argsort(-present, kind="stable")[:ends]]
    middle = np.array([area_m[0] + area_m[2], area_m[1] + area_m[3]]) / 2.0
    chosen = chosen - np.nanmean(chosen, axis=(0, 1)) + middle
    times = np.arange(math.ceil(duration_s / frame_s - 1e-9) + 1) * frame_s
    second = np.minimum(times.astype(np.int64), len(chosen) - 2)
    part = times - second
    result = np.empty((len(times), ends, 4))
    for axis in (0, 1):
        for user in range(ends):
            held = _held(chosen[:, user, axis])
            change = held[second + 1] - held[second]
            result[:, user, axis] = held[second] + part * change
            result[:, user, 2 + axis] = change
    return result
