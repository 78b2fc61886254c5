"""Adapters change the model by their product, at any rank, come back as they were, and load in plain PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from small import drawn, language
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from gainnet.errors import InputError
from gainnet.models import adapter as storing
from gainnet.models import hub
from gainnet.models.adapter import Adapters
from gainnet.models.low_rank import Factors, LowRank

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
TOKEN = torch.tensor([[1, 9, 30, 31, 60], [1, 4, 4, 8, 2]])


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    return Adapters(language(), [2, 4])


def _logits(adapters: Adapters) -> torch.Tensor:
    with torch.inference_mode():
        return adapters.language.model(TOKEN).logits


def _merged(adapter: LowRank) -> torch.Tensor:
    """What a model whose weights are changed by the dense products gives."""
    model = language().model
    for name in adapter.layers:
        model.get_submodule(name).weight.data += torch.from_numpy(adapter.product(name))
    with torch.inference_mode():
        return model(TOKEN).logits


def test_every_linear_layer_but_the_head_is_adapted(adapters: Adapters) -> None:
    kinds = {name.rpartition(".")[2] for name in adapters.layers}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapters.layers) == 14
    assert adapters.layers["model.layers.1.self_attn.k_proj"] == (8, 16)


def test_without_one_or_with_a_fresh_one_it_is_the_plain_model(adapters: Adapters) -> None:
    with torch.inference_mode():
        plain = language().model(TOKEN).logits
    adapters.put(drawn(adapters, 2))
    assert not torch.equal(_logits(adapters), plain)
    adapters.put(None)
    assert torch.equal(_logits(adapters), plain)
    fresh = adapters.fresh(4, np.random.default_rng(3))
    adapters.put(fresh)
    assert torch.equal(_logits(adapters), plain)
    bounds = {name: inward**-0.5 for name, (_, inward) in adapters.layers.items()}
    assert all(np.abs(fresh.layers[name].a).max() <= bound for name, bound in bounds.items())


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_it_changes_weights_by_its_product_whether_its_rank_is_built_or_padded(adapters: Adapters, rank: int) -> None:
    adapter = drawn(adapters, rank)
    adapters.put(adapter)
    torch.testing.assert_close(_logits(adapters), _merged(adapter), rtol=1e-4, atol=1e-5)
    assert adapters.take(rank).digest() == adapter.digest()
    with pytest.raises(ValueError, match="rank"):
        adapters.take(5)
    if rank > 1:
        with pytest.raises(ValueError, match="above 1"):
            adapters.take(1)


def test_another_scale_and_layers_of_different_ranks_make_the_same_product(adapters: Adapters) -> None:
    whole = drawn(adapters, 2)
    layers = dict(whole.layers)
    name = next(iter(layers))
    layers[name] = Factors(layers[name].a[:1], layers[name].b[:, :1])
    mixed = LowRank(layers, 0.5, whole.base)
    adapters.put(mixed)
    torch.testing.assert_close(_logits(adapters), _merged(mixed), rtol=1e-4, atol=1e-5)
    taken = adapters.take(2)
    for layer in layers:
        np.testing.assert_allclose(taken.product(layer), mixed.product(layer), rtol=1e-5, atol=1e-6)


def test_swapping_leaves_nothing_behind(adapters: Adapters) -> None:
    first, second = drawn(adapters, 4, seed=1), drawn(adapters, 1, seed=2)
    adapters.put(first)
    before = _logits(adapters)
    for other in (second, None, drawn(adapters, 2), second):
        adapters.put(other)
    adapters.put(first)
    assert torch.equal(_logits(adapters), before)


def test_merged_it_predicts_the_same_through_plain_layers_and_is_then_as_it_was(
    adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, digest = adapters.language.model, hub.digest(adapters.language.model)
    for adapter in (drawn(adapters, 4, seed=1), drawn(adapters, 1, seed=2), None):
        adapters.put(adapter)
        before = _logits(adapters)
        with adapters.merged():
            assert not any(hasattr(module, "lora_A") for module in model.modules())
            torch.testing.assert_close(_logits(adapters), before, rtol=1e-4, atol=1e-5)
        assert torch.equal(_logits(adapters), before)
    with pytest.raises(ZeroDivisionError), adapters.merged():
        raise ZeroDivisionError
    assert hub.digest(model) == digest
    monkeypatch.setattr(storing, "MERGED_BYTE_MAX", 8)
    with adapters.merged():
        assert any(hasattr(module, "lora_A") for module in model.modules())


def test_what_is_taken_is_a_copy(adapters: Adapters) -> None:
    adapters.put(drawn(adapters, 4, seed=1))
    taken = adapters.take(4)
    digest = taken.digest()
    adapters.put(drawn(adapters, 4, seed=2))
    assert taken.digest() == digest


def test_one_model_has_one_set_of_adapters() -> None:
    made = language()
    Adapters(made, [1])
    with pytest.raises(ValueError, match="has adapters already"):
        Adapters(made, [1])
    with pytest.raises(InputError, match="ranks"):
        Adapters(language(), [])


def test_a_model_that_peft_does_not_adapt_is_refused_by_its_type() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=70, hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(InputError, match=r"^model type 'mamba' cannot be adapted: .*\(model_type='mamba'\)$"):
        Adapters(hub.as_language(model, language().tokenizer, 16), [2])


def test_a_model_whose_weights_lie_transposed_is_adapted_too() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=70, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    made = hub.as_language(model, language().tokenizer, 16)
    adapters = Adapters(made, [2])
    assert adapters.layers["transformer.h.0.attn.c_attn"] == (24, 8)
    with torch.inference_mode():
        plain = model(TOKEN).logits
        adapters.put(drawn(adapters, 2))
        changed = model(TOKEN).logits
        assert not torch.equal(changed, plain)
    with adapters.merged(), torch.inference_mode():
        torch.testing.assert_close(model(TOKEN).logits, changed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4])
def test_plain_peft_loads_what_is_saved(adapters: Adapters, rank: int, tmp_path: Path) -> None:
    adapter = drawn(adapters, rank)
    storing.save(adapter, tmp_path)
    adapters.put(adapter)
    plain = PeftModel.from_pretrained(language().model, str(tmp_path)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(TOKEN).logits, _logits(adapters), rtol=1e-5, atol=1e-6)  # 1 is padded to 2
    assert storing.load(tmp_path, adapter.base).digest() == adapter.digest()
    content = (tmp_path / storing.WEIGHTS).read_bytes()
    storing.save(adapter, tmp_path)
    assert (tmp_path / storing.WEIGHTS).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


def test_plain_peft_loads_layers_of_different_ranks_and_another_scale(adapters: Adapters, tmp_path: Path) -> None:
    whole = drawn(adapters, 4)
    layers = dict(whole.layers)
    for name in list(layers)[:3]:
        layers[name] = Factors(layers[name].a[:3], layers[name].b[:, :3])
    mixed = LowRank(layers, 0.3, whole.base)
    storing.save(mixed, tmp_path)
    assert storing.load(tmp_path, mixed.base).digest() == mixed.digest()
    plain = PeftModel.from_pretrained(language().model, str(tmp_path)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(TOKEN).logits, _merged(mixed), rtol=1e-4, atol=1e-5)


def _file(change: Callable[[dict[str, np.ndarray]], None], notes: bool = True) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        from safetensors import safe_open

        path = folder / storing.WEIGHTS
        with safe_open(path, framework="numpy") as opened:
            said = opened.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata=said if notes else None)

    return act


def _config(**values: object) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / storing.CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return act


def _pickled(folder: Path) -> None:
    (folder / storing.WEIGHTS).rename(folder / "adapter_model.bin")


def _truncated(folder: Path) -> None:
    path = folder / storing.WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def _pickled_inside(folder: Path) -> None:
    (folder / storing.WEIGHTS).write_bytes(b"\x80\x04pickled")


def _gone(folder: Path) -> None:
    (folder / storing.WEIGHTS).unlink()


def _no_config(folder: Path) -> None:
    (folder / storing.CONFIG).unlink()


KEY = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_pickled, "adapter_model.bin is pickled code"),
        (_gone, "holds no adapter_model.safetensors"),
        (_truncated, "no complete safetensors file"),
        (_pickled_inside, "no complete safetensors file"),
        (_no_config, "is missing or no LoRA config"),
        (_file(lambda w: w[KEY.format("A")].fill(np.nan)), "no finite numbers"),
        (_file(lambda w: w[KEY.format("A")].fill(1.0)), "not those of its digest"),
        (_file(lambda w: w.pop(KEY.format("B"))), "with both"),
        (_file(lambda w: w.update({KEY.format("B"): np.zeros((48, 3), np.float32)})), "has rank 4 and 3: must be 4"),
        (_file(dict.clear), "holds no layer"),
        (_file(lambda w: None, notes=False), "is of no base"),
        (_config(r=2, lora_alpha=4), "must be 2, as in adapter_config"),
        (_config(lora_alpha=4), "must be 2, as in adapter_model"),
        (_config(use_dora=True), "must be plain LoRA"),
        (_config(peft_type="IA3"), "must be plain LoRA"),
        (_config(r="many"), "no LoRA config"),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    adapters: Adapters, spoil: Callable[[Path], None], complaint: str, tmp_path: Path
) -> None:
    adapter = drawn(adapters, 4)
    storing.save(adapter, tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=complaint) as error:
        storing.load(tmp_path, adapter.base)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_is_refused_from_disk_and_in_the_model(adapters: Adapters, tmp_path: Path) -> None:
    other = LowRank(drawn(adapters, 4).layers, 2.0, "f" * 64)
    storing.save(other, tmp_path)
    with pytest.raises(InputError, match="is of ffffffffffff, but the model is"):
        storing.load(tmp_path, adapters.language.digest)
    with pytest.raises(InputError, match="of the base ffffffffffff"):
        adapters.put(other)


def test_the_model_takes_no_adapter_that_does_not_fit(adapters: Adapters) -> None:
    good = drawn(adapters, 4)
    name = "model.layers.0.mlp.up_proj"
    a, b = good.layers[name].a, good.layers[name].b
    for factors, complaint in (
        (Factors(a[:, :3], b), "must make"),
        (Factors(a, b[:3]), "must make"),
        (Factors(a * np.float32(np.inf), b), "no finite numbers"),
    ):
        with pytest.raises(InputError, match=complaint):
            adapters.put(LowRank({**good.layers, name: factors}, 2.0, good.base))
    with pytest.raises(InputError, match="is in one of them only"):
        adapters.put(LowRank({name: good.layers[name]}, 2.0, good.base))
    with pytest.raises(InputError, match="rank 5: must be from 1 to 4"):
        adapters.put(drawn(adapters, 5))
