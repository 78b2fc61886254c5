"""Training of the `neural` matcher: the dual bound of its own prices is the loss, so no problem has to be solved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gainnet.orchestrator.bound import certify, free_price
from gainnet.orchestrator.kernels.columns import Columns
from gainnet.orchestrator.kernels.search import decode
from gainnet.orchestrator.kernels.unrolled import (
    DYNAMICS,
    FRACTION_MAX,
    FRACTION_MIN,
    GROWTH,
    HIDDEN,
    INPUTS,
    MEMORY,
    OUTPUTS,
    SEED_PRICE,
    STATICS,
    stakes,
)
from gainnet.rng import stream
from gainnet.scenario.scenario import Scenario
from gainnet.training.problems import scarce
from gainnet.training.training import Arrays, Figures, MatcherTraining
from gainnet.workers.workers import Workers

TRAINING_STEPS = 1500
PROBLEMS_A_STEP = 4
RATE = 3e-3
GRADIENT_MAX = 1.0
HELD_OUT = 8
"""One problem in so many is kept for the curve."""
STEPS = 8
LATER = 1.5
"""Weight of each step's bound in the loss, over that of the step before."""
REFERENCE_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Graph:
    """A problem as tensors.

    Attributes:
        value, task: of each pattern.
        entry_pattern, entry_row, entry_share: of each entry; rows from ``rows`` on are pairs.
        demand: which entries are demands on rows.
        best: best value of each task.
        stake, static: of each row (see `gainnet.orchestrator.kernels.unrolled.stakes`).
        pair_setup, pair_count, setup_row, setup_share, setup_cost: as in Columns; set-ups without a row draw 0 on row 0.
        reference: the bound that a long dual ascent reaches.
    """

    value: torch.Tensor
    task: torch.Tensor
    entry_pattern: torch.Tensor
    entry_row: torch.Tensor
    entry_share: torch.Tensor
    demand: torch.Tensor
    best: torch.Tensor
    stake: torch.Tensor
    static: torch.Tensor
    pair_setup: torch.Tensor
    pair_count: torch.Tensor
    setup_row: torch.Tensor
    setup_share: torch.Tensor
    setup_cost: torch.Tensor
    reference: float


def graph(columns: Columns, rows: int) -> Graph:
    """The tensors of a problem; values are divided by their mean best, so that losses compare."""
    best, stake, static = stakes(columns, rows)
    lengths = np.diff(columns.ptr)
    scale = 1.0 / max(float(best.mean()), 1e-300)
    value, _ = decode(columns, free_price(columns, rows), rows, 1, np.ones(1, np.uint64))
    reference, _ = certify(columns, np.zeros(rows), value, REFERENCE_ITERATIONS)
    pattern = np.repeat(np.arange(len(columns.value)), lengths)
    within = np.arange(len(columns.row)) - np.repeat(columns.ptr[:-1], lengths)
    return Graph(
        value=torch.tensor(columns.value * scale, dtype=torch.float32),
        task=torch.tensor(np.repeat(np.arange(len(best)), np.diff(columns.task_ptr))),
        entry_pattern=torch.tensor(pattern),
        entry_row=torch.tensor(columns.row),
        entry_share=torch.tensor(columns.share, dtype=torch.float32),
        demand=torch.tensor(within < (columns.stop - columns.ptr[:-1])[pattern]),
        best=torch.tensor(best * scale, dtype=torch.float32),
        stake=torch.tensor(stake * scale, dtype=torch.float32),
        static=torch.tensor(static, dtype=torch.float32),
        pair_setup=torch.tensor(columns.pair_setup),
        pair_count=torch.tensor(columns.pair_count[columns.pair_setup], dtype=torch.float32),
        setup_row=torch.tensor(np.maximum(columns.setup_row, 0)),
        setup_share=torch.tensor(np.where(columns.setup_row >= 0, columns.setup_share, 0.0), dtype=torch.float32),
        setup_cost=torch.tensor(columns.setup_cost * scale, dtype=torch.float32),
        reference=reference * scale,
    )


