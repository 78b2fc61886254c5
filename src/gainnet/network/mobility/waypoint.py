"""Random waypoint: ends that walk to a random place, pause, and walk to the next."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.network.mobility.movement_kernel import roam
from gainnet.scenario.network import WaypointMobility


class Waypoint:
    """Ends start anywhere in the area, on their way; targets, speeds and pauses are uniform."""

    def __init__(
        self,
        config: WaypointMobility,
        area_m: tuple[float, float, float, float],
        ends: int,
        generator: np.random.Generator,
        frame_s: float,
    ) -> None:
        """``area_m`` is (xmin, ymin, xmax, ymax)."""
        self._generator, self._frame_s = generator, frame_s
        self._area = np.array(area_m)
        self._bounds = np.array([config.speed_min_m_per_s, config.speed_max_m_per_s, config.pause_max_s])
        size = self._area[2:] - self._area[:2]
        self._position = self._area[:2] + size * generator.random((ends, 2))
        self._target = self._area[:2] + size * generator.random((ends, 2))
        self._speed = generator.uniform(self._bounds[0], self._bounds[1], ends)
        self._pause_s = np.zeros(ends)
        self._velocity = np.zeros((ends, 2))
        self._started = False

    def step(self) -> tuple[Float[np.ndarray, "user 2"], Float[np.ndarray, "user 2"]]:
        """Position (m) and velocity (m/s) at the next frame."""
        roam(
            self._target, self._speed, self._pause_s, self._area, self._bounds,
            self._frame_s if self._started else 0.0, self._position, self._velocity,
            self._generator.random((len(self._speed), 4)),
        )  # fmt: skip
        self._started = True
        return self._position.copy(), self._velocity.copy()
