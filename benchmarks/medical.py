"""The medical case study on recorded dialogues: four ways to learn from them, trouble survived, and the loop that pays back.

`gainnet bench medical --data DIR --model DIR`: ``DIR/mts_dialog`` (MTS-Dialog as published) and ``DIR/medquad``, and a
foundation model that `gainnet pretrain` made of the latter. Without ``--model`` a small one is trained on the way, which
shows that everything runs and no more. ``--quick`` is one seed of two rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gainnet.errors import InputError
from gainnet.knowledge.loop import learn
from gainnet.measurement import metrics
from gainnet.measurement.interval import interval, paired
from gainnet.scenario.load import load

ARMS = ("local", "flat", "gainnet", "central")
SEEDS, ROUNDS = 3, 6
TROUBLE = ("knowledge.ranks=[4,8,16]", "knowledge.loss=0.3")
POISON = "knowledge.poison={edge: 2, scale: 5.0}"
PRIVATE = ("knowledge.aggregation=ffa", "knowledge.privacy={kind: update, epsilon: 8.0}")
FINAL = ("rouge1", "rouge2", "rougeL", "perplexity")
SPENT = ("uplink_bit", "time_s", "energy_j")

MEANING = {
    "rouge1": "F1 of ROUGE-1 on test1, greedy notes, no stemming",
    "rouge2": "F1 of ROUGE-2",
    "rougeL": "F1 of ROUGE-L",
    "perplexity": "of test1's notes",
    "uplink_bit": "sent by ends to learn",
    "time_s": "simulated time in rounds",
    "energy_j": "energy of the rounds' tasks",
    "ci95": "half of the 95 % interval of the figure before it",
    "copy": "copying the dialogue",
    "gainnet_to_central": "a ratio paired by seed; perplexity at most 1.02, rouge1 at least 0.98",
    "uplink_to_reach_flat": "uplink bits of gainnet until it is as good as flat in the end, over flat's; at most 0.25",
    "trouble.perplexity_ratio": "ranks mixed, 30 % of ends lost, one edge poisoned, over the same clean; at most 1.03",
    "trouble.named": "part of the rounds in which the poisoned edge was named",
    "private.perplexity_ratio": "updates private at epsilon 8 over the same without noise",
    "loop.satisfaction": "of note requests, last period less first, loop closed less loop open",
    "loop.share_on_ends": "of answered requests, likewise",
    "loop.public_ratio": "perplexity on public text after the last round over before the first; at most 1.01",
    "placed.services": "satisfaction of services while learning, placed by price less fixed placement",
}


def figures(data: Path, model: Path | None = None, quick: bool = False) -> dict[str, float]:
    """All of it; InputError where the data are not there."""
    for name in ("mts_dialog", "medquad"):
        if not (data / name).is_dir():
            raise InputError(f"--data {data}: holds no folder {name}")
    base = _base(data, model, quick=quick)
    seeds = range(1 if quick else SEEDS)
    found: dict[str, float] = {}
    runs = {arm: [_run(base, seed, f"knowledge.arm={arm}") for seed in seeds] for arm in ARMS}
    for arm, reports in runs.items():
        _put(found, arm, reports)
    first = runs["gainnet"][0]["knowledge"]["final"]
    found |= {f"copy.{name}": first[f"{name}_copy"] for name in ("rouge1", "rouge2", "rougeL")}
    for name in ("perplexity", "rouge1"):
        ratios = [
            own["knowledge"]["final"][name] / whole["knowledge"]["final"][name]
            for own, whole in zip(runs["gainnet"], runs["central"], strict=True)
        ]
        _interval(found, f"gainnet_to_central.{name}", ratios)
    reached = [_reach(own, flat) for own, flat in zip(runs["gainnet"], runs["flat"], strict=True)]
    if all(part is not None for part in reached):
        _interval(found, "uplink_to_reach_flat", [part for part in reached if part is not None])
    found |= _trouble(base, seeds) | _private(base, seeds) | _loop(base, seeds, runs["gainnet"]) | _placed(base, seeds)
    return found


def _base(data: Path, model: Path | None, *, quick: bool) -> list[str]:
    rounds = 2 if quick else ROUNDS
    recorded = f"{{kind: recorded, path: {data / 'mts_dialog'}, public: {data / 'medquad' / 'medquad.jsonl.gz'}}}"
    chosen = [f"knowledge.data={recorded}", "knowledge.ranks=[16]", f"knowledge.rounds={rounds}"]
    if model is not None:
        chosen.append(f"knowledge.foundation={{kind: pretrained, name: {model.resolve()}}}")
    return [*chosen, f"duration_s={10 * rounds}", f"knowledge.test={4 if quick else 0}"]


def _run(base: Sequence[str], seed: int, *changes: str) -> dict[str, Any]:
    """The report of one run, said on stderr."""
    sys.stderr.write(f"medical: seed {seed} {' '.join(changes)}\n")
    record = learn(load("medical", [*base, *changes], seed=seed)).record
    assert record is not None
    return metrics.report(record)


def _put(found: dict[str, float], name: str, reports: Sequence[Mapping[str, Any]]) -> None:
    for figure in FINAL:
        _interval(found, f"{name}.{figure}", [report["knowledge"]["final"][figure] for report in reports])
    for figure in SPENT:
        _interval(found, f"{name}.{figure}", [report["knowledge"][figure] for report in reports])


def _interval(found: dict[str, float], name: str, values: Sequence[float]) -> None:
    made = interval(values)
    if made.mean is not None:
        found[name] = made.mean
    if made.half_width is not None:
        found[f"{name}.ci95"] = made.half_width


def _known(notes: Mapping[str, Any]) -> float:
    """Validation perplexity of what answers after a round: edges on their own domains, or the one model."""
    edges = notes["figures"].get("edges")
    if edges:
        return float(np.exp(np.mean([np.log(scores["own"]) for scores in edges.values()])))
    return float(notes["figures"]["cloud"]["all"])


def _reach(own: Mapping[str, Any], flat: Mapping[str, Any]) -> float | None:
    """Uplink bits until validation perplexity is at most flat's last, over flat's bits; None where it never is."""
    goal, sent = _known(flat["knowledge"]["rounds"][-1]), 0.0
    for notes in own["knowledge"]["rounds"]:
        sent += notes["uplink_bit"]
        if _known(notes) <= goal:
            return sent / float(flat["knowledge"]["uplink_bit"])
    return None


def _trouble(base: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    clean = [_run(base, seed, "knowledge.ranks=[4,8,16]") for seed in seeds]
    hurt = [_run(base, seed, *TROUBLE, POISON) for seed in seeds]
    ratio = [
        bad["knowledge"]["final"]["perplexity"] / good["knowledge"]["final"]["perplexity"]
        for bad, good in zip(hurt, clean, strict=True)
    ]
    _interval(found, "trouble.perplexity_ratio", ratio)
    poisoned = hurt[0]["knowledge"]["domains"][2]
    named = [
        float(np.mean([poisoned in notes["figures"].get("suspected", ()) for notes in report["knowledge"]["rounds"]]))
        for report in hurt
    ]
    _interval(found, "trouble.named", named)
    return found


def _private(base: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    plain = [_run(base, seed, PRIVATE[0]) for seed in seeds]
    noisy = [_run(base, seed, *PRIVATE) for seed in seeds]
    ratio = [
        bad["knowledge"]["final"]["perplexity"] / good["knowledge"]["final"]["perplexity"]
        for bad, good in zip(noisy, plain, strict=True)
    ]
    _interval(found, "private.perplexity_ratio", ratio)
    return found


def _loop(base: Sequence[str], seeds: Sequence[int], closed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    still = [_run(base, seed, "knowledge.closed=false", "knowledge.test=1") for seed in seeds]
    for figure in ("satisfaction", "share_on_ends"):
        rise = [[_rise(report, figure) for report in reports] for reports in (closed, still)]
        made = paired(*rise)
        if made.mean is not None:
            found[f"loop.{figure}"] = made.mean
        if made.half_width is not None:
            found[f"loop.{figure}.ci95"] = made.half_width
    public = [
        report["knowledge"]["rounds"][-1]["figures"]["cloud"]["public"]
        / report["knowledge"]["start"]["cloud"]["public"]
        for report in closed
    ]
    _interval(found, "loop.public_ratio", public)
    return found


def _rise(report: Mapping[str, Any], figure: str) -> float | None:
    periods = report["knowledge"]["periods"]
    first, last = periods[0][figure], periods[-1][figure]
    return None if first is None or last is None else float(last - first)


def _placed(base: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    """The same rounds with learning placed by ``price`` and fixed; nothing is scored but the services."""
    found: dict[str, float] = {}
    light = [*base, "knowledge.test=1", "knowledge.distillation.steps=0", "knowledge.incentive.budget=0"]
    served = [
        [
            _run(light, seed, f"demand.services.learning.placement={placement}")["knowledge"]["services_satisfaction"]
            for seed in seeds
        ]
        for placement in ("matched", "nearest")
    ]
    made = paired(*served)
    if made.mean is not None:
        found["placed.services"] = made.mean
    if made.half_width is not None:
        found["placed.services.ci95"] = made.half_width
    return found
