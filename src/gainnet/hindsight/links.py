"""The best that the radio of a run can be, whatever the network does: nobody interferes, and fading is at its kindest.

Positions, path loss, shadowing and line of sight of a run don't depend on what is decided in it; interference and, by way
of which cells are candidates, the fading do. So the mean SINR is taken without interference, and for the fading the
normals that the run draws are bounded over the candidates: the scatter that a link keeps from the last frame is one that
some candidate had, so ``M' = max(N, keep M + sqrt(1 - keep^2) N)`` bounds its parts, N being the largest of the frame's
draws over the candidates. The exponential effective SINR is at most the mean over the samples, which therefore bounds it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from gainnet.network import link
from gainnet.network.channel import NEPER_PER_DB
from gainnet.network.draws import Normals
from gainnet.rng import stream
from gainnet.scenario.network import Network as NetworkConfig
from gainnet.units import db_to_linear


class Fading:
    """Bounds the mean power of the fading samples of every end, frame by frame, over all the candidates it could have."""

    def __init__(self, config: NetworkConfig, *, seed: int, frame_s: float) -> None:
        radio = config.radio
        self._shape = (config.ends, radio.candidates, radio.fading_samples, 2)
        self._normals = Normals(stream(seed, "fading"))
        self._doppler = link.doppler(radio.carrier_hz, frame_s)
        self._most = np.zeros((config.ends, radio.fading_samples, 2))
        self._ratios = (0.0, db_to_linear(radio.rician_k_db))

    def advance(self, velocity_m_per_s: Float[np.ndarray, "user 2"]) -> Float[np.ndarray, "state user"]:
        """The bound in the next frame, without and with line of sight (linear, 1 is the mean)."""
        drawn = np.abs(self._normals.take(int(np.prod(self._shape))).reshape(self._shape)).max(axis=1)
        rows = self._doppler[1:]
        place = np.minimum(np.hypot(*velocity_m_per_s.T) * self._doppler[0], len(self._doppler) - 2.5)
        kept = np.interp(place, np.arange(len(rows)), rows)[:, None, None]
        self._most = np.maximum(drawn, kept * self._most + np.sqrt(1.0 - kept * kept) * drawn)
        return np.stack([self._power(ratio) for ratio in self._ratios])

    def _power(self, ratio: float) -> Float[np.ndarray, " user"]:
        ahead, scatter = np.sqrt(ratio / (ratio + 1.0)), np.sqrt(0.5 / (ratio + 1.0))
        power = (ahead + scatter * self._most[..., 0]) ** 2 + (scatter * self._most[..., 1]) ** 2
        return np.asarray(power.mean(axis=-1))


def efficiency(
    level: Float[np.ndarray, "user slot"],
    clear: Bool[np.ndarray, "user slot"],
    power: Float[np.ndarray, "state user"],
    flat: Float[np.ndarray, " rung"],
) -> Float[np.ndarray, " user"]:
    """Greatest spectral efficiency of any link of each end, in bit/s/Hz, 0 without service.

    ``level`` is the mean SINR (natural logarithm), ``power`` what fading may multiply it by, and ``flat`` the efficiency of
    a flat channel at the rungs of ``link.ladder``, between which links interpolate.
    """
    blocked, ahead = np.log(power)[:, :, None]
    sinr_db = (level + np.where(clear, ahead, blocked)).max(axis=1) / NEPER_PER_DB
    rungs_db = link.LADDER_START_DB + link.LADDER_STEP_DB * np.arange(len(flat))
    return np.where(sinr_db < link.SINR_DB[0] - 1e-9, 0.0, np.interp(sinr_db, rungs_db, flat))


def most_over(
    values: Float[np.ndarray, "frame user"],
    user: Int[np.ndarray, " task"],
    first: Int[np.ndarray, " task"],
    last: Int[np.ndarray, " task"],
) -> Float[np.ndarray, " task"]:
    """Maximum of each task's user over its frames ``first..last``; 0 where there are none.

    By doubling: the maxima over 1, 2, 4, ... frames, of which two cover any window.
    """
    found = np.zeros(len(user))
    length = last - first + 1
    level = np.floor(np.log2(np.maximum(length, 1))).astype(np.int64)
    table, span = values, 1
    for power in range(int(level.max(initial=0)) + 1):
        if power > 0:
            table = np.maximum(table[: len(table) - span], table[span:])
            span *= 2
        some = np.flatnonzero((level == power) & (length > 0))
        found[some] = np.maximum(table[first[some], user[some]], table[last[some] - span + 1, user[some]])
    return found
