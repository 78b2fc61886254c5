"""Draws what `gainnet bench medical --resume DIR` learnt from recorded dialogues, round by round: medical.csv, medical.svg.

python docs/results/arms.py DIR
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
from medical import ARMS, known  # noqa: E402

COLOURS = dict(zip(ARMS, ("#888888", "#b35900", "#0b6bcb", "#333333"), strict=True))
HEAD = ("arm", "seed", "round", "validation_perplexity", "uplink_mbit", "simulated_s")
Row = tuple[str, int, int, float, float, float]


def rows(folder: Path) -> list[Row]:
    """Every round of every run in a folder that learnt from recorded dialogues."""
    found: list[Row] = []
    for path in sorted(folder.glob("*/report.json")):
        config = yaml.safe_load((path.parent / "scenario.yaml").read_text())["knowledge"]
        report = json.loads(path.read_text())
        if config["data"]["kind"] != "recorded" or not report["knowledge"]["complete"]:
            continue
        for notes in report["knowledge"]["rounds"]:
            took, sent = notes["close_s"] - notes["start_s"], notes["uplink_bit"] / 1e6
            found.append((config["arm"], report["seed"], notes["number"], known(notes), sent, took))
    return sorted(found)


def draw(found: list[Row], file: Path) -> None:
    """Validation perplexity by round, and by what ends have sent."""
    runs = defaultdict(list)
    for arm, seed, *rest in found:
        runs[arm, seed].append(rest)
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "medical"}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for (arm, seed), rounds in sorted(runs.items()):
        number, perplexity, sent, _ = np.array(rounds, float).T
        style = {"color": COLOURS[arm], "label": arm if not seed else None, "marker": ".", "linewidth": 1.2}
        axes[0].plot(number + 1, perplexity, **style)
        if sent.sum() > 0.0 and arm != "central":
            axes[1].plot(sent.cumsum(), perplexity, **style)
    ticks = (15, 20, 30, 40)
    axes[0].set(xlabel="round", ylabel="validation perplexity", yscale="log", yticks=ticks, yticklabels=ticks)
    axes[1].set(xlabel="sent by ends, Mbit")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[1].legend(handles, labels, frameon=False)
    for ax in axes:
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    made = rows(Path(sys.argv[1]))
    with (HERE / "medical.csv").open("w", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows((a, s, n, round(p, 3), round(b, 3), round(t, 1)) for a, s, n, p, b, t in made)
    draw(made, HERE / "medical.svg")
