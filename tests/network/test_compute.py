"""Rooflines: their limits, their scaling, and the flop that they account for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gainnet.models.card import build as build_cards
from gainnet.network.compute import build
from gainnet.network.compute_kernel import (
    decode_step_flop,
    decode_step_s,
    denoise_flop,
    denoise_s,
    load_s,
    prefill_flop,
    prefill_s,
    train_flop,
    train_s,
)
from gainnet.network.state import Tier
from gainnet.scenario.network import Hexagonal, Machine, Network, WaypointMobility

CARDS = build_cards(["llama-3.1-8b", "stable-diffusion-1.5"], {})
LLAMA = tuple(
    float(column[0])
    for column in (CARDS.flop_per_token, CARDS.attention_flop_per_token2, CARDS.kv_byte_per_token, CARDS.size_byte)
)
P2, ATTENTION, KV, SIZE = LLAMA
STEP, FIXED = float(CARDS.step_flop[1]), float(CARDS.fixed_flop[1])
F, BW = 60e12, 210e9

counts = st.floats(1.0, 1e5)
rates = st.floats(1e9, 1e16)


def _network(**change) -> Network:
    tiers = {
        "end": Machine(hardware="phone-soc"),
        "edge": Machine(hardware="edge-accelerator", count=2),
        "cloud": Machine(hardware="cloud-accelerator", count=8),
    }
    return Network(topology=Hexagonal(), mobility=WaypointMobility(), ends=5, **(tiers | change))


def test_nodes_stand_cloud_edge_end_and_rates_are_of_one_accelerator():
    nodes = build(_network(), clouds=1, edges=3)
    assert nodes.tier.tolist() == [Tier.CLOUD] + 3 * [Tier.EDGE] + 5 * [Tier.END]
    assert nodes.count.tolist() == [8, 2, 2, 2, 1, 1, 1, 1, 1]
    assert nodes.flop_per_s[0] == pytest.approx(0.5 * 989e12)
    assert nodes.byte_per_s[1] == pytest.approx(0.7 * 300e9)
    assert nodes.memory_byte[:2].tolist() == [8 * 80e9, 2 * 24e9]
    assert nodes.peak_w[0] == 700.0
    assert nodes.batch_max[-1] == 2


def test_ends_differ_by_the_factors_dealt_out_to_them_and_nothing_else_does():
    alike, scaled = (build(_network(**given), clouds=1, edges=2) for given in ({}, {"end_scale": (1.0, 0.5)}))
    factor = np.array([1, 1, 1, 1, 0.5, 1, 0.5, 1])
    for name in ("flop_per_s", "byte_per_s", "memory_byte"):
        np.testing.assert_array_equal(getattr(scaled, name), factor * getattr(alike, name))
    for name in ("tier", "count", "load_byte_per_s", "load_overhead_s", "idle_w", "peak_w", "price_per_s", "batch_max"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(alike, name))


def test_a_network_may_have_no_edges():
    assert build(_network(), clouds=1, edges=0).tier.tolist() == [Tier.CLOUD] + 5 * [Tier.END]


def test_one_token_is_memory_bound_and_a_long_prompt_compute_bound():
    assert prefill_s(1.0, P2, ATTENTION, KV, SIZE, F, BW) == pytest.approx((SIZE + KV) / BW)
    token = 4096.0
    assert prefill_s(token, P2, ATTENTION, KV, SIZE, F, BW) == pytest.approx((P2 * token + ATTENTION * token**2) / F)


def test_decode_in_a_small_batch_is_nearly_free_and_in_a_large_one_linear():
    def step(batch: float) -> float:
        return decode_step_s(batch, 128.0, P2, ATTENTION, KV, SIZE, F, BW)

    assert step(8.0) / step(1.0) < 1.02
    assert step(4096.0) / step(2048.0) == pytest.approx(2.0)
    assert step(1.0) == pytest.approx((SIZE + 128 * KV) / BW)


def test_decode_rate_of_a_phone_is_near_the_measured_one():
    """Meta's model card: the 1127 MB Llama 3.2 1B QLoRA decodes 45.8 token/s on a OnePlus 12 (LPDDR5X, 76.8 GB/s)."""
    cards = build_cards(["llama-3.2-1b-int4"], {})
    size = float(cards.size_byte[0])
    assert size == pytest.approx(1127e6, rel=0.01)
    coefficients = (float(cards.flop_per_token[0]), float(cards.attention_flop_per_token2[0]))
    step_s = decode_step_s(1.0, 64.0, *coefficients, float(cards.kv_byte_per_token[0]), size, 8e12, 0.7 * 76.8e9)
    assert 1.0 / step_s == pytest.approx(45.8, rel=0.1)


