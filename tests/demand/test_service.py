from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from asked import constant, demand, image, poisson, state, text
from pydantic import TypeAdapter

from gainnet.demand.service import sampler
from gainnet.demand.task import ServiceKind
from gainnet.demand.trace import read
from gainnet.errors import ScenarioError
from gainnet.rng import stream
from gainnet.scenario import demand as scenario
from gainnet.scenario.fitted import BURSTS, DISTRIBUTIONS, GENTD26_ADAPTER_PROBABILITY

COUNT = 40_000


def drawn(**config: Any) -> np.ndarray:
    distribution: scenario.Distribution = TypeAdapter(scenario.Distribution).validate_python(config)
    return sampler(distribution)(stream(0, "sample"), COUNT)


def test_constant_uniform_and_lognormal() -> None:
    assert (drawn(kind="constant", value=3.5) == 3.5).all()
    uniform = drawn(kind="uniform", low=2.0, high=6.0)
    assert uniform.min() >= 2.0
    assert uniform.max() <= 6.0
    assert uniform.mean() == pytest.approx(4.0, abs=0.03)
    lognormal = drawn(kind="lognormal", median=100.0, sigma=0.5, low=40.0, high=400.0)
    assert np.median(lognormal) == pytest.approx(100.0, rel=0.02)
    assert np.log(lognormal).std() == pytest.approx(0.5, abs=0.02)
    assert (lognormal.min(), lognormal.max()) == (40.0, 400.0)


def test_quantiles_are_reproduced_and_linear_between() -> None:
    sample = drawn(kind="quantiles", points=[0.0, 1.0, 1.0, 5.0, 20.0])
    assert np.quantile(sample, [0.125, 0.375, 0.75, 0.875]) == pytest.approx([0.5, 1.0, 5.0, 12.5], abs=0.25)
    assert (sample == 1.0).mean() == pytest.approx(0.25, abs=0.01)
    assert sample.max() <= 20.0


def test_choice_follows_its_weights_and_never_draws_a_weight_of_zero() -> None:
    sample = drawn(kind="choice", values=[7.0, 1.0, 4.0, 9.0], weights=[0.0, 3.0, 1.0, 0.0])
    assert set(sample) == {1.0, 4.0}
    assert (sample == 4.0).mean() == pytest.approx(0.25, abs=0.01)


def test_every_fitted_name_has_its_constants() -> None:
    assert set(get_args(scenario.Fitted.model_fields["name"].annotation)) == set(DISTRIBUTIONS)
    assert set(get_args(scenario.FittedBursts.model_fields["name"].annotation)) == set(BURSTS)


@pytest.mark.untraced
def test_fitted_sizes_match_the_real_traces(data: Path) -> None:
    chat, images = read(data / "azure_llm_2023" / "conv.csv"), read(data / "gentd26" / "requests.csv")
    pairs = {"azure-2023-prompt": chat.prompt_token, "azure-2023-output": chat.output_token}
    pairs |= {"gentd26-steps": images.step, "gentd26-images": images.image}
    probability = np.arange(0.05, 0.96, 0.05)
    for name, trace in pairs.items():
        sample = drawn(kind="fitted", name=name)
        assert sample.mean() == pytest.approx(trace.mean(), rel=0.03)
        below = [
            (column[:, None] <= np.quantile(trace, probability)).mean(axis=0) for column in (np.rint(sample), trace)
        ]
        assert np.abs(below[0] - below[1]).max() < 0.015, name
    assert images.adapted.mean() == pytest.approx(GENTD26_ADAPTER_PROBABILITY, abs=1e-4)


def test_services_are_arrays_over_the_artifacts() -> None:
    services = demand({"chat": text(poisson(1)), "art": image(poisson(1))}).services
    assert services.names == ("chat", "art")
    assert services.kind.tolist() == [ServiceKind.TEXT, ServiceKind.IMAGE]
    assert services.model_ptr.tolist() == [0, 2, 3]
    assert services.model_index.tolist() == [0, 1, 2]


def test_an_unknown_model_or_adapter_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"demand\.services\.chat\.models: 'gone' is not .*: small, large"):
        demand({"chat": text(poisson(1), models=["gone"])})
    with pytest.raises(ScenarioError, match=r"demand\.services\.art\.adapters: 'gone'"):
        demand({"art": image(poisson(1), adapters=["gone"])})


def test_text_tasks() -> None:
    service = text(poisson(5), prompt_token=constant(10.4), output_token=constant(0.2), value=3.0, bit_per_token=16.0)
    tasks = demand({"chat": service}).arrive(state(50.0))
    assert len(tasks) > 1000
    assert (np.unique(tasks.prompt_token), np.unique(tasks.output_token)) == ([10.0], [1.0])
    assert (np.unique(tasks.uplink_bit), np.unique(tasks.downlink_bit)) == ([160.0], [16.0])
    assert tasks.deadline_s - tasks.arrival_s == pytest.approx(2.0 + 0.05)
    assert (np.unique(tasks.value), np.unique(tasks.quality_min), np.unique(tasks.adapter)) == ([3.0], [0.5], [-1])
    for unused in (tasks.step, tasks.image, tasks.target_range_m):
        assert not unused.any()
    assert set(tasks.user) == set(range(10))


def test_image_tasks() -> None:
    service = image(poisson(5), adapter_probability=0.3, images=constant(4))
    tasks = demand({"art": service}).arrive(state(200.0))
    assert (np.unique(tasks.step), np.unique(tasks.image), np.unique(tasks.uplink_bit)) == ([30.0], [4.0], [4096.0])
    assert tasks.deadline_s - tasks.arrival_s == pytest.approx(5.0 + 0.1 * 30)
    share = {artifact: (tasks.adapter == artifact).mean() for artifact in (-1, 3, 4)}
    assert list(share.values()) == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_perception_and_learning_tasks() -> None:
    given = {"models": ["small"], "deadline_s": 0.5, "quality_min": constant(0.7)}
    sizes = {"target_range_m": 80, "feature_bit": 1e6, "scene_token": 256, "output_token": 32, "answer_bit": 2e5}
    see = {**given, "kind": "perception", "arrivals": poisson(1), **{name: constant(v) for name, v in sizes.items()}}
    fed = {"kind": "learning", "models": ["small"], "deadline_s": 9.0, "period_s": 5.0, "participation": 0.2}
    fed |= {"train_token": constant(5000), "update_bit": 8e6}
    tasks = demand({"see": see, "fed": fed}).arrive(state(20.0))
    seen, taught = tasks.service == 0, tasks.service == 1
    assert (np.unique(tasks.target_range_m[seen]), np.unique(tasks.uplink_bit[seen])) == ([80.0], [1e6])
    assert (np.unique(tasks.prompt_token[seen]), np.unique(tasks.output_token[seen])) == ([256.0], [32.0])
    assert np.unique(tasks.downlink_bit[seen]) == [2e5]
    assert tasks.arrival_s[taught].tolist() == [0.0, 0.0, 5.0, 5.0, 10.0, 10.0, 15.0, 15.0]
    assert (np.unique(tasks.prompt_token[taught]), np.unique(tasks.uplink_bit[taught])) == ([5000.0], [8e6])
    assert tasks.deadline_s[taught] - tasks.arrival_s[taught] == pytest.approx(9.0)
    assert not tasks.output_token[taught].any()
    assert not tasks.quality_min[taught].any()
