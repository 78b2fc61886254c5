"""The services of a scenario, and how large their tasks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from gainnet.demand.arrivals import Drawn
from gainnet.demand.task import ServiceKind
from gainnet.demand.trace import Trace
from gainnet.errors import ScenarioError, TraceError
from gainnet.scenario import demand as scenario
from gainnet.scenario.fitted import DISTRIBUTIONS

Columns = dict[str, NDArray[Any]]
Sample = Callable[[np.random.Generator, int], Float[np.ndarray, " task"]]
Size = Callable[[np.random.Generator, Drawn], Columns]

_KINDS = {kind.name.lower(): kind for kind in ServiceKind}


@dataclass(frozen=True, slots=True)
class Services:
    """The services as a struct of arrays, in the order of the scenario.

    Attributes:
        names: the name of each service.
        kind: its ServiceKind.
        model_ptr: the models that may serve service s are ``model_index[model_ptr[s]:model_ptr[s + 1]]``.
        model_index: artifact indices of the model variants allowed.
        nearest: whether its tasks go to the nearest edge without being matched (learning services may say so).
    """

    names: tuple[str, ...]
    kind: Int[np.ndarray, " service"]
    model_ptr: Int[np.ndarray, " service_edge"]
    model_index: Int[np.ndarray, " allowed"]
    nearest: Bool[np.ndarray, " service"]


def services(config: scenario.Demand, artifacts: Sequence[str]) -> Services:
    """The services of a scenario; ScenarioError names the field whose model is not among the artifacts."""
    allowed = [
        _indices(service.models, artifacts, f"demand.services.{name}.models")
        for name, service in config.services.items()
    ]
    return Services(
        names=tuple(config.services),
        kind=np.array([_KINDS[service.kind] for service in config.services.values()], dtype=np.int64),
        model_ptr=np.cumsum([0, *(len(models) for models in allowed)]),
        model_index=np.concatenate(allowed),
        nearest=np.array(
            [
                isinstance(service, scenario.Learning) and service.placement == "nearest"
                for service in config.services.values()
            ]
        ),
    )


def _indices(names: Sequence[str], artifacts: Sequence[str], field: str) -> Int[np.ndarray, " name"]:
    """The positions of names among the artifacts; ScenarioError names the field and what is allowed."""
    for name in names:
        if name not in artifacts:
            raise ScenarioError(f"{field}: {name!r} is not a model or adapter in use: {', '.join(artifacts)}")
    return np.array([artifacts.index(name) for name in names], dtype=np.int64)


def sampler(distribution: scenario.Distribution) -> Sample:
    """What draws n independent values of a distribution; quantiles are interpolated linearly (inverse transform)."""
    match distribution:
        case scenario.Constant(value=value):
            return lambda _, count: np.full(count, value)
        case scenario.Uniform(low=low, high=high):
            return lambda rng, count: rng.uniform(low, high, count)
        case scenario.Lognormal(median=median, sigma=sigma, low=low, high=high):
            return lambda rng, count: np.clip(median * np.exp(sigma * rng.standard_normal(count)), low, high)
        case scenario.Quantiles(points=points):
            probability, quantile = np.linspace(0.0, 1.0, len(points)), np.array(points)
            return lambda rng, count: np.interp(rng.random(count), probability, quantile)
        case scenario.Choice(values=values, weights=weights):
            options, below = np.array(values), np.cumsum(weights) / sum(weights)
            last = np.flatnonzero(weights)[-1]
            return lambda rng, count: options[np.minimum(np.searchsorted(below, rng.random(count), "right"), last)]
        case scenario.Fitted(name=name):
            return sampler(DISTRIBUTIONS[name])


def sizes(name: str, config: scenario.AnyService, trace: Trace | None, artifacts: Sequence[str]) -> Size:
    """What draws the sizes of tasks of a service: the columns of Tasks from quality_min on that are not zero.

    A text or image service that replays a trace takes its tokens, steps, images and wish for an adapter from there.
    Tokens, steps and images are whole and at least 1. ``deadline_s`` is the time allowed after the arrival.

    Errors: TraceError where the trace holds another kind of request, ScenarioError for an unknown adapter.
    """
    kind = _KINDS[config.kind]
    if trace is not None and kind in (ServiceKind.TEXT, ServiceKind.IMAGE) and trace.kind is not kind:
        raise TraceError(f"{trace.path}: records {trace.kind.name.lower()} requests, service {name!r} is {config.kind}")
    match config:
        case scenario.Text():
            return _text(config, trace)
        case scenario.Image():
            adapters = _indices(config.adapters, artifacts, f"demand.services.{name}.adapters")
            return _image(config, trace, adapters)
        case scenario.Perception():
            return _perception(config)
        case scenario.Learning():
            return _learning(config)


def _whole(sample: Float[np.ndarray, " task"]) -> Float[np.ndarray, " task"]:
    whole: Float[np.ndarray, " task"] = np.maximum(np.rint(sample), 1.0)
    return whole


def _text(config: scenario.Text, trace: Trace | None) -> Size:
    prompt_of, output_of, quality_of = map(sampler, (config.prompt_token, config.output_token, config.quality_min))

    def size(rng: np.random.Generator, drawn: Drawn) -> Columns:
        count = len(drawn.time_s)
        prompt = _whole(prompt_of(rng, count) if trace is None else trace.prompt_token[drawn.row])
        output = _whole(output_of(rng, count) if trace is None else trace.output_token[drawn.row])
        return {
            "quality_min": quality_of(rng, count),
            "deadline_s": config.deadline_s + config.deadline_per_token_s * output,
            "prompt_token": prompt,
            "output_token": output,
            "uplink_bit": config.bit_per_token * prompt,
            "downlink_bit": config.bit_per_token * output,
        }

    return size


def _image(config: scenario.Image, trace: Trace | None, adapters: Int[np.ndarray, " adapter"]) -> Size:
    """Image tasks: their downlink bits depend on the model chosen (its ``image_bit``), so they stay zero here."""
    step_of, image_of, quality_of = map(sampler, (config.steps, config.images, config.quality_min))

    def size(rng: np.random.Generator, drawn: Drawn) -> Columns:
        count = len(drawn.time_s)
        step = _whole(step_of(rng, count) if trace is None else trace.step[drawn.row])
        image = _whole(image_of(rng, count) if trace is None else trace.image[drawn.row])
        columns = {
            "quality_min": quality_of(rng, count),
            "deadline_s": config.deadline_s + config.deadline_per_step_s * step,
            "step": step,
            "image": image,
            "uplink_bit": np.full(count, config.prompt_bit),
        }
        if len(adapters):
            adapted = rng.random(count) < config.adapter_probability if trace is None else trace.adapted[drawn.row]
            columns["adapter"] = np.where(adapted, adapters[rng.integers(len(adapters), size=count)], -1)
        return columns

    return size


def _perception(config: scenario.Perception) -> Size:
    drawn_of = {
        "quality_min": sampler(config.quality_min),
        "uplink_bit": sampler(config.feature_bit),
        "downlink_bit": sampler(config.answer_bit),
        "target_range_m": sampler(config.target_range_m),
    }
    counted_of = {"prompt_token": sampler(config.scene_token), "output_token": sampler(config.output_token)}

    def size(rng: np.random.Generator, drawn: Drawn) -> Columns:
        count = len(drawn.time_s)
        columns = {name: sample(rng, count) for name, sample in drawn_of.items()}
        counted = {name: _whole(sample(rng, count)) for name, sample in counted_of.items()}
        return {**columns, **counted, "deadline_s": np.full(count, config.deadline_s)}

    return size


def _learning(config: scenario.Learning) -> Size:
    token_of, quality_of = sampler(config.train_token), sampler(config.quality_min)

    def size(rng: np.random.Generator, drawn: Drawn) -> Columns:
        count = len(drawn.time_s)
        return {
            "quality_min": quality_of(rng, count),
            "deadline_s": np.full(count, config.deadline_s),
            "prompt_token": _whole(token_of(rng, count)),
            "uplink_bit": np.full(count, config.update_bit),
        }

    return size
