"""The cost coefficients of models and adapters against published architecture figures."""

import numpy as np
import pytest

from gainnet.errors import ScenarioError
from gainnet.models.card import Kind, build
from gainnet.scenario.models import MODELS, Adapter, LanguageModel

LORA = Adapter(base="llama-3.1-8b", size_byte=84e6, load_s=0.3, quality_gain=0.07)


def test_llama_8b_kv_cache_is_128_kib_a_token():
    cards = build(["llama-3.1-8b"], {})
    assert cards.kv_byte_per_token[0] == 131_072
    assert cards.flop_per_token[0] == pytest.approx(2 * 8.03e9)
    assert cards.attention_flop_per_token2[0] == 2 * 32 * 4096
    assert cards.size_byte[0] == pytest.approx(16.06e9)


def test_an_adapter_brings_its_base_and_stands_after_every_model():
    cards = build(["legal", "stable-diffusion-1.5", "legal"], {"legal": LORA})
    assert cards.names == ("llama-3.1-8b", "stable-diffusion-1.5", "legal")
    assert cards.kind.tolist() == [Kind.LANGUAGE, Kind.DIFFUSION, Kind.ADAPTER]
    assert cards.base.tolist() == [-1, -1, 0]
    assert cards.size_byte[2] == 84e6
    assert cards.load_s.tolist() == [0.0, 0.0, 0.3]
    assert cards.quality_gain.tolist() == [0.0, 0.0, 0.07]


def test_training_an_adapter_costs_two_thirds_of_training_in_full():
    cards = build(["legal"], {"legal": LORA})
    assert cards.train_flop_per_token.tolist() == pytest.approx([6 * 8.03e9, 4 * 8.03e9])


def test_guidance_doubles_a_denoising_step():
    guided = MODELS["stable-diffusion-1.5"]
    own = {"free": guided.model_copy(update={"guidance": False})}
    cards = build(["stable-diffusion-1.5", "free"], own)
    assert cards.step_flop[0] == 2 * cards.step_flop[1]
    assert cards.train_flop_per_token[0] == cards.train_flop_per_token[1]


def test_own_cards_go_before_presets():
    own = {"sdxl": LanguageModel(parameters=1e9, layers=2, width=8, kv_heads=1, head_width=8, quality=0.5)}
    assert build(["sdxl"], own).kind.tolist() == [Kind.LANGUAGE]


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        (["llama-3.1-9b"], {}, r"models: .*did you mean 'llama-3.1-8b'"),
        (["a"], {"a": LORA.model_copy(update={"base": "nobody"})}, r"models\.a\.base: "),
        (["a"], {"a": LORA.model_copy(update={"base": "b"}), "b": LORA}, r"models\.a\.base: 'b' is an adapter"),
    ],
)
def test_a_wrong_name_is_an_error_with_its_path(names, own, message):
    with pytest.raises(ScenarioError, match=message):
        build(names, own)


def test_no_names_give_empty_cards():
    cards = build([], {})
    assert cards.names == ()
    assert cards.size_byte.shape == (0,)


def test_every_preset_builds_finite_coefficients():
    cards = build(list(MODELS), {})
    for field in ("size_byte", "quality", "train_flop_per_token", "fixed_flop", "kv_byte_per_token"):
        assert np.all(np.isfinite(getattr(cards, field))), field
    serving = cards.flop_per_token + cards.step_flop
    assert np.all(serving > 0.0)