class Unrolled(torch.nn.Module):
    """The network of `gainnet.orchestrator.kernels.unrolled`, differentiable; the kernel computes the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = torch.nn.Linear(INPUTS, HIDDEN)
        self.outward = torch.nn.Linear(HIDDEN, OUTPUTS)
        with torch.no_grad():  # prices are small at first: no prices are better than wild ones
            self.outward.bias[:2] = torch.tensor([-1.0, -3.0])
        self.log_temperature = torch.nn.Parameter(torch.full((STEPS,), -2.3))

    def forward(self, problem: Graph) -> list[torch.Tensor]:
        """The prices of whole rows after each step."""
        rows = len(problem.stake)
        fraction, memory = torch.zeros(rows), torch.zeros(rows, MEMORY)
        price, prices = torch.zeros(rows), []
        for turn in range(STEPS):
            load = self._load(problem, price, self.log_temperature[turn].exp())
            given = torch.cat(
                [
                    problem.static,
                    torch.log1p(load)[:, None],
                    (load - 1.0).clamp(-1.0, 1.0)[:, None],
                    fraction.clamp(min=FRACTION_MIN).log()[:, None] / 10.0,
                    torch.full((rows, 1), turn / STEPS),
                    memory,
                ],
                1,
            )
            assert given.shape[1] == STATICS + DYNAMICS + MEMORY
            out = self.outward(torch.tanh(self.inward(given)))
            seed = SEED_PRICE * torch.sigmoid(out[:, 1])
            fraction = ((fraction + seed) * torch.exp(GROWTH * torch.tanh(out[:, 0]))).clamp(max=FRACTION_MAX)
            memory = torch.tanh(out[:, 2:])
            price = fraction * problem.stake
            prices.append(price)
        return prices

    def _load(self, problem: Graph, price: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """Shares that the soft responses draw of each row."""
        worth = reduced(problem, price) / (temperature * problem.best[problem.task])
        tasks = len(problem.best)
        top = torch.zeros(tasks).scatter_reduce(0, problem.task, worth.detach(), "amax")
        weight = torch.exp(worth - top[problem.task])
        part = weight / (torch.exp(-top) + torch.zeros(tasks).index_add(0, problem.task, weight))[problem.task]
        drawn = problem.entry_share * part[problem.entry_pattern]
        total = torch.zeros(len(price) + len(problem.pair_setup)).index_add(0, problem.entry_row, drawn)
        used = problem.setup_share[problem.pair_setup] * total[len(price) :] / problem.pair_count
        return total[: len(price)].index_add(0, problem.setup_row[problem.pair_setup], used)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What a checkpoint holds."""
        named = {
            "inward": self.inward.weight,
            "inward_bias": self.inward.bias,
            "outward": self.outward.weight,
            "outward_bias": self.outward.bias,
            "temperature": self.log_temperature.exp(),
        }
        return {name: tensor.detach().numpy() for name, tensor in named.items()}

    def restore(self, weights: Mapping[str, NDArray[np.floating]]) -> None:
        """Take the weights of a checkpoint."""
        with torch.no_grad():
            for name, layer in (("inward", self.inward), ("outward", self.outward)):
                layer.weight.copy_(torch.as_tensor(weights[name]))
                layer.bias.copy_(torch.as_tensor(weights[f"{name}_bias"]))
            self.log_temperature.copy_(torch.as_tensor(weights["temperature"]).log())


def reduced(problem: Graph, price: torch.Tensor) -> torch.Tensor:
    """Value of each pattern less its priced demand and its parts of the set-ups it needs."""
    full = problem.setup_cost + problem.setup_share * price[problem.setup_row]
    both = torch.cat([price, full[problem.pair_setup] / problem.pair_count])
    charged = problem.entry_share * both[problem.entry_row]
    return problem.value.index_add(0, problem.entry_pattern, -charged)


def dual(problem: Graph, price: torch.Tensor) -> torch.Tensor:
    """The bound at these prices (see `gainnet.orchestrator.bound`), set-ups split equally."""
    best = torch.zeros(len(problem.best)).scatter_reduce(0, problem.task, reduced(problem, price), "amax")
    return price.sum() + best.sum()


def loss(problem: Graph, prices: list[torch.Tensor]) -> torch.Tensor:
    """Mean excess of the steps' bounds over the reference, later steps weighing more."""
    weight = LATER ** torch.arange(len(prices), dtype=torch.float32)
    bounds = torch.stack([dual(problem, price) for price in prices])
    return ((bounds / problem.reference - 1.0) * weight).sum() / weight.sum()


class NeuralTraining(MatcherTraining):
    """Adam on the loss of a few problems a step, its rate falling as a cosine."""

    kind = "neural"

    def __init__(self, scenario: Scenario, steps: int = TRAINING_STEPS) -> None:
        self.steps = steps
        self.scenario = scenario
        torch.manual_seed(scenario.seed)
        self.module: Unrolled = Unrolled()
        self.optimiser = torch.optim.Adam(self.module.parameters(), RATE)

    def prepare(self, workers: Workers) -> None:
        """See Training: pose problems."""
        graphs = [graph(*problem) for problem in scarce(self.scenario, workers)]
        self._held_out = graphs[::HELD_OUT]
        self._graphs = [g for index, g in enumerate(graphs) if index % HELD_OUT] or graphs

    def step(self, number: int, workers: Workers) -> Figures:  # noqa: ARG002
        """See Training."""
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * number / self.steps))
        drawn = stream(self.scenario.seed, f"training.step{number}").integers(len(self._graphs), size=PROBLEMS_A_STEP)
        self.optimiser.zero_grad()
        total = 0.0
        for index in drawn:
            excess = loss(self._graphs[index], self.module(self._graphs[index])) / PROBLEMS_A_STEP
            excess.backward()  # type: ignore[no-untyped-call]
            total += float(excess.detach())
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), GRADIENT_MAX)
        self.optimiser.step()
        figures = {"loss": total}
        if number % 50 == 0 or number == self.steps - 1:
            figures["held_out_excess"] = self.excess()
        return figures

    def excess(self) -> float:
        """Mean excess of the held-out problems' bounds at the predicted prices, over those of a long ascent."""
        with torch.no_grad():
            return float(np.mean([float(dual(g, self.module(g)[-1])) / g.reference - 1.0 for g in self._held_out]))

    def weights(self) -> Arrays:
        """See Training."""
        return self.module.weights()
