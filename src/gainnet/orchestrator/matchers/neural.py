"""The neural matcher: row prices from a network that unrolls the dual ascent, then the price matcher's guided decoding.

The prices need not be right: the bound holds at any prices (see `gainnet.orchestrator.bound`), so every plan is certified
however far a problem is from those the network was trained on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.bound import columns_of
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.unrolled import HIDDEN, INPUTS, OUTPUTS, unroll
from gainnet.orchestrator.matchers.certified import planned
from gainnet.orchestrator.matchers.price import Price
from gainnet.orchestrator.plan import Plan
from gainnet.orchestrator.problem import Problem

KIND = "neural"
SHAPES = {
    "inward": (HIDDEN, INPUTS),
    "inward_bias": (HIDDEN,),
    "outward": (OUTPUTS, HIDDEN),
    "outward_bias": (OUTPUTS,),
    "temperature": (-1,),
}


@dataclass(frozen=True)
class Neural:
    """Predicted row prices, a few steps of dual ascent from them, decodings, search.

    Attributes:
        weights: of the network (see `gainnet.orchestrator.kernels.unrolled`), by the names of SHAPES.
        finish: the price matcher, with as many steps of ascent as polish the prediction.
    """

    weights: checkpoint.Weights
    finish: Price

    def match(self, problem: Problem, warm: Float[np.ndarray, " row"], rng: np.random.Generator) -> Plan:  # noqa: ARG002 (part of the protocol)
        """See Matcher."""
        started = time.perf_counter()
        columns = columns_of(problem)
        decision = self.finish.decide(columns, problem.rows, lambda: self.predict(columns, problem.rows), rng)
        return planned(problem, columns, *decision, time.perf_counter() - started)

    def predict(self, columns: Columns, rows: int) -> Float[np.ndarray, " row"]:
        """Prices of whole rows."""
        return predict(self.weights, columns, rows)[0]


def predict(
    weights: checkpoint.Weights, columns: Columns, rows: int
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row input"]]:
    """Predicted prices of whole rows, and what the network knew of each row in its last step (zeros: never scarce)."""
    inner = (weights[name] for name in ("inward", "inward_bias", "outward", "outward_bias", "temperature"))
    return unroll(columns, rows, *inner)


def load(path: Path | None) -> checkpoint.Weights:
    """The weights of a checkpoint, or of the one that ships with the package. InputError where it is none."""
    return checkpoint.read(path if path is not None else checkpoint.shipped(KIND), KIND, SHAPES)