@given(prompt=st.integers(1, 4000), new=st.integers(1, 64))
def test_decoding_costs_the_flop_by_which_a_longer_prefill_costs_more(prompt, new):
    """Each decoded token has attention over its own context; the midpoint makes the sum of the slope exact."""
    longer = prefill_flop(float(prompt + new), P2, ATTENTION) - prefill_flop(float(prompt), P2, ATTENTION)
    steps = sum(decode_step_flop(1.0, prompt + i + 0.5, P2, ATTENTION) for i in range(new))
    assert steps == pytest.approx(longer, rel=1e-9)


@given(batch=st.floats(1, 512), context=st.floats(0, 1e5), rate=rates, width=rates)
def test_a_decode_step_is_never_faster_than_either_roof(batch, context, rate, width):
    seconds = decode_step_s(batch, context, P2, ATTENTION, KV, SIZE, rate, width)
    assert seconds * rate >= decode_step_flop(batch, context, P2, ATTENTION) * (1 - 1e-12)
    assert seconds * width >= (SIZE + batch * context * KV) * (1 - 1e-12)


@given(batch=st.floats(1, 255), context=st.floats(1, 1e5))
def test_a_larger_batch_takes_longer_in_all_and_less_for_each(batch, context):
    small = decode_step_s(batch, context, P2, ATTENTION, KV, SIZE, F, BW)
    large = decode_step_s(2 * batch, context, P2, ATTENTION, KV, SIZE, F, BW)
    assert small <= large <= 2 * small * (1 + 1e-12)


@given(token=counts, rate=rates, width=rates)
def test_faster_hardware_is_never_slower(token, rate, width):
    base = prefill_s(token, P2, ATTENTION, KV, SIZE, rate, width)
    assert prefill_s(token, P2, ATTENTION, KV, SIZE, 2 * rate, width) <= base
    assert prefill_s(token, P2, ATTENTION, KV, SIZE, rate, 2 * width) <= base
    assert prefill_s(2 * token, P2, ATTENTION, KV, SIZE, rate, width) >= base


def test_denoising_limits():
    """Compute bound: the flop over the rate; memory bound: the weights once a step, whatever the images."""
    compute = denoise_s(20.0, 4.0, STEP, FIXED, 0.1, 2.1e9, F, 1e15)
    assert compute == pytest.approx(0.1 + denoise_flop(20.0, 4.0, STEP, FIXED) / F)
    memory = denoise_s(20.0, 1.0, STEP, 0.0, 0.0, 2.1e9, 1e18, BW)
    assert memory == pytest.approx(20 * 2.1e9 / BW)
    assert denoise_s(20.0, 4.0, STEP, 0.0, 0.0, 2.1e9, 1e18, BW) == memory


def test_training_limits():
    per_token = float(CARDS.train_flop_per_token[0])
    assert train_s(1e6, 4096.0, per_token, SIZE, F, BW) == pytest.approx(train_flop(1e6, per_token) / F)
    assert train_s(1e3, 1.0, per_token, SIZE, F, BW) == pytest.approx(1e3 * 2 * SIZE / BW)


def test_loading_adds_start_up_extra_and_transfer():
    assert load_s(16e9, 0.3, 2e9, 0.2) == pytest.approx(8.5)


def test_effective_rates_never_exceed_the_peak():
    nodes = build(_network(), clouds=2, edges=1)
    assert np.all(nodes.flop_per_s <= 989e12)
    assert np.all(nodes.idle_w < nodes.peak_w)


def test_what_software_takes_adds_to_steps_and_hides_behind_the_arithmetic_of_large_batches():
    alone, besides = (prefill_s(512.0, *LLAMA, F, BW, *more) for more in ((), (3e-3, 1e-3)))
    assert besides - alone == pytest.approx(4e-3)
    alone, besides = (decode_step_s(8.0, 128.0, *LLAMA, F, BW, *more) for more in ((), (3e-3, 1e-3)))
    assert besides - alone == pytest.approx(11e-3)
    large = 4096.0
    assert decode_step_s(large, 1.0, *LLAMA, F, BW, 3e-3, 0.0) == decode_step_s(large, 1.0, *LLAMA, F, BW)
