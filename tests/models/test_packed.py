"""Texts in one row against each alone: outputs, gradients, and models that cannot."""

import pytest
import torch
from kinds import KINDS, drawn

from gainnet.models import attention as attending
from gainnet.models import packed as module
from gainnet.models.attention import _Attention, attention
from gainnet.models.packed import packed, packs, positions

LENGTHS = (7, 1, 12, 3)


def row():
    return torch.randint(3, 61, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))


def together(model, token):
    with packed(model.config):
        return model(input_ids=token, position_ids=positions(LENGTHS), use_cache=False, lengths=LENGTHS).logits[0]


@pytest.mark.parametrize("way", ["one_by_one", "side_by_side"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.untraced
def test_a_row_of_texts_gives_what_each_gives_alone(kind, way, monkeypatch):
    model, token = drawn(kind).eval(), row()
    monkeypatch.setattr(module, "one_by_one", getattr(module, way))  # the other is taken on GPUs
    assert packs(model)
    with torch.inference_mode():
        together(model, token)  # what is kept of it serves where gradients are asked for
    found = together(model, token)
    found.square().sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat([model(input_ids=part, use_cache=False).logits[0] for part in token.split(list(LENGTHS), 1)])
    alone.square().sum().backward()
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, atol=1e-3, rtol=1e-3)
    assert model.config._attn_implementation == "sdpa"


def test_models_that_cannot_are_seen(monkeypatch):
    model = drawn("llama").eval()
    model.config._attn_implementation = "eager"
    assert not packs(model)
    model.config._attn_implementation = "sdpa"
    body, run = model.base_model, model.base_model.forward
    monkeypatch.setattr(body, "forward", lambda input_ids, position_ids=None, use_cache=False: run(input_ids=input_ids))
    assert not packs(model)  # it takes no lengths
    monkeypatch.setattr(body, "forward", lambda lengths=(), **given: run(**given, lengths=(sum(lengths),)))
    assert not packs(model)  # texts see those before them
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert not packs(model)
    assert model.config._attn_implementation == "sdpa"


def test_what_was_changed_is_put_back_after_trouble():
    model = drawn("llama").eval()
    with pytest.raises(TypeError, match="lengths"), packed(model.config):
        model(input_ids=row())
    assert model.config._attn_implementation == "sdpa"


def parts(kind, grad=False):
    """Query of six heads, keys and values of two, five positions."""
    make = torch.Generator().manual_seed(0)
    return [
        torch.randn((n, 5, 4), generator=make, dtype=torch.float64).to(kind).requires_grad_(grad) for n in (6, 2, 2)
    ]


@pytest.mark.parametrize("block", [1, 2, 5, 128])
def test_plain_attention_has_the_gradients_that_its_output_has(block, monkeypatch):
    monkeypatch.setattr(attending, "BLOCK", block)
    assert torch.autograd.gradcheck(lambda q, k, v: _Attention.apply(q, k, v, 0.5), parts(torch.float64, grad=True))


@pytest.mark.parametrize("block", [1, 2, 5, 128])
def test_plain_attention_is_the_fused_one(block, monkeypatch):
    monkeypatch.setattr(attending, "BLOCK", block)
    q, k, v = parts(torch.float32, grad=True)
    fused = attention(q[None], k[None], v[None], 0.0, None, groups=3)
    torch.testing.assert_close(_Attention.apply(q, k, v, 0.5), fused[0])
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(q[None], k[None], v[None], 0.0, None, groups=3)
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(attention(q[None], k[None], v[None], 0.0, None, groups=3), half)
    torch.testing.assert_close(half.float(), fused, atol=2e-2, rtol=2e-2)
    half.float().sum().backward()
    rough = [part.grad.clone() for part in (q, k, v)]
    for part in (q, k, v):
        part.grad = None
    fused.sum().backward()
    for part, found in zip((q, k, v), rough, strict=True):
        torch.testing.assert_close(found, part.grad, atol=3e-2, rtol=3e-2)
