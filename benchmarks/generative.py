"""Does generative sampling of prices pay: diffusion against perturbed prices, at equal wall time on the same problems.

Every method decodes at as many prices as fit the time: samples of the diffusion model, the anchor times Gaussian log
factors (of the standard deviation that is best over all problems of that size), or the anchor alone and the rest of the
time in the price matcher's local search. The anchor (prices from `neural`, polished) is given to all, untimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from gainnet.orchestrator.bound import certify, columns_of
from gainnet.orchestrator.kernels.denoise import denoise
from gainnet.orchestrator.kernels.search import decode, search
from gainnet.orchestrator.matchers import diffusion, neural
from gainnet.training.diffusion import SPREADS, Case, case, priced
from matching import problems

SIZES = (20, 80, 1000)
TIMES_S = (0.002, 0.01, 0.05)
PROBLEMS = 8
SEED = 101
"""Problems are drawn from here on: the benchmark of the matchers starts at 1, training at the scenario's own seed."""

MEANING = {
    "gap_mean": "mean relative gap to a certified bound after that wall time",
    "diffusion_over_gaussian": "mean relative advantage of the diffusion's plan over the best Gaussian's, below 0: none",
    "ci95": "half the 95 % interval of that",
    "samples": "median number of decodings in that time",
}

Sampler = Callable[[Case, np.random.Generator], np.ndarray]


def figures(quick: bool = False) -> dict[str, float]:
    """Gaps by method, problem size and time, and the diffusion's advantage over the best Gaussian, paired by problem."""
    found: dict[str, float] = {}
    weights, predictor = diffusion.load(None), neural.load(None)
    for tasks in SIZES[:1] if quick else SIZES:
        drawn = list(problems(tasks, 2 if quick else PROBLEMS, seed=SEED))
        cases = [case(columns_of(problem), problem.rows, predictor) for problem in drawn]
        bounds = [_bound(c) for c in cases]
        methods: dict[str, Sampler] = {"diffusion": lambda c, rng: _sampled(c, weights, rng)}
        methods |= {f"gaussian_{spread}": _gaussian(spread) for spread in SPREADS}
        for seconds in TIMES_S[:1] if quick else TIMES_S:
            prefix, values = f"n{tasks}.ms{seconds * 1e3:.0f}", {}
            for name, sampler in methods.items():
                answers = [_best(c, sampler, seconds) for c in cases]
                values[name] = np.array([value for value, _ in answers])
                if name == "diffusion":
                    found[f"{prefix}.diffusion.samples"] = float(np.median([count for _, count in answers]))
            values["search"] = np.array([_searched(c, b, seconds) for c, b in zip(cases, bounds, strict=True)])
            best = max((n for n in values if n.startswith("gaussian")), key=lambda name: values[name].sum())
            named = {"diffusion": "diffusion", "gaussian": best, "search": "search"}
            for name, source in named.items():
                found[f"{prefix}.{name}.gap_mean"] = float(np.mean(1.0 - values[source] / bounds))
            ahead = values["diffusion"] / values[best] - 1.0
            found[f"{prefix}.diffusion_over_gaussian"] = float(ahead.mean())
            found[f"{prefix}.diffusion_over_gaussian.ci95"] = float(
                2.36 * ahead.std(ddof=1) / np.sqrt(len(ahead)) if len(ahead) > 1 else np.nan
            )
    return found


def _bound(c: Case) -> float:
    value, _ = decode(c.columns, priced(c, np.zeros(c.rows)), c.rows, 1, np.ones(1, np.uint64))
    return certify(c.columns, c.anchor, value, 400)[0]


def _best(c: Case, sampler: Sampler, seconds: float) -> tuple[float, int]:
    """Value of the best decoding in that time, the anchor's among them, and how many there were."""
    rng, state, count = np.random.default_rng(1), np.ones(1, np.uint64), 1
    value, _ = decode(c.columns, priced(c, np.zeros(c.rows)), c.rows, 1, state)
    decode(c.columns, sampler(c, rng), c.rows, 1, state)  # compiles
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        value = max(value, decode(c.columns, sampler(c, rng), c.rows, 1, state)[0])
        count += 1
    return value, count


def _searched(c: Case, bound: float, seconds: float) -> float:
    """Value of the price matcher's local search from the anchor's decoding, in rounds until the time is up."""
    price, state = priced(c, np.zeros(c.rows)), np.ones(1, np.uint64)
    value, choice = decode(c.columns, price, c.rows, 1, state)
    search(c.columns, price, c.rows, value, choice.copy(), bound, 1, 0.0, state)  # compiles
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        value = search(c.columns, price, c.rows, value, choice, bound, 5 * len(choice) + 30, 0.0, state)
    return value


def _sampled(c: Case, w: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    state = rng.integers(1, 2**63, size=1).astype(np.uint64)
    return denoise(c.columns, c.anchor, c.known, w["inward"], w["inward_bias"], w["outward"], w["levels"], state)


def _gaussian(spread: float) -> Sampler:
    def sampler(c: Case, rng: np.random.Generator) -> np.ndarray:
        return priced(c, np.where(c.active, spread * rng.standard_normal(c.rows), 0.0))

    return sampler
