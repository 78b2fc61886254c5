"""Makes the studies of this folder again: each is one `gainnet compare`, kept as its table, its command and its curves.

python docs/results/make.py [NAME ...]
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALONE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
ABLATIONS = [
    *("--arm", "siloed=orchestrator.pools=siloed"),
    *("--arm", "serial=orchestrator.frame=serial"),
    *("--arm", "myopic=orchestrator.foresight=0"),
]
FAULTS = (
    "execution.faults=[{kind: edge_down, edge: 4, begin_s: 10, end_s: 30}, "
    "{kind: cell_outage, cell: 7, begin_s: 15, end_s: 35}, {kind: sensing_outage, begin_s: 25, end_s: 30}, "
    "{kind: demand_surge, factor: 2.5, begin_s: 35, end_s: 45}, "
    "{kind: link_degradation, factor: 0.05, begin_s: 45, end_s: 55}]"
)
KEPT = ("satisfaction", "latency p50", "energy a task", "cost", "gap")
ALL = "end,nearest,cloud,greedy,price"
NARROW = ["--set", "network.sensing.blocks=[4, 8, 12]"]
SWEPT = ["--matchers", "cloud,greedy,price", "--seeds", "3", "--set", "duration_s=20"]
STALE = [x for s in (0.1, 0.2, 0.5, 1, 2) for x in ("--arm", f"local {s} s=orchestrator.matcher.staleness_s={s}")]
TIMED = ["--seeds", "5", "--workers", "1"]
OUTAGE = "[{kind: controller_outage, begin_s: 10, end_s: 20}]"
STUDIES: dict[str, tuple[str, list[str]]] = {
    "vehicular": (
        "Matchers on `vehicular`, with the ablations",
        ["vehicular", "--matchers", ALL, *ABLATIONS, "--seeds", "10"],
    ),
    "faults": (
        "The same under faults: an edge down, a cell out, sensing out, a surge of demand, thin backhaul",
        ["vehicular", "--matchers", ALL, *ABLATIONS, "--seeds", "10", "--set", FAULTS],
    ),
    "dense": (
        "Overload: `vehicular-dense`",
        ["vehicular-dense", "--matchers", ALL, *ABLATIONS, "--seeds", "5", "--set", "duration_s=20"],
    ),
    "cost": (
        "Cost against performance: the weight of cost in the objective",
        ["vehicular", *SWEPT, "--sweep", "orchestrator.objective.cost_weight=0.3,1,3,10,30,100"],
    ),
    "bandwidth": (
        "Scarce radio: the bandwidth of every cell",
        ["vehicular", *SWEPT, "--sweep", "network.radio.bandwidth_hz=5e6,7e6,10e6,20e6,40e6", *NARROW],
    ),
    "edges": (
        "Scarce edge compute: cells that share one edge machine, with a cloud of one accelerator",
        ["vehicular", *SWEPT, "--set", "network.cloud.count=1", "--sweep", "network.cells_per_edge=1,2,4,7,13"],
    ),
    "demand": (
        "Demand: perception requests of each vehicle a second",
        ["vehicular", *SWEPT, "--sweep", "demand.services.perception.arrivals.rate_per_end_per_s=0.5,1,2,4,6"],
    ),
    "sensing": (
        "What sensing buys: the share of the band that may go to sounding",
        ["vehicular", *SWEPT, "--sweep", "network.sensing.sounding_share=0.0005,0.002,0.01,0.04,0.2"],
    ),
    "learned": (
        "Learned matchers in overload, on seeds that nothing was trained on",
        ["vehicular-dense", "--matchers", "greedy,neural,diffusion,drl,price", "--seeds", "10", "--seed", "9001"],
    ),
    "staleness": (
        "Local decisions: the loss of QoS when broadcasts are heard late, in overload",
        ["vehicular-dense", "--matchers", "price,local", *STALE, *TIMED, "--set", "duration_s=20"],
    ),
    "outage": (
        "No controller for 10 s of 30 s, in overload: every edge answers by itself at the last broadcast",
        [
            "vehicular-dense",
            "--matchers",
            "greedy,price",
            "--sweep",
            f"execution.faults=[],{OUTAGE}",
            *TIMED,
            "--set",
            "duration_s=30",
        ],
    ),
}


def make(name: str) -> None:
    """Run one study and keep its table and curves."""
    title, arguments = STUDIES[name]
    out = HERE.parents[1] / "runs" / "results" / name
    gainnet = Path(sys.executable).parent / "gainnet"
    command = [str(gainnet), "compare", *arguments, "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    table = "\n".join(
        line.rstrip() for line in done.stdout.splitlines() if not line.startswith(("comparison:", "one run"))
    )
    page = (out / "compare.html").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w+);", page)[::-1])
    links = []
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        label = re.search(r'aria-label="([^"]*)"', picture)
        what = label[1].split(" of ")[0] if label else "curve"
        if what not in KEPT:
            continue
        file = HERE / f"{name}-{what.replace(' ', '-')}.svg"
        alone = re.sub(r"var\(--(\w+)\)", lambda match: colours.get(match[1], "#000"), picture)
        file.write_text(alone.replace("<svg ", f'<svg {ALONE} width="560" ', 1) + "\n")
        links.append(f"![{what}]({file.name})")
    shown = shlex.join(["gainnet", "compare", *arguments])
    parts = [f"# {title}", f"```\n{shown}\n```", f"```\n{table.strip()}\n```", *links]
    (HERE / f"{name}.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    for study in sys.argv[1:] or STUDIES:
        sys.stderr.write(f"{study}\n")
        make(study)
