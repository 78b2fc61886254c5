"""Causal language models: built here, or loaded in Hugging Face's format; safetensors only, since pickles are code."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as reporting

from gainnet.errors import InputError
from gainnet.scenario.knowledge import SmallModel

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
FILES = ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""What `save` writes."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MLP_RATIO, _MLP_MULTIPLE = 8 / 3, 16
"""Llama's width of the MLP over that of the model, rounded up to a multiple."""
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Language:
    """A causal language model and its tokenizer.

    Attributes:
        model: its weights, float32; nothing here changes them.
        tokenizer: has a token that pads and one that ends; one that begins where the model knows one.
        digest: of the weights (`digest`).
        context: how many positions are used at most.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    digest: str
    context: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def device(name: str) -> torch.device:
    """A device by torch's name: cpu, cuda, cuda:1, mps. InputError where it is not there."""
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError):
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise InputError(f"device {name}: is not there: one of {', '.join(there)}") from None
    return found


def tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (arXiv 1508.07909) trained on texts; it can encode any text.

    Args:
        texts: what it is trained on; few of them give fewer tokens than ``vocabulary``.
        vocabulary: tokens at most, with the 256 bytes and <pad> <bos> <eos>, which are the tokens 0, 1 and 2.
        context: the length it notes as the model's.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _wrapped(bpe, context)


def read_tokenizer(path: Path, context: int) -> PreTrainedTokenizerFast:
    """A tokenizer that was made by `tokenizer`, from its tokenizer.json. InputError where that is none."""
    try:
        bpe = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  tokenizers raises nothing narrower
        raise InputError(f"{path}: no tokenizer can be read from it ({error})") from None
    return _wrapped(bpe, context)


def _wrapped(bpe: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def build(config: SmallModel, tok: PreTrainedTokenizerFast, seed: int) -> Language:
    """A Llama-shaped model of random weights, embeddings tied; the same seed gives the same weights.

    InputError where a head's width is odd, which rotary positions do not allow.
    """
    if config.width // config.heads % 2:
        raise InputError(f"width {config.width}: over heads ({config.heads}) it must be an even number")
    inner = -int(-config.width * _MLP_RATIO // _MLP_MULTIPLE) * _MLP_MULTIPLE
    shape = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=config.width,
        intermediate_size=inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        pad_token_id=tok.pad_token_id,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(shape)
    return as_language(model, tok, config.context)


def load(name: str, context: int, where: str = "cpu") -> Language:
    """A model from a folder or, where a hub can be reached, by its name there.

    Args:
        name: a folder in Hugging Face's format, or a name on the hub.
        context: how many positions are to be used at most.
        where: the device that it is put on, see `device`.

    Raises:
        InputError: there is none; its weights are pickled, truncated, missing or no finite numbers; its tokenizer
            lacks what is needed; it has fewer positions; or the device is not there.
    """
    place = device(where)
    given = _given(name)
    model, notes = _opened(
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **given
        ),
    )
    tok = _opened(name, lambda: AutoTokenizer.from_pretrained(name, **given))
    missing = sorted(notes["missing_keys"])
    if missing:
        raise InputError(f"model {name}: its file lacks the weights {missing[0]}" + " and others" * (len(missing) > 1))
    for key, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise InputError(f"model {name}: {key} has values that are no finite numbers")
    _check_tokenizer(name, tok, model)
    _check_positions(name, model.config, context)
    return as_language(model.to(place), tok, context)


def check(name: str, context: int) -> None:
    """Refuse what `load` would, as far as that shows without reading weights.

    Raises:
        InputError: there is no such model, or it has pickled weights, or fewer positions.
    """
    given = _given(name)
    _check_positions(name, _opened(name, lambda: AutoConfig.from_pretrained(name, **given)), context)


def _given(name: str) -> dict[str, Any]:
    """How transformers is to open a model; InputError for a folder without safe weights."""
    folder = Path(name)
    local = folder.is_dir()
    if local and not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickled:
            raise InputError(f"model {name}: {pickled[0]} is pickled code, which is never run: give safetensors")
        raise InputError(f"model {name}: holds no safetensors file")
    return {"local_files_only": local, "trust_remote_code": False}


def _check_positions(name: str, config: Any, context: int) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and context > positions:
        raise InputError(f"context {context}: the model {name} has {positions} positions: give at most that")


def _opened(name: str, open_it: Callable[[], Any]) -> Any:
    """What ``open_it`` returns; what goes wrong in it, whatever it is, is one line about that model."""
    try:
        with _quiet():
            return open_it()
    except _LOAD_ERRORS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model {name}: cannot be loaded: {said[:300]}") from None


def _check_tokenizer(name: str, tok: Any, model: PreTrainedModel) -> None:
    if not isinstance(tok, PreTrainedTokenizerFast):
        raise InputError(f"model {name}: has no tokenizer.json (a fast tokenizer), which is needed")
    if tok.eos_token_id is None:
        raise InputError(f"model {name}: its tokenizer has no token that ends a text")
    embedded: Any = model.get_input_embeddings()
    if len(tok) > len(embedded.weight):
        raise InputError(f"model {name}: its tokenizer has {len(tok)} tokens, more than the model embeds")
    if tok.pad_token_id is None:
        tok.pad_token = tok.eos_token


def save(language: Language, folder: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json, which plain transformers loads; adapters are left out.

    The same language gives the same bytes. OSError where that can't be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        language.model.save_pretrained(folder, state_dict=dict(weights(language.model)))
        language.tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers."""
    shown = reporting.is_progress_bar_enabled()
    reporting.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            reporting.enable_progress_bar()  # type: ignore[no-untyped-call]


def weights(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    """The model's own weights by name, ties twice, as they are named without adapters (which are left out)."""
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


def digest(model: PreTrainedModel) -> str:
    """SHA-256 over names, shapes and bytes of the model's own weights."""
    found = hashlib.sha256()
    for name, tensor in weights(model):
        plain = tensor.detach().contiguous()
        found.update(f"{name} {tuple(plain.shape)} {plain.dtype}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()


def as_language(model: PreTrainedModel, tok: PreTrainedTokenizerFast, context: int) -> Language:
    """A model frozen and in evaluation mode: no dropout, so the same input gives the same output."""
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    return Language(model, tok, digest(model), context)
