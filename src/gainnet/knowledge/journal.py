"""What a knowledge loop keeps on disk: a line of figures and the weights after every round, so that it can be killed.

A round's files are written beside their final names and renamed, weights before figures: a round is in the journal if
its figures are. What was under way when a run was killed is done again from the round before, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from gainnet.errors import InputError
from gainnet.models.low_rank import Factors, LowRank

Arrays = Mapping[str, np.ndarray]
Notes = dict[str, Any]
KEPT = 2  # rounds whose weights stay on disk: the last, and the one before while it is written


class Journal:
    """The rounds of a loop, in a folder.

    Args:
        folder: made where it is missing; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget everything: a run begins anew in this folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder.mkdir()

    def write(self, number: int, notes: Notes, weights: Arrays) -> None:
        """Keep a round that is over."""
        if self._folder is None:
            return
        packed = save_arrays({name: np.ascontiguousarray(array) for name, array in weights.items()})
        kept = notes | {"weights": hashlib.sha256(packed).hexdigest()}
        _replace(self._folder / f"round-{number:04d}.safetensors", packed)
        _replace(self._folder / f"round-{number:04d}.json", json.dumps(kept, indent=1).encode())
        old = self._folder / f"round-{number - KEPT:04d}.safetensors"
        old.unlink(missing_ok=True)

    def rounds(self) -> list[Notes]:
        """The notes of all rounds that are over, as they were given; InputError where one is missing or broken."""
        return [{key: value for key, value in kept.items() if key != "weights"} for kept in self._kept()]

    def _kept(self) -> list[Notes]:
        """The notes with the digest of the weights."""
        if self._folder is None:
            return []
        found = []
        for number, path in enumerate(sorted(self._folder.glob("round-*.json"))):
            if path.name != f"round-{number:04d}.json":
                raise InputError(f"{self._folder}: round {number} is missing: the run can't go on from here")
            try:
                notes = json.loads(path.read_text())
            except ValueError as error:
                raise InputError(f"{path}: is broken: {error}") from None
            found.append(notes)
        return found

    def weights(self, number: int) -> dict[str, np.ndarray]:
        """The weights after a round; InputError where they are not those that were written."""
        assert self._folder is not None, "a journal without a folder has no rounds"
        path = self._folder / f"round-{number:04d}.safetensors"
        notes = self._kept()[number]
        try:
            packed = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        if hashlib.sha256(packed).hexdigest() != notes["weights"]:
            raise InputError(f"{path}: holds other weights than were written after round {number}")
        return dict(load_arrays(packed))


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is whole on disk, or not there."""
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def packed(name: str, adapter: LowRank) -> dict[str, np.ndarray]:
    """An adapter as arrays whose names begin with ``name``, and tell the order of its layers."""
    arrays = {
        f"{name}|{place:04d}|{layer}|{part}": getattr(factors, part)
        for place, (layer, factors) in enumerate(adapter.layers.items())
        for part in "ab"
    }
    return arrays | {f"{name}|scale": np.array([adapter.scale])}


def unpacked(name: str, arrays: Arrays, base: str) -> LowRank:
    """The adapter of that name among arrays, its layers in the order that they had: sums over layers depend on it."""
    pattern = re.compile(re.escape(name) + r"\|\d{4}\|(.+)\|a")
    found = {match[1]: key for key in sorted(arrays) if (match := pattern.fullmatch(key))}
    layers = {layer: Factors(arrays[key], arrays[f"{key[:-1]}b"]) for layer, key in found.items()}
    return LowRank(layers, float(arrays[f"{name}|scale"][0]), base)
