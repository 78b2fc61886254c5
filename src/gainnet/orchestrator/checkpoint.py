"""Weights of learned matchers on disk: safetensors with a kind and a version, never pickled code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gainnet.errors import InputError, OutputError

VERSION = "1"
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
    from safetensors import SafetensorError, safe_open

    where = f"checkpoint {path}"
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if path.stat().st_size > _BYTE_MAX:
            raise InputError(f"{where}: larger than {_BYTE_MAX // 2**20} MiB: no checkpoint of {kind}")
        if head.startswith(_PICKLES):
            raise InputError(f"{where}: holds pickled code, which is never run: give a safetensors file")
        with safe_open(path, framework="numpy") as opened:
            found = opened.metadata() or {}
            if found.get("kind") != kind:
                raise InputError(f"{where}: holds {found.get('kind', 'no')!r} weights: must be {kind!r}")
            if found.get("version") != VERSION:
                raise InputError(f"{where}: version {found.get('version')!r}: must be {VERSION!r}: train it again")
            weights = {name: np.asarray(opened.get_tensor(name), np.float64) for name in opened.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or 'cannot be read'}") from None
    except SafetensorError as error:
        raise InputError(f"{where}: no complete safetensors file ({error})") from None
    _check(where, weights, shapes)
    return weights


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
    """Write a checkpoint (float32), at once or not at all; the same weights give the same bytes. OutputError."""
    from safetensors.numpy import save

    named = {name: np.ascontiguousarray(weights[name], np.float32) for name in sorted(weights)}
    metadata = {"kind": kind, "version": VERSION, **notes}
    data = save(named, metadata=dict(sorted(metadata.items())))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: {error.strerror or error}") from None
