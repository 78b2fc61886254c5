"""Models that are built repeat and come back from disk bit for bit; what must not be loaded is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small import SHAPE, TEXTS, language
from transformers import AutoModelForCausalLM, AutoTokenizer

from gainnet.errors import InputError
from gainnet.models import hub
from gainnet.models.adapter import Adapters

torch.set_num_threads(1)
TOKENIZER = hub.tokenizer(TEXTS, 300, 64)


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    state = torch.random.get_rng_state()
    first, again, other = language(1), language(1), language(2)
    assert first.digest == again.digest != other.digest
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(weight.requires_grad for weight in first.model.parameters())


def test_it_has_the_shape_that_was_asked_for_and_ties_its_embeddings() -> None:
    model = language().model
    assert model.config.num_hidden_layers == SHAPE.layers
    assert model.config.hidden_size == SHAPE.width
    assert model.config.num_key_value_heads == SHAPE.kv_heads
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@settings(deadline=None, max_examples=50)
@given(st.text())
@pytest.mark.untraced
def test_the_tokenizer_takes_any_text_and_gives_it_back(text: str) -> None:
    token = TOKENIZER(text, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(token) == text
    assert not {0, 1, 2} & set(token)


def test_a_tokenizer_repeats_and_is_read_again(tmp_path: Path) -> None:
    assert [TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id] == [0, 1, 2]
    text = TOKENIZER.backend_tokenizer.to_str()
    assert hub.tokenizer(TEXTS, 300, 64).backend_tokenizer.to_str() == text
    (tmp_path / "tokenizer.json").write_text(text)
    assert hub.read_tokenizer(tmp_path / "tokenizer.json", 64).backend_tokenizer.to_str() == text
    (tmp_path / "tokenizer.json").write_text(text[:100])
    with pytest.raises(InputError, match="no tokenizer can be read"):
        hub.read_tokenizer(tmp_path / "tokenizer.json", 64)


def test_saved_it_is_what_plain_transformers_loads(tmp_path: Path) -> None:
    made, token = language(), torch.tensor([[1, 9, 30, 31]])
    logits = made.model(token).logits
    hub.save(made, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(hub.FILES)
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(plain(token).logits, logits)
    assert AutoTokenizer.from_pretrained(tmp_path)("a cough")["input_ids"] == TOKENIZER("a cough")["input_ids"]
    again = hub.load(str(tmp_path), 64)
    assert again.digest == made.digest
    hub.save(again, tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / weights).read_bytes()


def test_adapters_are_no_part_of_the_digest_nor_of_what_is_saved(tmp_path: Path) -> None:
    made = language()
    adapters = Adapters(made, [2])
    adapters.put(adapters.fresh(2, np.random.default_rng(0)))
    assert hub.digest(made.model) == made.digest
    hub.save(made, tmp_path)
    assert hub.load(str(tmp_path), 64).digest == made.digest


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _changed(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return act


def _without_end(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))


def _no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # transformers leaves a file open where it fails
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_pickled, "pytorch_model.bin is pickled code"),
        (_gone, "holds no safetensors file"),
        (_truncated, "cannot be loaded"),
        (_changed(lambda w: w["model.norm.weight"].fill_(float("nan"))), "model.norm.weight has values that are no"),
        (_changed(lambda w: w.pop("model.norm.weight")), "lacks the weights model.norm.weight"),
        (_changed(lambda w: w.update({"model.norm.weight": torch.ones(3)})), "cannot be loaded"),
        (_without_end, "no token that ends"),
        (_no_config, "cannot be loaded"),
        (_no_tokenizer, "tokenizer"),
    ],
)
def test_what_cannot_be_trusted_is_refused(spoil: Callable[[Path], None], complaint: str, tmp_path: Path) -> None:
    hub.save(language(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=complaint) as error:
        hub.load(str(tmp_path), 64)
    assert "\n" not in str(error.value)


def test_more_positions_than_there_are_are_refused(tmp_path: Path) -> None:
    hub.save(language(), tmp_path)
    assert hub.load(str(tmp_path), 32).context == 32
    with pytest.raises(InputError, match="has 64 positions"):
        hub.load(str(tmp_path), 65)


def test_a_name_that_is_nothing_is_one_line() -> None:
    with pytest.raises(InputError, match=r"model \./nowhere: cannot be loaded"):
        hub.load("./nowhere", 64)


def test_odd_heads_are_refused() -> None:
    with pytest.raises(InputError, match="width 18: over heads"):
        hub.build(SHAPE.model_copy(update={"width": 18}), TOKENIZER, 1)


@pytest.mark.parametrize("name", ["cuda:99", "cudas"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str, tmp_path: Path) -> None:
    hub.save(language(), tmp_path)
    with pytest.raises(InputError, match=rf"device {name}: is not there: one of cpu"):
        hub.load(str(tmp_path), 64, name)
