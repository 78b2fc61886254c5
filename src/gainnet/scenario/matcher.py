"""Which matcher plans each frame, and its knobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from gainnet.scenario.quantity import Count, NonNegative, Positive, Section


class _Certified(Section):
    """A matcher that makes no prices of its own and has its plan certified by a dual ascent."""

    iterations: Count = Field(100, description="most iterations of the ascent that certifies the plan")


class Random(_Certified):
    """In order of arrival, any pattern that fits, uniformly."""

    kind: Literal["random"] = "random"


class End(_Certified):
    """In order of arrival, the best pattern that fits and computes at the end."""

    kind: Literal["end"] = "end"


class Nearest(_Certified):
    """In order of arrival, the best pattern that fits at the strongest cell's own edge."""

    kind: Literal["nearest"] = "nearest"


class Edge(_Certified):
    """In order of arrival, the best pattern that fits and computes at an edge."""

    kind: Literal["edge"] = "edge"


class Cloud(_Certified):
    """In order of arrival, the best pattern that fits and computes in the cloud."""

    kind: Literal["cloud"] = "cloud"


class Greedy(_Certified):
    """Over all tasks at once, the pattern with the most value for what it takes of scarce rows."""

    kind: Literal["greedy"] = "greedy"


class Local(_Certified):
    """In order of arrival, each task alone: the best pattern at broadcast prices that fits, without the controller."""

    kind: Literal["local"] = "local"
    staleness_s: NonNegative = Field(0.0, description="time until what the controller broadcasts is heard")


class Price(Section):
    """Row prices by dual ascent, decodings at perturbed prices, local search."""

    kind: Literal["price"] = "price"
    iterations: Count = Field(100, description="most iterations of the dual ascent")
    perturbations: int = Field(3, ge=0, description="decodings at perturbed prices, besides the one at the prices")
    effort: int = Field(5, ge=0, description="rounds of local search for each task")
    relative_gap: NonNegative = Field(2e-3, description="certified gap at which the search has done enough")


class _Predicted(Section):
    """A matcher that predicts prices."""

    checkpoint: Path | None = Field(None, description="weights (safetensors); by default those that ship with gainnet")
    iterations: Count = Field(8, description="most iterations of the dual ascent from the predicted prices")
    perturbations: int = Field(3, ge=0, description="decodings at perturbed prices, besides the one at the prices")
    effort: int = Field(5, ge=0, description="rounds of local search for each task")
    relative_gap: NonNegative = Field(2e-3, description="certified gap at which the search has done enough")


class Neural(_Predicted):
    """Row prices from a network that unrolls the dual ascent, a few steps of ascent, decodings, local search."""

    kind: Literal["neural"] = "neural"


class Drl(_Predicted):
    """`neural`, on problems whose bids a policy steers that learned from whole runs."""

    kind: Literal["drl"] = "drl"
    policy: Path | None = Field(None, description="weights of the policy (safetensors); by default the shipped ones")


class Diffusion(_Predicted):
    """`neural`, with decodings at prices that a conditional diffusion model samples."""

    kind: Literal["diffusion"] = "diffusion"
    perturbations: int = Field(0, ge=0, description="decodings at perturbed prices, besides those at samples")
    samples: Count = Field(4, description="decodings at sampled prices")
    denoiser: Path | None = Field(None, description="weights of the sampler (safetensors); by default the shipped ones")


class Exact(Section):
    """A mixed-integer linear program; the reference for small problems."""

    kind: Literal["exact"] = "exact"
    time_limit_s: Positive = Field(60.0, description="time after which the best plan found is taken")
    relative_gap: NonNegative = Field(1e-6, description="gap to its bound at which a plan counts as optimal")


MatcherConfig = Annotated[
    Random | End | Nearest | Edge | Cloud | Greedy | Local | Price | Neural | Drl | Diffusion | Exact,
    Field(discriminator="kind"),
]

MATCHER_KINDS: tuple[str, ...] = tuple(
    config.model_fields["kind"].default for config in get_args(get_args(MatcherConfig)[0])
)
