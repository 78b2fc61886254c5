"""What ``gainnet pretrain`` does: a small language model, from text to a folder that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import ConfigDict, Field, ValidationError

from gainnet.errors import InputError
from gainnet.knowledge import extracts, public_text
from gainnet.knowledge.draw import Draw
from gainnet.knowledge.rows import Refused
from gainnet.measurement import results
from gainnet.models import hub
from gainnet.rng import stream
from gainnet.scenario.complaint import nearest
from gainnet.scenario.knowledge import SmallModel
from gainnet.scenario.quantity import Count, Section
from gainnet.training.foundation import FoundationTraining
from gainnet.training.train import STATE, Folder

DESCRIPTION = "pretrain.yaml"
TOKENIZER = "tokenizer.json"
SHAPE = ("layers", "width", "heads", "kv_heads", "vocabulary")
"""Fields that a model to go on from has already."""


class Pretraining(Section):
    """What a pre-training was begun with, which is kept beside its state.

    Attributes:
        text: the file, or the folder of files, that is learnt from.
        sha256: of the texts in it.
        seed: of weights and order.
        threads: that multiply; another number rounds otherwise.
        bf16: whether they multiply in bfloat16.
        device: where it learns.
        compiled: whether passes are compiled first.
        extracts: part of what is learnt from that is passages with notes made of the text (`gainnet.knowledge.extracts`).
        start: the folder of the model that the training went on from.
        digest: of that model's weights.
        model: what is trained, and for how long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    text: Path
    sha256: str
    seed: Annotated[int, Field(ge=0)]
    threads: Count
    bf16: bool
    device: str = "cpu"
    compiled: bool = False
    extracts: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    start: Path | None = None
    digest: str | None = None
    model: SmallModel


def begin(
    text: Path,
    settings: Sequence[str],
    folder: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    bf16: bool = False,
    device: str = "cpu",
    compiled: bool = False,
    share: float = 0.0,
    start: Path | None = None,
    overwrite: bool = False,
) -> Folder:
    """A new pre-training of a `SmallModel` with ``field=value`` settings, or of the model in ``start``.

    InputError for settings, text, a model or a device that can't be used, OutputError for a folder that can't be written, or
    holds a training that is not to be overwritten.
    """
    model = model_of([*settings, *([f"steps={steps}"] if steps is not None else [])])
    if model.steps < 1:
        raise InputError("steps = 0: must be at least 1")
    if not 0.0 <= share < 1.0:
        raise InputError(f"--extracts {share:g}: must be at least 0 and less than 1")
    shaped = [field for field in SHAPE if start is not None and field in model.model_fields_set]
    if shaped:
        raise InputError(f"--set {shaped[0]}: a model that is gone on from (--from) has its own")
    texts, held = read(text)
    chosen = Pretraining(
        text=text.resolve(),
        sha256=_digest((*texts, *held)),
        seed=seed,
        threads=threads or torch.get_num_threads(),
        bf16=bf16,
        device=device,
        compiled=compiled,
        extracts=share,
        start=start.resolve() if start is not None else None,
        digest=hub.load(str(start), model.context).digest if start is not None else None,
        model=model,
    )
    hub.device(device)
    results.prepare(folder, over=overwrite)
    return _folder(folder, chosen, texts, held, resumed=False)


def resume(folder: Path) -> Folder:
    """The pre-training in a folder, from its last saved state. InputError where there is none or its text changed."""
    path = folder / DESCRIPTION
    if not path.is_file() or not (folder / STATE).is_file():
        raise InputError(f"--resume {folder}: holds no {DESCRIPTION} and {STATE}: nothing to go on from")
    try:
        chosen = Pretraining.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: describes no pre-training: {str(error).splitlines()[0]}") from None
    texts, held = read(chosen.text)
    if _digest((*texts, *held)) != chosen.sha256:
        raise InputError(f"{chosen.text}: has changed since the pre-training was begun")
    found = _folder(folder, chosen, texts, held, resumed=True)
    found.resume()
    return found


def read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a file or folder, and those held out (see `hold_out`). InputError where it cannot be read."""
    return public_text.read(path, Refused())


def model_of(settings: Sequence[str]) -> SmallModel:
    """A small model with ``field=value`` settings. InputError names what is wrong."""
    given: dict[str, Any] = {}
    known = [name for name in SmallModel.model_fields if name != "kind"]
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise InputError(f"--set {setting}: must be FIELD=X, one of {', '.join(known)}{nearest(name, known)}")
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {setting}: {value!r} is no value") from None
    try:
        return SmallModel.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{field + ': ' if field else ''}{first['msg'].removeprefix('Value error, ')}") from None


def _folder(folder: Path, chosen: Pretraining, texts: Sequence[str], held: Sequence[str], *, resumed: bool) -> Folder:
    torch.set_num_threads(chosen.threads)
    described = yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False)
    start = hub.load(str(chosen.start), chosen.model.context) if chosen.start is not None else None
    if start is not None and start.digest != chosen.digest:
        raise InputError(f"{chosen.start}: has changed since the pre-training was begun")
    made = extracts.texts(Draw(stream(chosen.seed, "foundation.extracts")), texts, chosen.extracts)
    training = FoundationTraining(
        chosen.model,
        (*texts, *made),
        held,
        chosen.seed,
        bf16=chosen.bf16,
        device=chosen.device,
        compiled=chosen.compiled,
        start=start,
        tokenizer=hub.read_tokenizer(folder / TOKENIZER, chosen.model.context) if resumed and start is None else None,
        described={DESCRIPTION: described},
    )
    return Folder(folder, training)


def _digest(texts: Sequence[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode()).digest())
    return found.hexdigest()
