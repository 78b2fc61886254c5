"""The models that a loop begins with: loaded, or built and trained on the public text, once for the same text and shape.

What was trained is kept in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), since every arm, seed and
resumed run of a scenario begins with the same models. A training that is killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.scenario.knowledge import Foundation, Pretrained, SmallModel
from gainnet.training.foundation import FoundationTraining
from gainnet.training.train import STATE, Folder
from gainnet.workers.workers import InProcess

Progress = Callable[[str, int, int], None]


def foundation(
    config: Foundation, public: Sequence[str], seed: int, progress: Progress, device: str = "cpu"
) -> Language:
    """The foundation model.

    Args:
        config: a model to load, or one to build and train.
        public: what it is trained on.
        seed: of weights and order.
        progress: called with what is done, how much of it, and how much there is.
        device: where it is put, see `gainnet.models.hub.device`; one that is built here is trained on the CPU.

    Raises:
        InputError: a model that cannot be loaded, a device that is not there, or too little text to train one on.
    """
    if isinstance(config, Pretrained):
        return hub.load(config.name, config.context, device)
    return _trained("foundation model", config, public, seed, progress, None, device)


def small(config: SmallModel, large: Language, public: Sequence[str], seed: int, progress: Progress) -> Language:
    """The ends' model, with the tokenizer of the foundation model, so that it can be taught by it, and on its device."""
    return _trained("ends' model", config, public, seed, progress, large.tokenizer, str(large.device))


def cache() -> Path:
    """Where trained models are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gainnet" / "models"


def _trained(
    what: str,
    config: SmallModel,
    public: Sequence[str],
    seed: int,
    progress: Progress,
    tokenizer: PreTrainedTokenizerFast | None,
    device: str,
) -> Language:
    """The model from the cache, or trained and kept there; one process trains, others wait for it."""
    folder = cache() / _key(config, public, seed, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not all((folder / name).is_file() for name in hub.FILES):
            training = FoundationTraining(config, public, (), seed, tokenizer=tokenizer)
            begun = Folder(folder, training)
            if (folder / STATE).is_file():
                begun.resume()
            begun.run(InProcess(), lambda done, total: progress(f"training the {what}", done, total))
            (folder / STATE).unlink(missing_ok=True)
    return hub.load(str(folder), config.context, device)


def _key(config: SmallModel, public: Sequence[str], seed: int, tokenizer: PreTrainedTokenizerFast | None) -> str:
    """What tells a trained model from all others."""
    found = hashlib.sha256(f"{config.model_dump_json()} {seed}".encode())
    for text in public:
        found.update(hashlib.sha256(text.encode()).digest())
    if tokenizer is not None:
        found.update(tokenizer.backend_tokenizer.to_str().encode())
    return found.hexdigest()[:32]
