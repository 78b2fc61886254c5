"""Adapters share a batch without touching one another, come and go under load, and are held while something runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from served import adapter, generated, greedy, language, merged, prompts, read

from gainnet.errors import InputError
from gainnet.inference.engine import Engine
from gainnet.models import adapter as storing
from gainnet.models.low_rank import Factors, LowRank


@pytest.mark.untraced
def test_four_mixed_adapters_and_none_answer_as_each_alone_and_as_merged_weights() -> None:
    made = language()
    given = [adapter(made, 1), adapter(made, 2, rank=2), adapter(made, 3, only="q_proj"), adapter(made, 4, only="mlp")]
    asked = prompts(10)
    models = [merged(made, one) for one in given] + [made]
    with Engine(made, slots=5, prefill=16, threads=1) as engine:
        for number, one in enumerate(given):
            engine.load_adapter(f"domain@v{number}", one)
        names = [f"domain@v{number}" for number in range(4)] + [None]
        together = [engine.submit(prompt, greedy(), adapter=names[i % 5]) for i, prompt in enumerate(asked)]
        answers = [read(answer) for answer in together]
        alone = [read(engine.submit(prompt, greedy(), adapter=names[i % 5])) for i, prompt in enumerate(asked)]
        texts = engine.embed(["no", "no"], adapter=names[0]).result(60)
        plain = engine.embed(["no"]).result(60)
    assert answers == alone
    assert answers == [generated(models[i % 5], prompt) for i, prompt in enumerate(asked)]
    assert len({tuple(generated(model, asked[0])) for model in models}) == 5
    np.testing.assert_allclose(texts[0], texts[1], atol=1e-6)
    assert np.abs(texts[0] - plain[0]).max() > 1e-3


def test_what_began_with_a_version_ends_with_it_while_its_name_moves_on(tmp_path: Path) -> None:
    made = language()
    first, second = adapter(made, 1), adapter(made, 2)
    storing.save(second, tmp_path)
    prompt = prompts(1)[0]
    engine = Engine(made, slots=2, threads=1)
    assert engine.load_adapter("domain", first) == first.digest()
    with pytest.raises(InputError, match="adapter domain: is loaded already"):
        engine.load_adapter("domain", second)
    old = engine.submit(prompt, greedy(), adapter="domain")
    session = engine.open_session(prompt, adapter="domain")
    engine.load_adapter("domain", tmp_path, replace=True)
    new = engine.submit(prompt, greedy(), adapter="domain")
    assert engine.stats().pins == {first.digest(): 2, second.digest(): 1}
    assert engine.stats().resident == ("domain",)
    engine.unload_adapter("domain")
    with pytest.raises(InputError, match="adapter domain: is not loaded"):
        engine.submit(prompt, adapter="domain")
    with pytest.raises(InputError, match="adapter domain: is not loaded"):
        engine.unload_adapter("domain")
    engine.start()
    assert read(old) == generated(merged(made, first), prompt)
    assert read(new) == generated(merged(made, second), prompt)
    assert engine.verify(session, []).result(60).token == generated(merged(made, first), prompt)[0]
    engine.close_session(session)
    engine.close(drain=True)
    assert engine.stats().pins == {}


def test_a_version_with_two_names_is_held_once_and_forgotten_with_the_last() -> None:
    made = language()
    one = adapter(made, 1)
    prompt = prompts(1, longest=60, seed=4)[0]
    with Engine(made, threads=1) as engine:
        for name in ("a", "b"):
            engine.load_adapter(name, one)
        read(engine.submit(prompt, greedy(20, ignore_eos=True), adapter="a"))
        engine.unload_adapter("a")
        assert engine.stats().pins == {one.digest(): 0}
        assert engine.stats().prefix_byte > 0
        engine.unload_adapter("b")
        read(engine.submit([5], greedy(1)))  # a step, in which it is forgotten
        assert engine.stats().prefix_byte == 0
        engine.load_adapter("a", one)
        assert read(engine.submit(prompt, greedy(), adapter="a")) == generated(merged(made, one), prompt)


def _changed(one: LowRank, a: np.ndarray) -> LowRank:
    name = next(iter(one.layers))
    return LowRank({**one.layers, name: Factors(a, one.layers[name].b)}, one.scale, one.base)


def test_adapters_that_do_not_fit_are_refused() -> None:
    made = language()
    one = adapter(made, 1)
    factors = next(iter(one.layers.values()))
    strange = {"model.layers.7.self_attn.q_proj": factors}
    with Engine(made, threads=1) as engine:
        for given, message in [
            (LowRank(one.layers, 2.0, "0" * 64), "of the base 000000000000"),
            (LowRank(strange, 2.0, one.base), r"the model has no layer model.layers.7"),
            (LowRank({}, 2.0, one.base), "has no layers"),
            (_changed(one, factors.a[:, :5]), r"must make \(32, 32\)"),
            (_changed(one, factors.a * np.float32(np.nan)), "no finite numbers"),
            (Path("nowhere"), "holds no adapter_model.safetensors"),
        ]:
            with pytest.raises(InputError, match=message):
                engine.load_adapter("x", given)
        with pytest.raises(InputError, match="its name is empty"):
            engine.load_adapter("", one)
        assert engine.stats().resident == ()


@pytest.mark.untraced
def test_every_answer_under_swaps_is_of_the_version_that_it_began_with() -> None:
    made = language()
    versions = [adapter(made, seed) for seed in range(3)]
    asked = [list(range(10, 40)), list(range(50, 90))]
    expected = [[generated(merged(made, one), prompt, 5) for prompt in asked] for one in versions]
    with Engine(made, slots=4, threads=1) as engine:
        answers = []
        for number in range(60):
            if number % 4 == 0:
                engine.load_adapter("domain", versions[number // 4 % 3], replace=number > 0)
            answers.append(engine.submit(asked[number % 2], greedy(5), adapter="domain"))
        for number, answer in enumerate(answers):
            assert read(answer) == expected[number // 4 % 3][number % 2]
        engine.close(drain=True)
        assert list(engine.stats().pins.values()) == [0]
        assert engine.stats().prefix_hits > 0
