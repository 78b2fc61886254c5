"""Run as a program: record a SUMO simulation to a file. One process a simulation, as libsumo demands.

``python -P sumo_recorder.py CONFIG BEGIN_S|none WARMUP_S SECONDS OUT.npy`` writes float32 [second, vehicle, 2], nan
while a vehicle is off the road, vehicles in the order in which they first appear.
"""

from __future__ import annotations

import sys

import libsumo
import numpy as np


def main(config: str, begin_s: str, warmup_s: str, seconds: str, out: str) -> None:
    """Simulate from the configuration's begin, and record ``seconds`` samples from ``begin_s`` on."""
    libsumo.start(["sumo", "-c", config, "--no-step-log", "--no-warnings", "--step-length", "1"])
    start_s = libsumo.simulation.getTime() + float(warmup_s) if begin_s == "none" else float(begin_s)
    libsumo.simulationStep(start_s)
    column: dict[str, int] = {}
    rows: list[list[tuple[int, float, float]]] = []
    for _ in range(int(seconds)):
        row = []
        for vehicle in libsumo.vehicle.getIDList():
            x_m, y_m = libsumo.vehicle.getPosition(vehicle)
            row.append((column.setdefault(vehicle, len(column)), x_m, y_m))
        rows.append(row)
        libsumo.simulationStep()
    libsumo.close()
    recording = np.full((len(rows), len(column), 2), np.nan, dtype=np.float32)
    for second, row in enumerate(rows):
        for vehicle_column, x_m, y_m in row:
            recording[second, vehicle_column] = x_m, y_m
    np.save(out, recording)


if __name__ == "__main__":
    main(*sys.argv[1:])
