"""Ends that follow recorded tracks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


class Replay:
    """Replays positions and velocities sampled once a frame; after the last sample the ends stand there."""

    def __init__(self, tracks: Float[np.ndarray, "frame user 4"]) -> None:
        """``tracks`` holds x, y (m) and their velocities (m/s)."""
        self._tracks = tracks
        self._frame = -1

    def step(self) -> tuple[Float[np.ndarray, "user 2"], Float[np.ndarray, "user 2"]]:
        """Position (m) and velocity (m/s) at the next frame."""
        self._frame += 1
        if self._frame < len(self._tracks):
            now = self._tracks[self._frame]
            return now[:, :2].copy(), now[:, 2:].copy()
        last = self._tracks[-1]
        return last[:, :2].copy(), np.zeros((len(last), 2))
