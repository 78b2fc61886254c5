"""Parts of a model against the whole: outputs, gradients and answers, at every place where it can be cut."""

from itertools import combinations

import pytest
import torch
from kinds import KINDS, LAYERS, SHAPE, drawn
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM

from gainnet.errors import InputError
from gainnet.models.cut import Cut

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers

ATS = [(a,) for a in range(LAYERS + 1)] + list(combinations(range(LAYERS + 1), 2))


def texts(seed=0, padding="right"):
    """Tokens and mask of three texts of 9, 6 and 2 tokens."""
    token = torch.randint(3, 61, (3, 9), generator=torch.Generator().manual_seed(seed))
    column = torch.arange(9)[None]
    length = torch.tensor([9, 6, 2])[:, None]
    mask = (column < length if padding == "right" else column >= 9 - length).long()
    return token * mask, mask


def wanted(logits, token, mask):
    """Mean loss of the next tokens that are none of the padding."""
    kept = (mask[:, 1:] * mask[:, :-1]).bool()
    return torch.nn.functional.cross_entropy(logits[:, :-1][kept], token[:, 1:][kept])


def whole_gradients(model, token, mask):
    model.zero_grad()
    logits = model(input_ids=token, attention_mask=mask).logits
    loss = wanted(logits, token, mask)
    loss.backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def cut_gradients(model, at, token, mask):
    """The same by parts, each given only what the one beside it sent."""
    model.zero_grad()
    passes, value = [], token
    for part in Cut(model, at).parts:
        passes.append(part.run(value, mask))
        value = passes[-1].output
        assert not value.requires_grad
    leaf = value.detach().requires_grad_()
    wanted(leaf, token, mask).backward()
    gradient = leaf.grad
    for passed in reversed(passes):
        gradient = passed.backward(gradient)
    assert gradient is None
    return value, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found, reference):
    assert found.keys() == reference.keys()
    for name, gradient in reference.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.untraced
def test_outputs_and_gradients_equal_those_of_the_whole_at_every_cut(kind, lora):
    model = drawn(kind, lora)
    token, mask = texts()
    logits, reference = whole_gradients(model, token, mask)
    assert any(gradient.abs().max() > 1e-3 for gradient in reference.values())
    for at in ATS if kind == "llama" else [(0,), (2,), (LAYERS,), (0, 3), (1, 3), (1, LAYERS), (2, 3)]:
        found, gradients = cut_gradients(model, at, token, mask)
        torch.testing.assert_close(found[mask.bool()], logits[mask.bool()], atol=1e-5, rtol=1e-5)
        assert_same(gradients, reference)


def test_without_a_mask_nothing_is_padding():
    model = drawn("llama")
    token, _ = texts()
    logits = model(input_ids=token).logits
    torch.testing.assert_close(Cut(model, (1, 2)).logits(token), logits, atol=1e-5, rtol=1e-5)


def test_a_gradient_adds_to_what_is_there():
    model = drawn("llama", lora=True)
    token, mask = texts()
    _, once = cut_gradients(model, (1, 3), token, mask)
    model.zero_grad = lambda: None
    _, twice = cut_gradients(model, (1, 3), token, mask)
    assert_same(twice, {name: 2.0 * gradient for name, gradient in once.items()})


def test_kept_positions_have_the_logits_of_the_whole():
    model = drawn("llama")
    token, mask = texts()
    first, last = Cut(model, (2,)).parts
    keep = mask.bool() & (torch.arange(9) % 2 == 0)
    kept = last.run(first.run(token, mask).output, mask, keep=keep).output
    logits = model(input_ids=token, attention_mask=mask).logits
    torch.testing.assert_close(kept, logits[keep], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.untraced
def test_prefill_and_decode_over_cuts_equal_the_whole(kind):
    model = drawn(kind, lora=kind == "llama").eval()
    token, mask = texts(padding="left")
    position = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=token, attention_mask=mask, position_ids=position).logits
    for at in ATS if kind == "llama" else [(0,), (LAYERS,), (1, 3)]:
        cut = Cut(model, at)
        caches = cut.caches()
        found = [cut.logits(token[:, :5], mask[:, :5], position[:, :5], caches)]
        found += [
            cut.logits(token[:, i : i + 1], mask[:, : i + 1], position[:, i : i + 1], caches) for i in range(5, 9)
        ]
        torch.testing.assert_close(
            torch.cat(found, 1)[mask.bool()], logits[mask.bool()], atol=1e-5, rtol=1e-5, msg=f"{kind} {at}"
        )


def test_positions_count_on_from_the_caches():
    model = drawn("gpt2").eval()
    token, _ = texts()
    with torch.no_grad():
        logits = model(input_ids=token).logits
    for at in [(0,), (2,), (1, LAYERS)]:
        cut = Cut(model, at)
        caches = cut.caches()
        found = torch.cat([cut.logits(token[:, :4], caches=caches), cut.logits(token[:, 4:], caches=caches)], 1)
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)


def test_each_parameter_is_trained_by_one_part_and_weights_are_shared():
    model = drawn("llama", lora=True)
    parts = Cut(model, (1, 3)).parts
    of_part = [{id(parameter) for parameter in part.parameters()} for part in parts]
    assert [len(found) for found in of_part] == [14, 28, 14]
    assert set.union(*of_part) == {id(p) for p in model.parameters() if p.requires_grad}
    tied = [list(part.parameters()) for part in Cut(drawn("llama"), (2,)).parts]
    assert len({id(p) for part in tied for p in part}) == sum(map(len, tied)) - 1


def test_an_adapter_put_in_or_switched_off_after_the_cut_acts_in_the_parts():
    model = drawn("llama")
    token, mask = texts()
    cut = Cut(model, (1, 3))
    plain = cut.logits(token, mask)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    changed = cut.logits(token, mask)
    assert (changed - plain).abs().max() > 1e-3
    with wrapped.disable_adapter():
        torch.testing.assert_close(cut.logits(token, mask), plain)


@pytest.mark.parametrize("at", [(), (-1,), (5,), (2, 2), (3, 1), (0, 5), (1, 2, 3)])
def test_a_place_that_is_none_is_refused(at):
    with pytest.raises(InputError, match=r"rising numbers of layers, from 0 to 4"):
        Cut(drawn("llama"), at)


def test_a_model_that_a_cut_would_change_is_refused():
    model = GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=4))
    with pytest.raises(InputError, match=r"'gemma' cannot be cut: one of gpt2, llama"):
        Cut(model, (1,))
