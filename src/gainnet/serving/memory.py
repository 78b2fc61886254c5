"""What outlives a restart: one small JSON file, replaced whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from gainnet.errors import InputError
from gainnet.serving.router import Refused

Remembered = TypeVar("Remembered", bound=BaseModel)


def recall(file: Path | None, of: type[Remembered]) -> Remembered:
    """What a file remembers; nothing where there is none. InputError where it cannot be read, or holds something else."""
    if file is None or not file.exists():
        return of()
    try:
        return of.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"state: {file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, detail["loc"]))
        raise InputError(f"state: {file}: {where}: {detail['msg']}") from None


def remember(file: Path | None, what: BaseModel) -> None:
    """Put something into a file's place at once; nothing is done without a file.

    Errors: OSError where it cannot be written; then the file is as it was.
    """
    if file is None:
        return
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("wb") as written:
            written.write(what.model_dump_json(indent=1).encode())
            written.flush()
            os.fsync(written.fileno())
        os.replace(beside, file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def adapter_folder(root: Path | None, path: str) -> Path:
    """An adapter's folder. Refused where it is none, or not where adapters may come from."""
    if root is None:
        raise Refused(403, "adapters.root is not set: no adapters are loaded", code="forbidden")
    folder = (root / path).resolve()
    weights = folder / "adapter_model.safetensors"
    if not folder.is_relative_to(root) or not weights.resolve().is_relative_to(root):
        raise Refused(400, "lora_path: is not below adapters.root", code="forbidden", param="lora_path")
    if not weights.is_file():
        raise Refused(404, "lora_path: has no adapter_model.safetensors", code="not_found", param="lora_path")
    return folder


def weights_digest(folder: Path) -> str:
    """SHA-256 of an adapter's weights."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
