"""Training against the same step written out in PEFT and transformers, judging against the model's own loss, answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Llama4ForCausalLM, Llama4TextConfig
from tuned import SMALL, texts
from tuned import language as drawn

from gainnet.errors import InputError
from gainnet.knowledge.batch import alike, collate
from gainnet.knowledge.text import Encoded
from gainnet.knowledge.tuning import Diverged, Top, Tuned, Tuner
from gainnet.models import hub
from gainnet.models.hub import Language
from gainnet.models.low_rank import LowRank

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
TEXTS = texts()


def language() -> Language:
    """With embeddings so large that it can be sure of a token."""
    made = drawn()
    made.model.get_input_embeddings().weight.data *= 30.0
    return hub.as_language(made.model, made.tokenizer, made.context)


@dataclass(frozen=True)
class Noise:
    noise_multiplier: float = 0.0
    clip: float = 1.0


@pytest.fixture(scope="module")
def tuner() -> Tuner:
    return Tuner(language(), [2, 4])


@pytest.fixture(scope="module")
def start(tuner: Tuner) -> LowRank:
    return tuner.adapters.fresh(4, np.random.default_rng(0))


def tune(tuner: Tuner, start: LowRank, seed: int = 5, **changed) -> Tuned:
    given = {"epochs": 2, "batch": 4, "learning_rate": 5e-3} | changed
    return tuner.tune(start, TEXTS, rng=np.random.default_rng(seed), **given)


def direct(
    start: LowRank, epochs: int, batch: int, rate: float, seed: int, prompt_weight: float = 0.0
) -> dict[str, np.ndarray]:
    """The same training in plain PEFT and transformers."""
    base = language()
    kinds = sorted({name.rpartition(".")[2] for name in start.layers})
    model = get_peft_model(
        base.model, LoraConfig(r=4, lora_alpha=8, target_modules=kinds, task_type="CAUSAL_LM")
    ).eval()
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, weight in weights.items():
        layer = start.layers[name.removeprefix("base_model.model.").rpartition(".lora_")[0]]
        weight.data.copy_(torch.from_numpy(layer.a if "lora_A" in name else layer.b))
    optimiser = torch.optim.AdamW(weights.values(), rate, weight_decay=0.0)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(TEXTS))
        for first in range(0, len(order), batch):
            chosen = [TEXTS[i] for i in order[first : first + batch]]
            token, mask = collate(chosen).rectangle(0)
            labels = token.clone()
            for row, text in enumerate(chosen):
                labels[row, : text.answer] = -100
                labels[row, len(text.token) :] = -100
            loss = model(token, attention_mask=mask, labels=labels).loss
            if prompt_weight:
                prompts = token.clone()
                for row, text in enumerate(chosen):
                    prompts[row, text.answer :] = -100
                loss = loss + prompt_weight * model(token, attention_mask=mask, labels=prompts).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


@pytest.mark.parametrize("prompt_weight", [0.0, 0.3])
@pytest.mark.untraced
def test_it_is_the_training_written_in_peft_and_transformers(
    tuner: Tuner, start: LowRank, prompt_weight: float
) -> None:
    tuned = tune(tuner, start, prompt_weight=prompt_weight)
    for name, weight in direct(start, 2, 4, 5e-3, 5, prompt_weight).items():
        layer = tuned.adapter.layers[name.removeprefix("base_model.model.").rpartition(".lora_")[0]]
        np.testing.assert_allclose(layer.a if "lora_A" in name else layer.b, weight, rtol=0, atol=2e-4)
    assert (tuned.steps, tuned.token) == (6, 2 * sum(len(text.token) for text in TEXTS))


@pytest.mark.parametrize("changed", [{}, {"factors": "b"}, {"private": Noise(1.0)}])
@pytest.mark.untraced
def test_the_same_generator_gives_the_same_bytes_whatever_was_between(tuner: Tuner, start: LowRank, changed) -> None:
    digest = start.digest()
    first = tune(tuner, start, **changed)
    tune(tuner, tuner.adapters.fresh(2, np.random.default_rng(1)))
    tuner.losses(None, TEXTS)
    assert tune(tuner, start, **changed).adapter.digest() == first.adapter.digest()
    assert tune(tuner, start, seed=6, **changed).adapter.digest() != first.adapter.digest()
    assert start.digest() == digest
    assert tuner.language.digest == language().digest


@pytest.mark.untraced
def test_it_learns(tuner: Tuner, start: LowRank) -> None:
    tuned = tune(tuner, start, epochs=12, learning_rate=2e-2)
    before, counted = tuner.losses(None, TEXTS)
    after, _ = tuner.losses(tuned.adapter, TEXTS)
    assert after.sum() < 0.7 * before.sum()
    assert tuned.loss < before.sum() / counted.sum()


def test_only_b_learns_where_a_is_frozen_and_both_learn_afterwards(tuner: Tuner, start: LowRank) -> None:
    tuned = tune(tuner, start, factors="b").adapter
    assert all(np.array_equal(tuned.layers[name].a, start.layers[name].a) for name in start.layers)
    assert any(tuned.layers[name].b.any() for name in start.layers)
    both = tune(tuner, start).adapter
    assert any(not np.array_equal(both.layers[name].a, start.layers[name].a) for name in start.layers)


def test_a_rank_that_is_not_built_trains_as_if_it_were(tuner: Tuner) -> None:
    small = tuner.adapters.fresh(3, np.random.default_rng(2))
    padded = tune(tuner, small)
    built = tune(Tuner(language(), [3]), small)
    assert padded.adapter.rank == 3
    for name in small.layers:
        np.testing.assert_allclose(padded.adapter.product(name), built.adapter.product(name), atol=2e-4)


def test_without_noise_and_with_a_wide_clip_dp_sgd_is_the_gradient_of_the_mean_over_examples(
    tuner: Tuner, start: LowRank
) -> None:
    private = tune(tuner, start, epochs=1, batch=len(TEXTS), private=Noise(0.0, clip=1e6)).adapter
    tuner.adapters.put(start)
    pairs = tuner.adapters.parameters()
    weights = [weight for pair in pairs.values() for weight in pair]
    optimiser = torch.optim.AdamW(weights, 5e-3, weight_decay=0.0)
    for text in TEXTS:  # one at a time, whereas Opacus has them side by side
        labels = torch.from_numpy(text.token)[None].clone()
        labels[0, : text.answer] = -100
        loss = tuner.language.model(torch.from_numpy(text.token)[None], labels=labels).loss
        (loss / len(TEXTS)).backward()
    optimiser.step()
    for name, (_, up) in pairs.items():
        found, right = private.layers[name].b, up.detach().numpy()
        assert np.mean(np.abs(found - right) < 1e-4) > 0.99  # Adam's first step is the sign: tiny gradients may flip
    optimiser.zero_grad()


def test_no_example_moves_the_sum_by_more_than_the_clip(tuner: Tuner, start: LowRank) -> None:
    one = [TEXTS[0]]
    given = {"epochs": 1, "batch": 1, "learning_rate": 1e-3, "rng": np.random.default_rng(0)}
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append(float(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm()))
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Watched)
        tuner.tune(start, one, private=Noise(0.0, clip=0.01), **given)
    assert seen == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.untraced
def test_opacus_leaves_nothing_behind(tuner: Tuner, start: LowRank) -> None:
    tune(tuner, start, private=Noise(1.0))
    modules = list(tuner.adapters.model.modules())
    assert not any(module._forward_hooks or module._backward_hooks or module.training for module in modules)
    left = {name for weight in tuner.adapters.model.parameters() for name in weight.__dict__}
    assert not left & {"grad_sample", "summed_grad", "_forward_counter"}


def test_an_empty_sample_still_gets_noise(tuner: Tuner, start: LowRank, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(np.random.Generator):
        def random(self, size=None):  # nobody is drawn
            return np.ones(size)

    moved = tuner.tune(
        start, TEXTS, epochs=1, batch=4, learning_rate=1e-3, private=Noise(1.0), rng=Never(np.random.PCG64(0))
    )
    assert moved.token == 0
    assert np.isnan(moved.loss)
    assert moved.adapter.digest() != start.digest()


def test_padding_would_get_noise_so_it_is_refused(tuner: Tuner) -> None:
    with pytest.raises(InputError, match="rank 3: under DP one of"):
        tune(tuner, tuner.adapters.fresh(3, np.random.default_rng(0)), private=Noise(1.0))


def test_a_training_that_explodes_says_so_and_the_next_one_is_well(tuner: Tuner, start: LowRank) -> None:
    digest, well = start.digest(), tune(tuner, start).adapter.digest()
    with pytest.raises(Diverged, match="training diverged: loss nan in step 2"):
        tune(tuner, start, learning_rate=1e30)  # at 1e4 some processors' attention stays finite
    assert start.digest() == digest
    assert tune(tuner, start).adapter.digest() == well


def test_a_loss_far_above_a_guess_counts_as_exploding(
    tuner: Tuner, start: LowRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "_loss_max", 1.0)
    with pytest.raises(Diverged, match=r"training diverged: loss [\d.]+ in step 1: at most 1$"):
        tune(tuner, start)


def test_nothing_to_learn_from_is_refused(tuner: Tuner, start: LowRank) -> None:
    silent = Encoded(np.array([1, 5, 6]), 3)
    for none in ([], [silent]):
        with pytest.raises(InputError, match="nothing to learn from"):
            tuner.tune(start, none, epochs=1, batch=1, learning_rate=1e-3, rng=np.random.default_rng(0))


def test_losses_are_the_models_own_in_the_order_given(tuner: Tuner, start: LowRank) -> None:
    adapter = tune(tuner, start).adapter
    nat, counted = tuner.losses(adapter, TEXTS)
    tuner.adapters.put(adapter)
    for text, loss, count in zip(TEXTS, nat, counted, strict=True):
        labels = torch.from_numpy(text.token)[None].clone()
        labels[0, : text.answer] = -100
        with torch.inference_mode():
            mean = tuner.language.model(torch.from_numpy(text.token)[None], labels=labels).loss
        assert loss == pytest.approx(float(mean) * count, rel=1e-4)
        assert count == len(text.token) - text.answer
    empty, none = tuner.losses(adapter, [])
    assert (len(empty), len(none)) == (0, 0)


@pytest.mark.untraced
def test_answers_side_by_side_are_those_alone_and_those_of_the_likeliest_token(tuner: Tuner, start: LowRank) -> None:
    adapter = tune(tuner, start, epochs=10, learning_rate=2e-2).adapter
    prompts = [text.token[: text.answer] for text in TEXTS]
    answers = tuner.answer(adapter, prompts, 12)
    tuner.adapters.put(adapter)
    for prompt, answer in zip(prompts, answers, strict=True):
        np.testing.assert_array_equal(tuner.answer(adapter, [prompt], 12)[0], answer)
        token = prompt.tolist()
        tuner.adapters.put(adapter)
        with torch.inference_mode():
            while len(token) - len(prompt) < 12:
                token.append(int(tuner.language.model(torch.tensor([token])).logits[0, -1].argmax()))
                if token[-1] == 2:
                    token.pop()
                    break
        assert answer.tolist() == token[len(prompt) :]


def test_a_prompt_and_its_answer_stay_within_the_context(tuner: Tuner) -> None:
    full = np.full(SMALL.context - 2, 5)
    short = np.full(4, 5)
    answers = tuner.answer(None, [full, short], 20)
    assert len(answers[0]) <= 2
    assert len(answers[1]) <= 20
    for wrong in (np.full(SMALL.context, 5), np.zeros(0, np.int64)):
        with pytest.raises(InputError, match="leave room"):
            tuner.answer(None, [wrong], 20)
    assert tuner.answer(None, [], 20) == []


def test_samples_repeat_with_the_generator_and_follow_the_models_chances(tuner: Tuner) -> None:
    prompts = [np.array([1, 5])] * 400
    state = torch.random.get_rng_state()
    drawn = tuner.sample(None, prompts, 1, 1.0, np.random.default_rng(1))
    again = tuner.sample(None, prompts, 1, 1.0, np.random.default_rng(1))
    other = tuner.sample(None, prompts, 1, 1.0, np.random.default_rng(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert [d.tolist() for d in drawn] == [a.tolist() for a in again] != [o.tolist() for o in other]
    with torch.inference_mode():
        tuner.adapters.put(None)
        chance = tuner.language.model(torch.tensor([[1, 5]])).logits[0, -1].softmax(-1).double().numpy()
    share = np.bincount([int(d[0]) for d in drawn], minlength=len(chance)) / len(drawn)
    assert np.all(np.abs(share - chance) <= 5.0 * np.sqrt(chance / len(drawn)) + 1.0 / len(drawn))
    hot = tuner.sample(None, prompts, 1, 1e4, np.random.default_rng(1))
    assert len({int(h[0]) for h in hot}) > 100  # of 300 about equally likely tokens: top-k is off
    cold = tuner.sample(None, prompts[:3], 5, 1e-4, np.random.default_rng(1))
    assert [c.tolist() for c in cold] == [a.tolist() for a in tuner.answer(None, prompts[:3], 5)]
    with pytest.raises(InputError, match="temperature"):
        tuner.sample(None, prompts, 1, 0.0, np.random.default_rng(1))


def test_top_is_what_the_model_expects_at_each_position(tuner: Tuner) -> None:
    found = tuner.top(None, TEXTS, 5)
    for text, top in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            logits = tuner.language.model(torch.from_numpy(text.token)[None]).logits[0, :-1]
        value, token = logits.log_softmax(-1).topk(5, -1)
        np.testing.assert_allclose(top.value, value.numpy(), atol=1e-4)
        assert (top.token == token.numpy()).mean() > 0.99


@pytest.mark.untraced
def test_soft_targets_of_itself_teach_nothing_and_those_of_another_are_learnt(tuner: Tuner, start: LowRank) -> None:
    own: list[Top] = tuner.top(None, TEXTS, 300)
    assert tune(tuner, start, soft=own, learning_rate=1e-9).loss == pytest.approx(0.0, abs=1e-5)
    teacher = tune(tuner, start, epochs=12, learning_rate=2e-2).adapter
    taught = tuner.top(teacher, TEXTS, 300)
    first = tune(tuner, start, epochs=1, soft=taught)
    last = tune(tuner, start, epochs=12, soft=taught, learning_rate=2e-2)
    assert 0.0 < last.loss < 0.5 * first.loss


def test_rows_beyond_the_tokenizers_tokens_are_never_named(tuner: Tuner) -> None:
    """As of models whose embedding is rounded up: whatever those rows say, answers are those of the model without them."""
    wide, tokens = language(), len(tuner.language.tokenizer)
    wide.model.resize_token_embeddings(tokens + 20, mean_resizing=False)
    table = wide.model.get_input_embeddings().weight.data
    table[tokens:] = 3.0 * table[5]
    wider = Tuner(hub.as_language(wide.model, wide.tokenizer, wide.context), [2, 4])
    prompts = [text.token[: text.answer] for text in TEXTS]
    with torch.inference_mode():
        likeliest = wide.model(torch.from_numpy(prompts[0])[None]).logits[0, -1].argmax()
    assert likeliest >= tokens, "the test needs a model that would name such a row"
    for found in (wider, tuner):
        assert found.language.model.get_output_embeddings().weight.shape[0] == tokens + 20 * (found is wider)
    for one, other in zip(wider.answer(None, prompts, 8), tuner.answer(None, prompts, 8), strict=True):
        np.testing.assert_array_equal(one, other)
    drawn = [found.sample(None, prompts, 8, 2.0, np.random.default_rng(1)) for found in (wider, tuner)]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)
    for mine, known in zip(wider.top(None, TEXTS, tokens), tuner.top(None, TEXTS, tokens), strict=True):
        assert mine.token.max() < tokens
        np.testing.assert_allclose(mine.value, known.value, atol=1e-4)


def test_a_model_without_a_body_of_its_own_is_refused_by_its_type(tuner: Tuner) -> None:
    shape = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "intermediate_size_mlp": 16, "head_dim": 8}
    config = Llama4TextConfig(
        **shape, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, num_local_experts=2
    )
    other = hub.as_language(Llama4ForCausalLM(config), tuner.language.tokenizer, SMALL.context)
    with pytest.raises(InputError, match=r"^model type 'llama4_text' cannot be adapted: it has no body apart.*$"):
        Tuner(other, [2])


def test_a_head_that_is_capped_is_seen(tuner: Tuner) -> None:
    other = language()
    run = other.model.forward

    def capped(*args, **kwargs):
        out = run(*args, **kwargs)
        out.logits = 3.0 * torch.tanh(out.logits / 3.0) * 5.0
        return out

    other.model.forward = capped
    capped_tuner = Tuner(other, [2])
    nat, _ = capped_tuner.losses(None, TEXTS[:1])
    labels = torch.from_numpy(TEXTS[0].token)[None].clone()
    with torch.inference_mode():
        logits = capped(labels).logits[0]
    part = logits[TEXTS[0].answer - 1 : -1].log_softmax(-1)
    right = -part.gather(1, labels[0, TEXTS[0].answer :, None]).sum()
    assert nat[0] == pytest.approx(float(right), rel=1e-4)
    assert tuner.losses(None, TEXTS[:1])[0][0] != pytest.approx(float(right), rel=1e-3)


def test_groups_hold_every_text_once_and_no_more_than_they_may() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 100).tolist()
    groups = list(alike(lengths, 100))
    assert sorted(index for group in groups for index in group) == list(range(100))
    assert all(len(group) * max(lengths[i] for i in group) <= 100 for group in groups)
    assert list(alike([500], 100)) == [[0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_judges_and_answers_as_the_cpu_does(tuner: Tuner, start: LowRank) -> None:
    made = language()
    there = Tuner(hub.as_language(made.model.to("cuda"), made.tokenizer, made.context), [2, 4])
    assert there.language.device.type == "cuda"
    assert there.language.digest == tuner.language.digest
    here, away = tune(tuner, start), tune(there, start)
    assert away.loss == pytest.approx(here.loss, rel=1e-3)
    for name, factors in here.adapter.layers.items():
        np.testing.assert_allclose(away.adapter.layers[name].b, factors.b, atol=2e-3)
    np.testing.assert_allclose(there.losses(here.adapter, TEXTS)[0], tuner.losses(here.adapter, TEXTS)[0], rtol=1e-3)
    prompts = [text.token[: text.answer] for text in TEXTS[:4]]
    for one, other in zip(there.answer(here.adapter, prompts, 6), tuner.answer(here.adapter, prompts, 6), strict=True):
        np.testing.assert_array_equal(one, other)
    top, same = there.top(here.adapter, TEXTS[:2], 3), tuner.top(here.adapter, TEXTS[:2], 3)
    np.testing.assert_allclose(top[0].value, same[0].value, atol=1e-3)
    soft = there.tune(start, TEXTS[:2], epochs=1, batch=2, learning_rate=1e-3, rng=np.random.default_rng(0), soft=top)
    assert np.isfinite(soft.loss)


@pytest.mark.untraced
def test_bfloat16_learns_and_judges_nearly_the_same(tuner: Tuner, start: LowRank) -> None:
    rough = Tuner(language(), [2, 4], bf16=True)
    here, there = tune(tuner, start, prompt_weight=0.3), tune(rough, start, prompt_weight=0.3)
    assert there.loss != here.loss
    assert there.loss == pytest.approx(here.loss, rel=0.02)
    nat, same = tuner.losses(here.adapter, TEXTS)[0], rough.losses(here.adapter, TEXTS)[0]
    assert nat.tolist() != same.tolist()
    np.testing.assert_allclose(same, nat, rtol=0.03)
    assert tune(rough, start, prompt_weight=0.3).adapter.digest() == there.adapter.digest()
    noiseless = (tune(which, start, private=Noise(0.0)) for which in (tuner, rough))
    assert next(noiseless).loss == pytest.approx(next(noiseless).loss, rel=0.02)


@pytest.mark.untraced
def test_a_model_that_takes_no_rows_of_texts_learns_the_same(
    tuner: Tuner, start: LowRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuner.packs
    row, nat = tune(tuner, start, prompt_weight=0.3), tuner.losses(start, TEXTS)[0]
    monkeypatch.setattr(tuner, "packs", False)
    padded = tune(tuner, start, prompt_weight=0.3)
    assert padded.loss == pytest.approx(row.loss, rel=1e-5)
    np.testing.assert_allclose(tuner.losses(start, TEXTS)[0], nat, rtol=1e-5)
    for name, factors in row.adapter.layers.items():
        np.testing.assert_allclose(padded.adapter.layers[name].b, factors.b, atol=2e-4)
