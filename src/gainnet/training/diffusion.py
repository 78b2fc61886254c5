"""Training of the `diffusion` matcher: learn to sample those log-prices at which decodings were better than others.

In every step some problems are decoded at several samples of prices, from noise and from the model as it is; the better
a sample's plan, the more it weighs as a target of the denoiser (advantage-weighted regression, arXiv 1910.00177, for the
actor; denoising score matching, arXiv 1907.05600, for its distribution). No problem has to be solved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from gainnet.orchestrator import checkpoint
from gainnet.orchestrator.bound import certify, free_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.denoise import HIDDEN, INPUTS, denoise, look
from gainnet.orchestrator.kernels.search import decode
from gainnet.orchestrator.kernels.unrolled import charge_pairs, stakes
from gainnet.orchestrator.matchers import neural
from gainnet.rng import stream
from gainnet.scenario.scenario import Scenario
from gainnet.training.problems import scarce
from gainnet.training.training import Arrays, Figures, MatcherTraining
from gainnet.workers.workers import Workers

TRAINING_STEPS = 400
PROBLEMS_A_STEP, SAMPLES = 4, 16
TARGETS = 6
"""Noised copies of good samples that the denoiser learns from, for each problem and step."""
GREED = 0.5
"""Temperature of the weights, in standard deviations of the samples' values."""
RATE = 2e-3
LEVELS = (0.8, 0.4, 0.2, 0.08)
LEVEL_RANGE = (0.05, 1.0)
SPREADS = (0.03, 0.1, 0.2, 0.4)
"""Standard deviations of the samples that are noise."""
ASCENT = 8
HELD_OUT = 8


@dataclass(frozen=True, slots=True)
class Case:
    """A problem to learn from, with what its samples are conditioned on."""

    columns: Columns
    rows: int
    anchor: Float[np.ndarray, " row"]
    known: Float[np.ndarray, "row input"]
    best: Float[np.ndarray, " task"]
    stake: Float[np.ndarray, " row"]
    active: NDArray[np.bool_]


