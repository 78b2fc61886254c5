"""Vehicles on the street grid of a Manhattan topology."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from gainnet.network.mobility.movement_kernel import drive
from gainnet.scenario.network import Manhattan, ManhattanMobility

LANE_M = 1.75
SPEED_MIN_M_PER_S = 1.0


class Street:
    """Each vehicle keeps its own speed, normal about the mean and at least 1 m/s, and the right-hand lane.

    At a corner it turns with ``turn_probability``, left and right alike, and always where its street ends.
    """

    def __init__(
        self, config: ManhattanMobility, grid: Manhattan, ends: int, generator: np.random.Generator, frame_s: float
    ) -> None:
        """Vehicles start anywhere on the streets, by length, in either direction."""
        self._generator, self._turn = generator, config.turn_probability
        self._blocks = np.array([grid.blocks_x, grid.blocks_y], dtype=np.int64)
        self._block_m = np.array([grid.block_x_m, grid.block_y_m])
        level_m = grid.blocks_x * grid.block_x_m * (grid.blocks_y + 1)
        upright_m = grid.blocks_y * grid.block_y_m * (grid.blocks_x + 1)
        axis = (generator.random(ends) * (level_m + upright_m) >= level_m).astype(np.int64)
        back = generator.integers(0, 2, ends)
        along, across = self._blocks[axis], self._blocks[1 - axis]
        self._corner = np.empty((ends, 2), dtype=np.int64)
        users = np.arange(ends)
        self._corner[users, axis] = np.floor(generator.random(ends) * along).astype(np.int64) + back
        self._corner[users, 1 - axis] = np.floor(generator.random(ends) * (across + 1)).astype(np.int64)
        self._heading = axis + 2 * back
        self._past_m = generator.random(ends) * self._block_m[axis]
        drawn = config.speed_mean_m_per_s + config.speed_std_m_per_s * generator.standard_normal(ends)
        reach = 3.0 * config.speed_std_m_per_s
        least = min(SPEED_MIN_M_PER_S, config.speed_mean_m_per_s)
        self._speed = np.clip(drawn, least, config.speed_mean_m_per_s + reach)
        self._steps = max(1, math.ceil(self._speed.max() * frame_s / self._block_m.min()))
        self._step_s = frame_s / self._steps
        self._started = False

    def step(self) -> tuple[Float[np.ndarray, "user 2"], Float[np.ndarray, "user 2"]]:
        """Position (m) and velocity (m/s) at the next frame."""
        position, velocity = np.empty((len(self._speed), 2)), np.empty((len(self._speed), 2))
        for _ in range(self._steps):
            drive(
                self._corner, self._heading, self._past_m, self._speed, self._block_m, self._blocks, LANE_M, self._turn,
                self._step_s if self._started else 0.0, position, velocity, self._generator.random(position.shape),
            )  # fmt: skip
        self._started = True
        return position, velocity
