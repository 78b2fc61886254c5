"""What a person writes about demand: services as task graphs, how large their tasks are, and when they arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gainnet.scenario.quantity import Fraction, NonNegative, Positive, Section


class Constant(Section):
    """Always the same."""

    kind: Literal["constant"] = "constant"
    value: NonNegative


class Uniform(Section):
    """Uniform between low and high."""

    kind: Literal["uniform"] = "uniform"
    low: NonNegative
    high: NonNegative

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high < self.low:
            raise ValueError("high must be at least low")
        return self


class Lognormal(Section):
    """Log-normal with the given median and standard deviation of the logarithm, cut to [low, high]."""

    kind: Literal["lognormal"] = "lognormal"
    median: Positive
    sigma: NonNegative
    low: NonNegative = 0.0
    high: Positive = 1e12


class Quantiles(Section):
    """A distribution given by its quantiles at equal probability steps from 0 to 1, monotone between them."""

    kind: Literal["quantiles"] = "quantiles"
    points: Annotated[tuple[NonNegative, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if any(b < a for a, b in zip(self.points, self.points[1:], strict=False)):
            raise ValueError("points must not fall: they are quantiles in rising order")
        return self


class Choice(Section):
    """One of the values, with the given weights."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[NonNegative, ...], Field(min_length=1)]
    weights: Annotated[tuple[NonNegative, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.values) != len(self.weights) or sum(self.weights) <= 0.0:
            raise ValueError("values and weights need the same length, and the weights a positive sum")
        return self


class Fitted(Section):
    """A distribution fitted to a real trace: tokens, steps, images, or seconds to load (see ``scenario/fitted.py``)."""

    kind: Literal["fitted"] = "fitted"
    name: Literal[
        "azure-2023-prompt",
        "azure-2023-output",
        "gentd26-steps",
        "gentd26-images",
        "gentd26-adapter-load",
        "gentd26-base-load",
    ]


Distribution = Annotated[Constant | Uniform | Lognormal | Quantiles | Choice | Fitted, Field(discriminator="kind")]


class Poisson(Section):
    """Independent arrivals at a constant rate, from every end alike."""

    kind: Literal["poisson"] = "poisson"
    rate_per_end_per_s: NonNegative


class Bursty(Section):
    """Two-state Markov-modulated Poisson process (MMPP): ``burst_factor`` times the mean rate while bursting."""

    kind: Literal["mmpp"] = "mmpp"
    rate_per_end_per_s: NonNegative
    burst_factor: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 4.0
    burst_mean_s: Positive = 2.0
    calm_mean_s: Positive = 10.0

    @model_validator(mode="after")
    def _mean_can_be_kept(self) -> Self:
        if self.burst_factor * self.burst_mean_s > self.burst_mean_s + self.calm_mean_s:
            raise ValueError(
                "burst_factor must be at most 1 + calm_mean_s / burst_mean_s, or calm spells need a negative rate"
            )
        return self


class FittedBursts(Section):
    """A two-state MMPP with the burstiness of a real trace, at a rate of one's own (see ``scenario/fitted.py``)."""

    kind: Literal["fitted"] = "fitted"
    name: Literal["azure-2023", "gentd26"]
    rate_per_end_per_s: NonNegative


class Diurnal(Section):
    """A sinusoidal day: rate times ``1 + amplitude sin(2 pi (t / period_s + phase))``."""

    kind: Literal["diurnal"] = "diurnal"
    rate_per_end_per_s: NonNegative
    amplitude: Fraction = 0.8
    period_s: Positive = 86_400.0
    phase: Fraction = 0.0


class TraceArrivals(Section):
    """Arrivals and sizes from a recorded trace, replayed ``speed`` times as fast from ``start_s`` into it.

    The format is found by its header: the Azure LLM inference trace 2023 (TIMESTAMP, ContextTokens, GeneratedTokens)
    for text, GenTD26 (gmt_create, ..., num_inference_steps, ...) for images. Each row goes to an end drawn at random.
    """

    kind: Literal["trace"] = "trace"
    path: Path
    speed: Positive = 1.0
    start_s: NonNegative = 0.0


Arrivals = Annotated[Poisson | Bursty | FittedBursts | Diurnal | TraceArrivals, Field(discriminator="kind")]


class Service(Section):
    """What every service has.

    A task is satisfied when it ends by its deadline, ``deadline_s`` (plus what the service adds for its length) after
    it arrived, at or above its required quality. ``value`` is what a satisfied task is worth, in the currency of
    the objective. ``models`` are the variants that may serve it.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    deadline_s: Positive
    quality_min: Distribution
    value: Positive = 1.0


class Text(Service):
    """A text assistant: uplink of the prompt, prefill, decode, downlink of the answer."""

    kind: Literal["text"] = "text"
    arrivals: Arrivals
    prompt_token: Distribution
    output_token: Distribution
    deadline_per_token_s: NonNegative = 0.05
    bit_per_token: Positive = 32.0


class Image(Service):
    """Image generation: uplink of the prompt, denoise, downlink of the images; some tasks ask for an adapter."""

    kind: Literal["image"] = "image"
    arrivals: Arrivals
    prompt_bit: Positive = 4096.0
    steps: Distribution
    images: Distribution = Constant(value=1.0)
    adapters: tuple[str, ...] = ()
    adapter_probability: Fraction = 0.0
    deadline_per_step_s: NonNegative = 0.1

    @model_validator(mode="after")
    def _adapters_given(self) -> Self:
        if self.adapter_probability > 0.0 and not self.adapters:
            raise ValueError("adapter_probability > 0 needs at least one name in adapters")
        return self


class Perception(Service):
    """Cooperative perception: sense a target, send features up, generate the scene's continuation, send it down.

    Who senses (the end's radar or the cell's) and how much is a choice of the pattern; quality is the model's times
    the accuracy that sensing bought.
    """

    kind: Literal["perception"] = "perception"
    arrivals: Arrivals
    target_range_m: Distribution
    feature_bit: Distribution
    scene_token: Distribution
    output_token: Distribution
    answer_bit: Distribution


class Learning(Service):
    """Fine-tuning rounds: chosen ends train an adapter, upload it, and a higher tier aggregates.

    Every ``period_s`` a round starts and ``participation`` of the ends take part, each with ``train_token`` tokens; with
    ``participation`` 0 rounds come from the knowledge loop alone. ``placement`` matched leaves it to the matcher when and
    where a task of a round is served. Nearest is the reference without orchestration: a task goes over its strongest cell
    to that cell's own edge, as soon as it comes and as fast as it can, whatever else the network has to do.
    """

    kind: Literal["learning"] = "learning"
    period_s: Positive
    participation: Fraction
    train_token: Distribution
    update_bit: Positive
    quality_min: Distribution = Constant(value=0.0)
    placement: Literal["matched", "nearest"] = "matched"


AnyService = Annotated[Text | Image | Perception | Learning, Field(discriminator="kind")]


class Demand(Section):
    """The services of a scenario, by name."""

    services: Annotated[dict[str, AnyService], Field(min_length=1)]