class Denoiser(torch.nn.Module):
    """The perceptron of `gainnet.orchestrator.kernels.denoise`."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = torch.nn.Linear(INPUTS, HIDDEN)
        self.outward = torch.nn.Linear(HIDDEN, 1)
        with torch.no_grad():  # the first samples are the anchor itself
            self.outward.weight.zero_()
            self.outward.bias.zero_()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Clean log factors (sample,) of inputs (sample, INPUTS)."""
        clean: torch.Tensor = self.outward(torch.tanh(self.inward(given)))[:, 0]
        return clean

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What a checkpoint holds."""
        outward = torch.cat([self.outward.weight[0], self.outward.bias]).detach().numpy()
        return {
            "inward": self.inward.weight.detach().numpy(),
            "inward_bias": self.inward.bias.detach().numpy(),
            "outward": outward,
            "levels": np.array(LEVELS, np.float32),
        }


def case(columns: Columns, rows: int, predictor: checkpoint.Weights) -> Case:
    """A problem with the prices that `neural` would decode at."""
    predicted, known = neural.predict(predictor, columns, rows)
    value, _ = decode(columns, free_price(columns, rows), rows, 1, np.ones(1, np.uint64))
    _, price = certify(columns, predicted, value, ASCENT)
    best, stake, _ = stakes(columns, rows)
    anchor = np.ascontiguousarray(price[:rows])
    return Case(columns, rows, anchor, known, best, stake, (anchor > 0.0) & (stake > 0.0))


class DiffusionTraining(MatcherTraining):
    """Samples, decodes, and learns from the better ones."""

    kind = "diffusion"

    def __init__(self, scenario: Scenario, steps: int = TRAINING_STEPS) -> None:
        self.steps = steps
        self.scenario = scenario
        torch.manual_seed(scenario.seed)
        self.module: Denoiser = Denoiser()
        self.optimiser = torch.optim.Adam(self.module.parameters(), RATE)
        config = scenario.orchestrator.matcher
        self._predictor = neural.load(getattr(config, "checkpoint", None))

    def prepare(self, workers: Workers) -> None:
        """See Training: pose problems."""
        cases = [case(*problem, self._predictor) for problem in scarce(self.scenario, workers)]
        cases = [c for c in cases if c.active.any()]
        self._held_out = cases[::HELD_OUT]
        self._cases = [c for index, c in enumerate(cases) if index % HELD_OUT] or cases

    def step(self, number: int, workers: Workers) -> Figures:  # noqa: ARG002
        """See Training."""
        rng = stream(self.scenario.seed, f"training.step{number}")
        given, target = [], []
        for index in rng.integers(len(self._cases), size=PROBLEMS_A_STEP):
            inputs, clean = self._lesson(self._cases[index], rng)
            given.append(inputs)
            target.append(clean)
        error = self.module(torch.as_tensor(np.concatenate(given))) - torch.as_tensor(np.concatenate(target))
        loss = (error**2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        figures = {"loss": float(loss.detach())}
        if number % 50 == 0 or number == self.steps - 1:
            figures["best_of_8_over_noise"] = self._advantage()
        return figures

    def _lesson(self, lesson: Case, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inputs (sample, INPUTS) and clean log factors (sample,) from one problem's better samples."""
        count = SAMPLES // 2
        spread = rng.choice(SPREADS, size=(count, 1))
        factors = np.where(lesson.active, spread * rng.standard_normal((count, lesson.rows)), 0.0)
        factors = np.concatenate([factors, self._sampled(lesson, SAMPLES - count, rng)])
        value = np.array([worth(lesson, priced(lesson, factor)) for factor in factors])
        weight = np.exp((value - value.max()) / (GREED * value.std() + 1e-12 * abs(value.max()) + 1e-300))
        chosen = factors[rng.choice(SAMPLES, TARGETS, p=weight / weight.sum())]
        inputs, clean = [], []
        for factor in chosen:
            level = float(np.exp(rng.uniform(*np.log(LEVEL_RANGE))))
            noisy = factor + np.where(lesson.active, level * rng.standard_normal(lesson.rows), 0.0)
            given = np.zeros((lesson.rows, INPUTS))
            price = np.zeros(lesson.rows + len(lesson.columns.pair_setup))
            look(
                lesson.columns, lesson.best, lesson.stake, lesson.anchor, lesson.known, noisy, level, price, given
            )  # fmt: skip
            inputs.append(given[lesson.active])
            clean.append(factor[lesson.active])
        return np.concatenate(inputs).astype(np.float32), np.concatenate(clean).astype(np.float32)

    def _sampled(self, lesson: Case, count: int, rng: np.random.Generator) -> Float[np.ndarray, "sample row"]:
        """Log factors that the model samples."""
        w = {name: weight.astype(np.float64) for name, weight in self.module.weights().items()}
        state = rng.integers(1, 2**63, size=1).astype(np.uint64)
        out = np.zeros((count, lesson.rows))
        for k in range(count):
            price = denoise(
                lesson.columns, lesson.anchor, lesson.known, w["inward"], w["inward_bias"], w["outward"], w["levels"],
                state,
            )  # fmt: skip
            out[k, lesson.active] = np.log(price[: lesson.rows][lesson.active] / lesson.anchor[lesson.active])
        return out

    def _advantage(self) -> float:
        """Mean relative advantage, on held-out problems, of the best of 8 samples over the best of 8 from tuned noise."""
        rng, count = stream(self.scenario.seed, "training.held_out"), 8
        model = [max(worth(c, priced(c, f)) for f in self._sampled(c, count, rng)) for c in self._held_out]
        gains = [
            np.mean(
                [
                    value / noise_best(c, spread, count, rng) - 1.0
                    for value, c in zip(model, self._held_out, strict=True)
                ]
            )
            for spread in SPREADS
        ]
        return float(min(gains))

    def weights(self) -> Arrays:
        """See Training."""
        return self.module.weights()


def noise_best(lesson: Case, spread: float, count: int, rng: np.random.Generator) -> float:
    """Value of the best of ``count`` decodings at Gaussian log factors of this standard deviation."""
    factors = np.where(lesson.active, spread * rng.standard_normal((count, lesson.rows)), 0.0)
    return max(worth(lesson, priced(lesson, factor)) for factor in factors)


def priced(lesson: Case, factor: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row_and_pair"]:
    """Prices and burdens at log factors on the anchor."""
    price = np.concatenate([lesson.anchor * np.exp(factor), np.zeros(len(lesson.columns.pair_setup))])
    charge_pairs(lesson.columns, lesson.rows, price)
    return price


def worth(lesson: Case, price: Float[np.ndarray, " row_and_pair"]) -> float:
    """Value of the decoding at these prices."""
    return decode(lesson.columns, price, lesson.rows, 1, np.ones(1, np.uint64))[0]
