"""Split training against local training, its bits against what is packed, and where an end should train."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GemmaConfig, GemmaForCausalLM
from tuned import TEXTS, language, texts

from gainnet.errors import InputError
from gainnet.knowledge import split
from gainnet.knowledge.compress import ROWS, SENT, Encoder, decode
from gainnet.knowledge.split import Means, SplitTuner, choose, shape_of
from gainnet.knowledge.training_cost import NORM_BIT, Load, Shape, load_of
from gainnet.knowledge.tuning import Diverged, Tuner
from gainnet.models.hub import as_language
from gainnet.models.low_rank import LowRank
from gainnet.scenario.knowledge import Compression, Knowledge, Privacy

EXACT = Compression(activation_bits=32)
HOW = {"epochs": 2, "batch": 4, "learning_rate": 3e-3}
LAYERS = 4
CUTS = [(1, 2), (1, 4), (2, 3), (3, 4)]


@pytest.fixture(scope="module")
def tuner():
    return Tuner(language(), [4])


@pytest.fixture(scope="module")
def start(tuner):
    """An adapter that does something already."""
    rng = np.random.default_rng(3)
    fresh = tuner.adapters.fresh(4, rng)
    layers = {
        name: replace(factors, b=rng.normal(0.0, 0.05, factors.b.shape).astype(np.float32))
        for name, factors in fresh.layers.items()
    }
    return replace(fresh, layers=layers)


def tune(tuner, start, cut=(1, 3), compression=EXACT, seed=5, learnt=None, **how):
    rng = np.random.default_rng(seed)
    return SplitTuner(tuner).tune(
        start, texts() if learnt is None else learnt, rng=rng, cut=cut, compression=compression, **{**HOW, **how}
    )


def furthest(one, other):
    """The largest difference between numbers of two adapters."""
    assert one.layers.keys() == other.layers.keys()
    return max(
        np.abs(getattr(one.layers[name], part) - getattr(other.layers[name], part)).max()
        for name in one.layers
        for part in "ab"
    )


@pytest.mark.parametrize(("factors", "prompt_weight"), [("ab", 0.0), ("b", 0.0), ("ab", 0.3)])
@pytest.mark.untraced
def test_at_32_bits_it_makes_what_local_training_makes_at_every_cut(tuner, start, factors, prompt_weight):
    more = {"factors": factors, "prompt_weight": prompt_weight}
    local = tuner.tune(start, texts(), rng=np.random.default_rng(5), **more, **HOW)
    assert furthest(local.adapter, start) > 1e-3
    for cut in CUTS:
        made = tune(tuner, start, cut, **more).tuned
        assert furthest(made.adapter, local.adapter) < 1e-5
        assert (made.steps, made.token) == (local.steps, local.token)
        assert made.loss == pytest.approx(local.loss, abs=1e-5)


@pytest.mark.untraced
def test_in_bfloat16_too_it_makes_nearly_what_local_training_makes(start):
    rough = Tuner(language(), [4], bf16=True)
    local = rough.tune(start, texts(), rng=np.random.default_rng(5), **HOW)
    made = tune(rough, start).tuned
    assert made.loss == pytest.approx(local.loss, rel=0.01)
    assert furthest(made.adapter, local.adapter) < 0.2 * furthest(local.adapter, start)


def test_a_rank_that_is_not_built_is_trained_as_local_training_would(tuner, start):
    lower = replace(
        start, layers={n: replace(f, a=f.a[:3].copy(), b=f.b[:, :3].copy()) for n, f in start.layers.items()}
    )
    local = tuner.tune(lower, texts(), rng=np.random.default_rng(5), **HOW)
    assert furthest(tune(tuner, lower).tuned.adapter, local.adapter) < 1e-5


def test_the_same_generator_state_gives_the_same_bytes(tuner, start):
    eight = Compression(activation_bits=8, activation_change=0.01)
    one, two = (tune(tuner, start, compression=eight) for _ in range(2))
    assert one.tuned.adapter.digest() == two.tuned.adapter.digest()
    assert (one.uplink_bit, one.downlink_bit) == (two.uplink_bit, two.downlink_bit)


@pytest.mark.untraced
def test_coarser_numbers_move_the_result_little_and_the_more_the_coarser(tuner, start):
    local = tuner.tune(start, texts(), rng=np.random.default_rng(5), **HOW)
    moved = np.sqrt(sum(np.square(local.adapter.layers[n].b - f.b).sum() for n, f in start.layers.items()))
    off = {}
    for bits in (16, 8, 4):
        made = tune(tuner, start, compression=Compression(activation_bits=bits)).tuned
        change = [made.adapter.layers[n].b - f.b for n, f in local.adapter.layers.items()]
        off[bits] = np.sqrt(sum(np.square(part).sum() for part in change)) / moved
        assert made.loss == pytest.approx(local.loss, rel=0.02)
    assert off[16] < off[8] < off[4] < 0.7
    assert off[8] < 0.2


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
@pytest.mark.untraced
def test_bits_are_those_of_the_rows_and_headers_and_known_beforehand(tuner, start, bits):
    made = tune(tuner, start, compression=Compression(activation_bits=bits))
    lengths = [len(text.token) for text in texts() if text.counted]
    row = {4: 8 + 2, 8: 16 + 2, 16: 32, 32: 64}[bits]
    byte = 2 * 2 * sum(lengths) * row  # epochs; activations and gradients
    byte += 2 * sum(SENT.size + ROWS.size + -(-length // 8) for length in lengths)
    byte += made.tuned.steps * (ROWS.size + NORM_BIT // 8)
    assert made.uplink_bit == made.downlink_bit == 8 * byte
    load = load_of(texts(), HOW["epochs"], HOW["batch"], 4, bits)
    assert load.bit(16) == made.uplink_bit
    assert (load.steps, load.token) == (made.tuned.steps, made.tuned.token)


def test_rows_that_did_not_move_are_sent_once(tuner, start):
    """At a threshold of 1 nothing is sent anew unless it doubles: an epoch after the first costs flags and gradients."""
    once = tune(tuner, start, compression=EXACT, epochs=1)
    thrice = tune(tuner, start, compression=Compression(activation_bits=32, activation_change=1.0), epochs=3)
    token = sum(len(text.token) for text in texts())
    assert once.uplink_bit == pytest.approx(2 * token * 16 * 32, rel=0.1)
    assert thrice.uplink_bit == pytest.approx((1 + 3) * token * 16 * 32, rel=0.1)
    assert thrice.downlink_bit == pytest.approx((1 + 3) * token * 16 * 32, rel=0.1)


@pytest.mark.untraced
def test_a_small_threshold_saves_bits_and_hardly_changes_what_is_learnt(tuner, start):
    local = tuner.tune(start, texts(), rng=np.random.default_rng(5), **{**HOW, "epochs": 4})
    whole = tune(tuner, start, epochs=4)
    fewer = tune(tuner, start, epochs=4, compression=Compression(activation_bits=32, activation_change=0.03))
    assert fewer.uplink_bit < 0.95 * whole.uplink_bit
    assert fewer.tuned.loss == pytest.approx(local.loss, rel=0.02)


@pytest.mark.untraced
def test_flop_of_both_sides_are_those_of_the_whole(tuner, start):
    found = [tune(tuner, start, cut) for cut in CUTS]
    assert len({round(made.end_flop + made.edge_flop) for made in found}) == 1
    per_layer = found[0].edge_flop
    assert [made.edge_flop for made in found] == pytest.approx([per_layer, 3 * per_layer, per_layer, per_layer])


def test_texts_that_count_nothing_are_left_out(tuner, start):
    silent = replace(texts()[0], answer=len(texts()[0].token))
    with_it = tune(tuner, start, learnt=[silent, *texts()])
    assert with_it.tuned.adapter.digest() == tune(tuner, start).tuned.adapter.digest()
    with pytest.raises(InputError, match="nothing to learn from"):
        tune(tuner, start, learnt=[silent])


@pytest.mark.parametrize("cut", [(0, 2), (2, 2), (3, 1), (1, 5)])
def test_a_cut_that_gives_a_side_no_layer_or_texts_away_is_refused(tuner, start, cut):
    with pytest.raises(InputError, match="cut at"):
        tune(tuner, start, cut)


@pytest.mark.parametrize(("rate", "message"), [(1e4, "loss|activation"), (1e38, "activation|loss|weights")])
def test_a_training_that_explodes_is_said_and_leaves_the_model_as_it_was(tuner, start, rate, message):
    before = start.digest()
    with pytest.raises(Diverged, match=f"training diverged: .*({message})"):
        tune(tuner, start, learning_rate=rate, epochs=6)
    assert start.digest() == before
    local = tuner.tune(start, texts(), rng=np.random.default_rng(5), **HOW)
    assert furthest(tune(tuner, start).tuned.adapter, local.adapter) < 1e-5


SHAPE = Shape(8, 64, 50_000.0, 1_000.0, 70_000.0, 65_536.0, 1024)
LOAD = Load(
    texts=32, steps=4, token=3200, token2=320_000, counted=800, flags_byte=416, token_at_once=800, counted_at_once=200,
    rank=8, activation_bits=8,
)  # fmt: skip
MEANS = Means(1e9, 1e9, 1e12, 1e8, 1e8)


def test_a_fast_link_and_edge_take_what_a_slow_end_cannot():
    assert choose(SHAPE, LOAD, replace(MEANS, end_flop_per_s=1e13)).kind == "local"
    found = choose(SHAPE, LOAD, MEANS)
    assert (found.kind, found.cut) == ("split", (1, 8))
    assert found.end_flop + found.edge_flop == pytest.approx(SHAPE.flop(LOAD, 8) + SHAPE.head_flop(LOAD))
    assert found.end_token + found.edge_token == pytest.approx(LOAD.token)
    assert found.time_s == pytest.approx(
        found.end_flop / 1e9 + found.edge_flop / 1e12 + (found.uplink_bit + found.downlink_bit) / 1e8
    )


def test_local_training_is_chosen_exactly_down_to_the_memory_that_it_needs():
    fast = replace(MEANS, end_flop_per_s=1e13)
    need = SHAPE.memory_byte(LOAD, 8)
    assert choose(SHAPE, LOAD, replace(fast, memory_byte=need)).kind == "local"
    below = choose(SHAPE, LOAD, replace(fast, memory_byte=np.nextafter(need, 0.0)))
    assert (below.kind, below.cut) == ("split", (4, 5))  # as little as possible goes to an edge that is slower


def test_a_split_is_chosen_exactly_down_to_the_memory_that_it_needs():
    need = SHAPE.memory_byte(LOAD, 1)
    found = choose(SHAPE, LOAD, replace(MEANS, memory_byte=need))
    assert (found.kind, found.cut) == ("split", (1, 8))
    none = choose(SHAPE, LOAD, replace(MEANS, memory_byte=np.nextafter(need, 0.0)))
    assert (none.kind, none.cut, none.memory_byte) == ("none", (0, 0), need)
    assert "byte of memory at least" in none.reason


def test_a_faster_edge_alone_decides_where_the_link_is_free():
    free = Means(1e12, 1e9, 0.999e9, np.inf, np.inf)
    assert choose(SHAPE, LOAD, free).kind == "local"
    assert choose(SHAPE, LOAD, replace(free, edge_flop_per_s=1.001e9)).cut == (1, 8)


def test_only_the_open_ways_are_chosen_from():
    slow, fast = MEANS, replace(MEANS, end_flop_per_s=1e13)
    assert choose(SHAPE, LOAD, slow, "never").kind == "local"
    assert choose(SHAPE, LOAD, fast, "always").kind == "split"
    assert choose(SHAPE, LOAD, replace(slow, memory_byte=1.0), "never").kind == "none"
    assert "one layer" in choose(replace(SHAPE, layers=1), LOAD, slow, "always").reason
    assert choose(replace(SHAPE, layers=1), LOAD, slow).kind == "local"


def test_what_stands_still_or_has_nothing_to_learn_takes_no_part():
    assert "nothing to learn" in choose(SHAPE, load_of([], 1, 4, 8, 8), MEANS).reason
    dead = replace(MEANS, end_flop_per_s=0.0)
    assert "stands still" in choose(SHAPE, LOAD, dead).reason
    assert choose(SHAPE, LOAD, replace(MEANS, uplink_bit_per_s=0.0)).kind == "local"


rates = st.floats(1e3, 1e15)
factors = st.floats(1.0, 1e6)
meant = st.builds(Means, st.floats(1e4, 1e9), rates, rates, rates, rates)


@given(meant, factors)
@pytest.mark.untraced
def test_more_memory_never_loses_a_way_nor_time(means, factor):
    before, after = (
        choose(SHAPE, LOAD, means),
        choose(SHAPE, LOAD, replace(means, memory_byte=means.memory_byte * factor)),
    )
    assert after.time_s <= before.time_s
    assert after.kind != "none" or before.kind == "none"
    assert not (before.kind == "local" and choose(SHAPE, LOAD, means, "never").kind == "none")
    assert after.memory_byte <= means.memory_byte * factor or after.kind == "none"


@given(meant, factors, st.sampled_from(["uplink_bit_per_s", "downlink_bit_per_s", "edge_flop_per_s"]))
@pytest.mark.untraced
def test_a_slower_link_or_edge_never_turns_local_into_split(means, factor, field):
    before = choose(SHAPE, LOAD, means)
    after = choose(SHAPE, LOAD, replace(means, **{field: getattr(means, field) / factor}))
    assert after.time_s >= before.time_s
    if before.kind == "local":
        assert after.kind == "local"


@given(meant)
@pytest.mark.untraced
def test_what_is_chosen_is_the_fastest_that_fits(means):
    found = choose(SHAPE, LOAD, means)
    local, always = choose(SHAPE, LOAD, means, "never"), choose(SHAPE, LOAD, means, "always")
    assert found.time_s == min(local.time_s, always.time_s)
    first, stop = found.cut
    if found.kind == "split":
        assert 1 <= first < stop <= SHAPE.layers
        assert 0 <= first - (SHAPE.layers - stop) <= 1


def test_the_place_of_an_end_is_as_its_training_turns_out(tuner, start):
    means = {"memory_byte": 1e9, "end_flop_per_s": 1e7, "edge_flop_per_s": 1e12}
    link = {"uplink_bit_per_s": 1e9, "downlink_bit_per_s": 1e9}
    config = Knowledge(batch=4, local_epochs=2)
    found = split.place(shape_of(tuner.language), texts(), rank=4, config=config, **means, **link)
    assert found.kind == "split"
    made = tune(tuner, start, found.cut, config.compression)
    assert (made.uplink_bit, made.downlink_bit) == (found.uplink_bit, found.downlink_bit)
    assert (made.end_flop, made.edge_flop) == pytest.approx((found.end_flop, found.edge_flop))
    private = config.model_copy(update={"privacy": Privacy(kind="example")})
    assert split.place(shape_of(tuner.language), texts(), rank=4, config=private, **means, **link).kind == "local"


def test_a_model_that_cannot_be_cut_is_never_split(tuner):
    shape = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS, "head_dim": 8}
    model = GemmaForCausalLM(GemmaConfig(**shape, num_attention_heads=2, num_key_value_heads=1))
    other = as_language(model, tuner.language.tokenizer, 64)
    means = {"end_flop_per_s": 1e7, "edge_flop_per_s": 1e12, "uplink_bit_per_s": 1e9, "downlink_bit_per_s": 1e9}

    def placed(found, memory_byte, way="auto"):
        config = Knowledge(batch=4, split=way)
        return split.place(shape_of(found), texts(), rank=4, config=config, memory_byte=memory_byte, **means)

    assert placed(tuner.language, 1e9).kind == "split"
    for way in ("auto", "always"):
        whole = placed(other, 1e9, way)
        assert whole.kind == "local"
        assert placed(other, 0.9 * whole.memory_byte, way).kind == "none"
    split.check(Knowledge(split="always"), tuner.language)
    split.check(Knowledge(), other)
    with pytest.raises(
        InputError, match=r"^knowledge\.split: always: model type 'gemma' cannot be cut: one of gpt2, .*$"
    ):
        split.check(Knowledge(split="always"), other)


def test_the_figures_of_a_model_are_those_of_its_weights(tuner):
    shape = shape_of(tuner.language)
    total = sum(p.numel() for n, p in tuner.language.model.named_parameters() if "lora_" not in n)
    assert shape.outer_weights + LAYERS * shape.layer_weights == total
    assert shape.head_weights == shape.vocabulary * shape.width
    adapter = tuner.adapters.fresh(4, np.random.default_rng(0))
    assert 4 * LAYERS * shape.layer_lora == adapter.numbers
    assert len(TEXTS) == len(texts())


def test_layers_are_known_by_their_names(tuner):
    names = ["transformer.h.2.attn.c_attn", "model.layers.12.q_proj", "layers.1.x", "model.lm_head", "a.players.2.x"]
    assert split.at_edge(names, (1, 3)) == ("transformer.h.2.attn.c_attn", "layers.1.x")
    assert split.at_edge(names, (12, 13)) == ("model.layers.12.q_proj",)
    assert split.at_edge(names, (0, 0)) == ()
    assert {name.split(".")[2] for name in split.at_edge(tuner.adapters.layers, (1, 3))} == {"1", "2"}


@pytest.mark.parametrize(("bits", "basis"), [(4, None), (32, None), (4, "shared a")])
def test_an_end_sends_its_own_layers_and_the_edge_has_the_others_whole(tuner, start, bits, basis):
    cut = (1, 3)
    trained = (
        SplitTuner(tuner)
        .tune(
            start,
            texts(),
            rng=np.random.default_rng(1),
            factors="b" if basis else "ab",
            cut=cut,
            compression=EXACT,
            **HOW,
        )
        .tuned.adapter
    )
    edge = split.at_edge(start.layers, cut)
    encoder = Encoder(bits)
    whole = Encoder(bits).encode(start, trained, np.random.default_rng(2), basis)
    sent = encoder.encode(start, split.told(start, trained, edge), np.random.default_rng(2), basis)
    assert sent.bit < 0.52 * whole.bit, "two of four layers stay"
    found = split.joined(start, decode(sent.data, start), trained, edge)
    assert list(found.layers) == list(start.layers)
    for name, factors in found.layers.items():
        own = trained.layers[name]
        rough = 0.0 if name in edge or bits == 32 else 0.2 * np.abs(own.b - start.layers[name].b).max()
        assert np.abs(factors.b - own.b).max() <= rough
        assert (np.array_equal(factors.a, own.a)) == (name in edge or bits == 32 or basis is not None)


def test_what_compression_owes_a_layer_reaches_it_when_the_edge_trains_it(tuner, start):
    def moved(part):
        layers = {
            n: replace(f, b=f.b + (part * (1 + np.arange(f.b.size) % 7).reshape(f.b.shape)).astype(np.float32))
            for n, f in start.layers.items()
        }
        return replace(start, layers=layers)

    first, trained = moved(1e-3), moved(2e-3)
    edge = split.at_edge(start.layers, (1, 3))
    encoder = Encoder(2)
    arrived = decode(encoder.encode(start, first, np.random.default_rng(0), "shared a").data, start)
    sent = encoder.encode(start, split.told(start, trained, edge), np.random.default_rng(1), "shared a")
    found = split.joined(start, decode(sent.data, start), trained, edge)
    still = LowRank.of(encoder.feedback.lost, start.shapes, start.scale, start.base)
    for name in edge:
        owed = first.layers[name].b - arrived.layers[name].b
        added = found.layers[name].b - trained.layers[name].b
        assert added == pytest.approx(owed - still.layers[name].b, abs=1e-6)
        assert np.abs(added).max() > 0.0
