"""Weights of learned matchers on disk: safetensors with a kind and a version, never pickled code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gainnet.errors import InputError

VERSION = "1"
NOTES = "gainnet"
SHIPPED = Path(__file__).parent / "checkpoints"
Weights = dict[str, NDArray[np.float64]]
_PICKLES = (b"PK\x03\x04", b"\x80")
_BYTE_MAX = 64 * 2**20


def shipped(kind: str) -> Path:
    """The checkpoint of a learned matcher that comes with the package."""
    return SHIPPED / f"{kind}.safetensors"


def read(path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """The weights of a checkpoint, as float64.

    Args:
        path: a safetensors file.
        kind: what it must hold weights of.
        shapes: name and shape of each weight; -1 is any length.

    Raises:
        InputError: not there, not safetensors (pickled or truncated, say), of another kind or version, or with other
            weights, or weights that are no finite numbers.
    """
    arrays, _ = read_state(path, kind)
    weights = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    _check(f"checkpoint {path}", weights, shapes)
    return weights


def read_state(
    path: Path, kind: str | None, byte_max: int = _BYTE_MAX
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and notes of a checkpoint or a training's state of a kind (None: any), of at most so many bytes.

    InputError as in `read`.
    """
    from safetensors import SafetensorError, safe_open

    where = f"checkpoint {path}"
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if path.stat().st_size > byte_max:
            raise InputError(f"{where}: larger than {byte_max // 2**20} MiB: no checkpoint of {kind}")
        if (
            head.startswith(_PICKLES) and head[8:] != b"{"
        ):  # a safetensors file begins with 8 bytes of length, then JSON
            raise InputError(f"{where}: holds pickled code, which is never run: give a safetensors file")
        with safe_open(path, framework="numpy") as opened:
            found = _notes(opened.metadata() or {})
            if kind is not None and found.get("kind") != kind:
                raise InputError(f"{where}: holds {found.get('kind', 'no')!r} weights: must be {kind!r}")
            if found.get("version") != VERSION:
                raise InputError(f"{where}: version {found.get('version')!r}: must be {VERSION!r}: train it again")
            return {name: opened.get_tensor(name) for name in opened.keys()}, found  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or 'cannot be read'}") from None
    except SafetensorError as error:
        raise InputError(f"{where}: no complete safetensors file ({error})") from None


def _check(where: str, weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if set(weights) != set(shapes):
        raise InputError(f"{where}: has weights {', '.join(sorted(weights))}: must have {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        found = weights[name].shape
        if len(found) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, found, strict=True)):
            raise InputError(f"{where}: {name} has shape {found}: must be {shape}")
        if not np.isfinite(weights[name]).all():
            raise InputError(f"{where}: {name} has values that are no finite numbers")


def write(path: Path, kind: str, weights: Mapping[str, NDArray[np.floating]], notes: Mapping[str, str]) -> None:
    """Write the weights of a checkpoint, as float32; the same weights and notes give the same bytes. OSError."""
    write_state(path, kind, {name: np.asarray(array, np.float32) for name, array in weights.items()}, notes)


def write_state(path: Path, kind: str, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Write arrays as they are, with notes beside kind and version. OSError."""
    from safetensors.numpy import save

    named = {name: np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in sorted(arrays)}
    # One entry, since safetensors writes several in any order, and the same training is to give the same bytes.
    text = json.dumps({"kind": kind, "version": VERSION, **notes}, sort_keys=True)
    path.write_bytes(save(named, metadata={NOTES: text}))


def _notes(metadata: Mapping[str, str]) -> dict[str, str]:
    """The notes in a file's metadata; none where it is not ours."""
    try:
        found = json.loads(metadata.get(NOTES, "{}"))
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
