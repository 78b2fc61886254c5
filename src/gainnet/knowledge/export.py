"""What answers at the end of a run, in a folder for others: PEFT adapters and the models made here that they belong to.

``peft.AutoPeftModelForCausalLM.from_pretrained`` loads any of them, since each names its model: by its absolute path, or by
its name where it is of a hub. Whoever moves the folder gives the model (``base``, ``base-small``) himself.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from gainnet.errors import OutputError
from gainnet.knowledge.arm import Arm
from gainnet.models import adapter as adapters
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank
from gainnet.scenario.knowledge import Pretrained

BASE, BASE_SMALL = "base", "base-small"
_NAME_MAX = 60  # characters, of up to four byte each: a name has 255 byte


def export(arm: Arm, folder: Path) -> None:
    """Write the adapters that answer, each in a folder of its own, in place of what the folder held.

    OutputError where that can't be.
    """
    beside = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        _write(arm, beside, folder.resolve())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    except SafetensorError as error:
        raise OutputError(f"{folder}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(arm: Arm, folder: Path, final: Path) -> None:
    """Write to a folder what will lie in the folder ``final``."""
    setting = arm.setting
    config = setting.config.foundation
    made = None if isinstance(config, Pretrained) else setting.language
    named = _resolved(config.name) if isinstance(config, Pretrained) else str(final / BASE)
    taken: set[str] = set()
    _group(arm.answers(), folder, named, BASE, made, taken)
    _group(arm.taught(), folder, str(final / BASE_SMALL), BASE_SMALL, setting.small.language, taken)


def _group(
    found: Mapping[str, LowRank | None], folder: Path, named: str, base: str, made: Language | None, taken: set[str]
) -> None:
    """Adapters of one model, named ``named``, which is saved as ``base`` where it was ``made`` here."""
    there = {name: adapter for name, adapter in found.items() if adapter is not None}
    if there and made is not None:
        hub.save(made, folder / base)
    for name, adapter in there.items():
        target = folder / _free(name, taken)
        adapters.save(adapter, target)
        config = json.loads((target / adapters.CONFIG).read_text("utf-8")) | {"base_model_name_or_path": named}
        (target / adapters.CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _resolved(name: str) -> str:
    """The absolute path of a folder; a name on a hub as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _free(name: str, taken: set[str]) -> str:
    """A name as a harmless part of a path, unlike those taken, whatever their case."""
    plain = re.sub(r"[^\w.-]+", "-", name)[:_NAME_MAX].rstrip("-.")
    others = (f"{plain}-{number}" for number in itertools.count(2))
    free = next(tried for tried in itertools.chain([plain], others) if tried.lower() not in taken)
    taken.add(free.lower())
    return free
