"""The diffusion matcher: `neural`, and decodings at prices that a denoiser samples instead of perturbed ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.bound import columns_of
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.denoise import HIDDEN, INPUTS, denoise
from gainnet.orchestrator.matchers.certified import planned
from gainnet.orchestrator.matchers.neural import predict
from gainnet.orchestrator.matchers.price import Price
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

KIND = "diffusion"
SHAPES = {"inward": (HIDDEN, INPUTS), "inward_bias": (HIDDEN,), "outward": (HIDDEN + 1,), "levels": (-1,)}


@dataclass(frozen=True)
class Diffusion:
    """Predicted row prices, some ascent, decodings at samples of a conditional distribution of prices, search.

    Attributes:
        weights: of the denoiser, by the names of SHAPES.
        predictor: of `neural`, whose prices the samples are factors on.
        samples: how many.
        finish: the price matcher, which decodes and searches.
    """

    weights: checkpoint.Weights
    predictor: checkpoint.Weights
    samples: int
    finish: Price

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:  # noqa: ARG002 (part of the protocol)
        """See Matcher."""
        started = time.perf_counter()
        columns = columns_of(problem)
        predicted, known = predict(self.predictor, columns, problem.rows)

        def propose(
            price: Float[np.ndarray, " row_and_pair"], state: NDArray[np.uint64]
        ) -> Iterator[Float[np.ndarray, " row_and_pair"]]:
            return self.propose(columns, np.ascontiguousarray(price[: problem.rows]), known, state)

        decision = self.finish.decide(columns, problem.rows, lambda: predicted, rng, propose)
        return planned(problem, columns, *decision, time.perf_counter() - started)

    def propose(
        self,
        columns: Columns,
        anchor: Float[np.ndarray, " row"],
        known: Float[np.ndarray, "row input"],
        state: NDArray[np.uint64],
    ) -> Iterator[Float[np.ndarray, " row_and_pair"]]:
        """Sampled prices of whole rows and burdens of pairs, around the anchor."""
        w = self.weights
        for _ in range(self.samples):
            yield denoise(columns, anchor, known, w["inward"], w["inward_bias"], w["outward"], w["levels"], state)


def load(path: Path | None) -> checkpoint.Weights:
    """The weights of a checkpoint, or of the one that ships with the package. InputError where it is none."""
    return checkpoint.read(path if path is not None else checkpoint.shipped(KIND), KIND, SHAPES)
