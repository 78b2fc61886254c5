"""Fits the built-in demand to the real traces, and measures how near it comes to them.

``python benchmarks/demand.py DATA`` prints the figures as JSON; with ``--constants`` it prints the fitted constants of
``src/gainnet/scenario/fitted.py`` instead. DATA holds ``azure_llm_2023/`` and ``gentd26/``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import ks_2samp

from gainnet.demand.arrivals import Bursts
from gainnet.demand.service import sampler
from gainnet.demand.trace import Trace, read
from gainnet.rng import stream
from gainnet.scenario.demand import Bursty, Choice, Fitted, Quantiles
from gainnet.scenario.fitted import BURSTS, DISTRIBUTIONS, GENTD26_ADAPTER_PROBABILITY

POINTS = 101
WINDOWS_S = (1.0, 10.0)
SAMPLES = 200_000
RUNS = 40


def quantiles(sample: Float[np.ndarray, " row"], decimals: int) -> Quantiles:
    """The quantiles of a sample; the last point is placed so that the mean of the top interval is the sample's."""
    points = np.quantile(sample, np.linspace(0.0, 1.0, POINTS))
    top = np.sort(sample)[-max(1, len(sample) // (POINTS - 1)) :].mean()
    points[-1] = max(points[-2], 2.0 * top - points[-2])
    return Quantiles(points=tuple(np.round(points, decimals).tolist()))


def frequencies(sample: Float[np.ndarray, " row"]) -> Choice:
    """Every value of a sample with the number of times that it occurs."""
    values, counts = np.unique(sample, return_counts=True)
    return Choice(values=tuple(values.tolist()), weights=tuple(counts.astype(float).tolist()))


def counts(time_s: Float[np.ndarray, " row"], length_s: float, window_s: float) -> Float[np.ndarray, " window"]:
    """How many arrivals fall in each whole window."""
    windows = int(length_s / window_s)
    return np.histogram(time_s, bins=windows, range=(0.0, windows * window_s))[0].astype(np.float64)


def dispersion(count: Float[np.ndarray, " window"]) -> float:
    """Index of dispersion of counts: variance over mean, 1 for a Poisson process."""
    return float(count.var() / count.mean())


def bursts(time_s: Float[np.ndarray, " row"], length_s: float) -> Bursty:
    """The two-state MMPP with the mean, the dispersion at 1 and 10 s and the third moment at 10 s of a trace.

    With a centred rate x of variance v, third moment c and correlation time 1 / r the integral of x over T has the
    variance ``2 v (rT - 1 + exp(-rT)) / r^2`` and the third moment ``6 c int_0^T (T - s) s exp(-r s) ds``; counts add
    ``mean`` and ``3 variance + mean``. The fraction p of time in bursts follows from
    ``c / v^1.5 = (1 - 2p) / sqrt(p (1 - p))``. Errors: ValueError where the dispersion does not grow as an MMPP's does.
    """
    short, long = (counts(time_s, length_s, window_s) for window_s in WINDOWS_S)
    rate_per_s = len(time_s) / length_s
    excess_short, excess_long = dispersion(short) - 1.0, dispersion(long) - 1.0

    def integral(r: float, window_s: float) -> float:
        return float((r * window_s + np.expm1(-r * window_s)) / (r * r * window_s))

    def ratio(log_r: float) -> float:
        r = float(np.exp(log_r))
        return integral(r, WINDOWS_S[0]) / integral(r, WINDOWS_S[1]) - excess_short / excess_long

    r = float(np.exp(brentq(ratio, np.log(1e-4), np.log(10.0))))
    variance = excess_long * rate_per_s / (2.0 * integral(r, WINDOWS_S[1]))
    span = np.linspace(0.0, WINDOWS_S[1], 4001)
    weight = 6.0 * float(np.trapezoid((WINDOWS_S[1] - span) * span * np.exp(-r * span), span))
    mean = long.mean()
    third = float(((long - mean) ** 3).mean() - 3.0 * (long.var() - mean) - mean) / weight
    skewness = third / variance**1.5
    bursting = 0.5 * (1.0 - skewness / np.sqrt(skewness**2 + 4.0))
    factor = 1.0 + np.sqrt(variance * (1.0 - bursting) / bursting) / rate_per_s
    factor = min(factor, 1.0 / bursting)
    burst_mean_s, calm_mean_s = 1.0 / (r * (1.0 - bursting)), 1.0 / (r * bursting)
    factor = min(factor, 1.0 + calm_mean_s / burst_mean_s)
    return Bursty(
        rate_per_end_per_s=round(rate_per_s, 6),
        burst_factor=np.floor(factor * 1e4) / 1e4,
        burst_mean_s=round(burst_mean_s, 4),
        calm_mean_s=round(calm_mean_s, 4),
    )


def load_s(path: Path) -> Float[np.ndarray, " row"]:
    """The load times of a GenTD26 latency file."""
    values: Float[np.ndarray, " row"] = np.loadtxt(path, delimiter=",", skiprows=1, usecols=1) / 1000.0
    return values


def samples(data: Path, chat: Trace, image: Trace) -> dict[str, Float[np.ndarray, " row"]]:
    """What each fitted distribution was fitted to, by its name."""
    return {
        "azure-2023-prompt": chat.prompt_token,
        "azure-2023-output": chat.output_token,
        "gentd26-steps": image.step,
        "gentd26-images": image.image,
        "gentd26-adapter-load": load_s(data / "gentd26" / "lora_update_latency.csv"),
        "gentd26-base-load": load_s(data / "gentd26" / "basemodel_update_latency.csv"),
    }


def traces(data: Path) -> dict[str, Trace]:
    """The two request traces by the name of their fit."""
    return {
        "azure-2023": read(data / "azure_llm_2023" / "conv.csv"),
        "gentd26": read(data / "gentd26" / "requests.csv"),
    }


def fit(name: str, sample: Float[np.ndarray, " row"]) -> Quantiles | Choice:
    """Frequencies of what takes few values, quantiles of the rest: whole tokens, milliseconds of loading."""
    if name in ("gentd26-steps", "gentd26-images"):
        return frequencies(sample)
    return quantiles(sample, 3 if name.endswith("-load") else 0)


def _size_figures(name: str, sample: Float[np.ndarray, " row"]) -> dict[str, float]:
    """Quantiles of the trace and of the built-in, their Kolmogorov-Smirnov distance, and whether a refit differs."""
    drawn = sampler(Fitted.model_validate({"name": name}))(stream(0, name), SAMPLES)
    drawn = drawn if name.endswith("-load") else np.rint(drawn)
    figures: dict[str, float] = {}
    for percent in (5, 25, 50, 75, 95, 99):
        figures[f"{name}.p{percent}_trace"] = float(np.percentile(sample, percent))
        figures[f"{name}.p{percent}_fit"] = float(np.percentile(drawn, percent))
    figures[f"{name}.mean_trace"], figures[f"{name}.mean_fit"] = float(sample.mean()), float(drawn.mean())
    figures[f"{name}.ks_distance"] = float(ks_2samp(sample, drawn, method="asymp").statistic)
    figures[f"{name}.refit_equal"] = float(fit(name, sample) == DISTRIBUTIONS[name])
    return figures


def _burst_figures(name: str, trace: Trace) -> dict[str, float]:
    """Mean rate and dispersion of counts of the trace and of the built-in MMPP at the same rate."""
    config, span_s = BURSTS[name], RUNS * trace.length_s
    drawn_s = Bursts(config, 1, stream(0, f"{name} path")).draw(stream(0, name), 0.0, span_s).time_s
    figures = {
        f"{name}.rate_per_s_trace": len(trace) / trace.length_s,
        f"{name}.rate_per_s_fit": len(drawn_s) / span_s,
        f"{name}.refit_equal": float(bursts(trace.time_s, trace.length_s) == config),
    }
    for window_s in (*WINDOWS_S, 60.0):
        figures[f"{name}.dispersion_{window_s:g}s_trace"] = dispersion(counts(trace.time_s, trace.length_s, window_s))
        figures[f"{name}.dispersion_{window_s:g}s_fit"] = dispersion(counts(drawn_s, span_s, window_s))
    return figures


def figures(data: Path) -> dict[str, float]:
    """The built-in demand beside the traces it was fitted to. TraceError or OSError where data lacks a file."""
    by_name = traces(data)
    measured: dict[str, float] = {}
    for name, sample in samples(data, by_name["azure-2023"], by_name["gentd26"]).items():
        measured |= _size_figures(name, sample)
    for name, trace in by_name.items():
        measured |= _burst_figures(name, trace)
    measured["gentd26.adapter_probability_trace"] = float(by_name["gentd26"].adapted.mean())
    measured["gentd26.adapter_probability_fit"] = GENTD26_ADAPTER_PROBABILITY
    measured["gentd26.rows_skipped"] = float(by_name["gentd26"].skipped)
    return measured


def _literal(numbers: tuple[float, ...]) -> str:
    """Numbers as Python source, wrapped below 120 columns."""
    lines, line = [], "           "
    for text in (f" {number:.10g}," for number in numbers):
        if len(line) + len(text) > 118:
            lines.append(line)
            line = "           "
        line += text
    return "\n".join([*lines, line])


def constants(data: Path) -> str:
    """The source of the constants in ``gainnet/scenario/fitted.py``."""
    by_name = traces(data)
    adapted = by_name["gentd26"].adapted.mean()
    parts = [f"GENTD26_ADAPTER_PROBABILITY = {adapted:.4f}", "", "BURSTS: Mapping[str, Bursty] = {"]
    for name, trace in by_name.items():
        given = bursts(trace.time_s, trace.length_s).model_dump(exclude={"kind"})
        parts.append(f'    "{name}": Bursty({", ".join(f"{key}={value!r}" for key, value in given.items())}),')
    parts += ["}", "", "DISTRIBUTIONS: Mapping[str, Quantiles | Choice] = {"]
    for name, sample in samples(data, by_name["azure-2023"], by_name["gentd26"]).items():
        fitted = fit(name, sample)
        fields: Mapping[str, tuple[float, ...]] = fitted.model_dump(exclude={"kind"})
        parts += [f'    "{name}": {type(fitted).__name__}(']
        for key, value in fields.items():
            parts += [f"        {key}=(", _literal(value), "        ),"]
        parts += ["    ),"]
    return "\n".join([*parts, "}  # fmt: skip", ""])


def main() -> None:
    """Print the figures, or the constants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--constants", action="store_true")
    given = parser.parse_args()
    sys.stdout.write(constants(given.data) if given.constants else json.dumps(figures(given.data), indent=2) + "\n")


if __name__ == "__main__":
    main()
