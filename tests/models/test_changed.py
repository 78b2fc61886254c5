"""One pass for layer and adapter against PEFT's own layer."""

import pytest
import torch
from kinds import drawn

from gainnet.models.changed import Changed

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers


LAYERS = {
    "llama": "model.layers.0.mlp.up_proj",
    "qwen2": "model.layers.1.self_attn.q_proj",  # has a bias
    "gpt2": "transformer.h.0.mlp.c_fc",  # has one too, and its weight lies turned
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("half", [False, True])
def test_it_is_pefts_layer(kind, half):
    layer = drawn(kind, lora=True).get_base_model().get_submodule(LAYERS[kind])
    base = layer.base_layer
    weight, bias = base.weight.T if kind == "gpt2" else base.weight, base.bias
    assert (bias is None) == (kind == "llama")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    frozen = [weight.detach(), None if bias is None else bias.detach()]
    given = torch.randn((2, 5, weight.shape[1]), generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = layer(given)
    back = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    right = torch.autograd.grad(wanted, (given, down, up), back)
    made = Changed(*frozen, down, up, 2.0, half)
    assert not list(made.parameters())
    found = made(given)
    assert found.dtype == (torch.bfloat16 if half else torch.float32)
    near = {"atol": 0.05, "rtol": 0.05} if half else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(found.float(), wanted, **near)
    for gradient, one in zip(torch.autograd.grad(found, (given, down, up), back.to(found.dtype)), right, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, one, **(near | {"atol": 0.3 if half else 1e-4}))


def test_a_factor_that_does_not_learn_gets_no_gradient():
    weight = torch.ones((3, 2))
    down, up = (torch.nn.Parameter(torch.ones(shape)) for shape in ((1, 2), (3, 1)))
    down.requires_grad_(False)
    Changed(weight, None, down, up, 2.0, half=False)(torch.ones((4, 2))).sum().backward()
    assert down.grad is None
    torch.testing.assert_close(up.grad, torch.full((3, 1), 16.0))


def test_what_it_gives_may_be_added_to_in_place():
    """As Falcon adds its residual: autograd refuses that to a view that a function of ours made."""
    weight, given = torch.ones((3, 2)), torch.ones((1, 4, 2))
    down, up = (torch.nn.Parameter(torch.ones(shape)) for shape in ((1, 2), (3, 1)))
    made = Changed(weight, None, down, up, 2.0, half=False)(given)
    made += 1.0
    made.square().sum().backward()
    torch.testing.assert_close(made.detach(), torch.full((1, 4, 3), 7.0))
    torch.testing.assert_close(up.grad, torch.full((3, 1), 4 * 2 * 7.0 * 4.0))
