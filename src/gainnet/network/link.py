"""From received powers to rates: noise, effective SINR under frequency-selective fading, and spectral efficiency."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.special import j0

from gainnet.rng import stream
from gainnet.scenario.network import Radio
from gainnet.units import BOLTZMANN_J_PER_K, SPEED_OF_LIGHT_M_PER_S, db_to_linear, dbm_to_w, linear_to_db

ROOM_K = 290.0
SUBCARRIERS_PER_BLOCK = 12

# Best throughput over the modulation and coding schemes of TS 38.214 table 5.1.3.1-2 at 10 % block errors, measured
# with Sionna's PDSCH block-error curves; the first point is the lowest scheme (120/1024 QPSK) at the same 0.6 of
# Shannon.
SINR_DB = np.array([-5.1, 0.0, 4.0, 10.0, 16.0, 20.0, 26.0])
BIT_PER_S_HZ = np.array([0.2344, 0.60, 1.42, 2.73, 4.47, 5.55, 7.15])

# Nominal efficiency of the 28 schemes of that table, and the EESM parameter fitted to each.
# fmt: off
SCHEME_BIT_PER_S_HZ = np.array([
    0.2344, 0.3770, 0.6016, 0.8770, 1.1758, 1.4766, 1.6953, 1.9141, 2.1602, 2.4063, 2.5703, 2.7305, 3.0293, 3.3223,
    3.6094, 3.9023, 4.2129, 4.5234, 4.8164, 5.1152, 5.3320, 5.5547, 5.8906, 6.2266, 6.5703, 6.9141, 7.1602, 7.4063,
])
SCHEME_BETA = np.array([
    1.60, 1.63, 1.67, 1.73, 1.79, 4.27, 4.71, 5.16, 5.66, 6.16, 6.50, 10.97, 12.92, 14.96,
    17.06, 19.33, 21.85, 24.51, 27.14, 29.94, 56.48, 65.00, 78.58, 92.48, 106.27, 118.74, 126.36, 132.54,
])
# fmt: on

LADDER_START_DB, LADDER_STEP_DB, LADDER_ROWS = -15.0, 0.5, 131
LADDER_DRAWS = 2000


def noise_w(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Thermal noise ``k T B`` at 290 K times the receiver's noise figure: -174 dBm/Hz + 10 lg B + NF."""
    return BOLTZMANN_J_PER_K * ROOM_K * bandwidth_hz * db_to_linear(noise_figure_db)


def block_hz(radio: Radio) -> float:
    """Width of a resource block, 12 subcarriers (TS 38.211 clause 4.4.4.1)."""
    return SUBCARRIERS_PER_BLOCK * radio.subcarrier_hz


def blocks(radio: Radio) -> int:
    """Whole resource blocks in the band; guard bands are not subtracted."""
    return int(radio.bandwidth_hz / block_hz(radio) + 1e-9)


def efficiency_bit_per_s_hz(sinr_db: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Spectral efficiency at an effective SINR: zero below the lowest scheme (-5.1 dB), 7.15 at most.

    Linear in dB between the measured points. Block errors are in it (it is throughput at 10 % errors of the first
    transmission); reference signals and control channels are not: subtract them nowhere else twice.
    """
    return np.asarray(np.where(np.less(sinr_db, SINR_DB[0]), 0.0, np.interp(sinr_db, SINR_DB, BIT_PER_S_HZ)))


def beta(sinr_db: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """EESM parameter of the scheme that the mean SINR would carry.

    Values per scheme from Lagen et al., "New Radio Physical Layer Abstraction for System-Level Simulations of 5G
    Networks" (arXiv 2001.10309), MCS table 2; between schemes by nominal efficiency.
    """
    return np.asarray(np.interp(np.interp(sinr_db, SINR_DB, BIT_PER_S_HZ), SCHEME_BIT_PER_S_HZ, SCHEME_BETA))


def effective_sinr(
    sinr: Float[np.ndarray, "*link sample"], parameter: Float[np.ndarray, "*link"]
) -> Float[np.ndarray, "*link"]:
    """Exponential effective SINR, ``-beta ln(mean_k exp(-sinr_k / beta))``; all linear.

    Equal samples give themselves; the result lies between the smallest and the mean. The smallest is taken out of the
    exponentials, so large SINRs do not underflow.
    """
    least = sinr.min(axis=-1, keepdims=True)
    mean = np.exp(-(sinr - least) / parameter[..., None]).mean(axis=-1)
    return np.asarray(least[..., 0] - parameter * np.log(mean))


def rician_power(k: float, normals: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, ...]:
    """Power of a Rician fading amplitude with ratio ``k`` (0: Rayleigh) from two standard normals; its mean is 1."""
    ahead = np.sqrt(k / (k + 1.0)) + normals[..., 0] * np.sqrt(0.5 / (k + 1.0))
    return np.asarray(np.square(ahead) + np.square(normals[..., 1]) * 0.5 / (k + 1.0))


def ladder(radio: Radio) -> Float[np.ndarray, "sinr 4"]:
    """What the kernels need of the link at mean SINR -15, -14.5, ... 50 dB.

    Columns: efficiency of a flat channel (below the lowest scheme that scheme's), EESM parameter, and the efficiency
    expected over the fading without and with line of sight (2,000 draws of ``fading_samples``, the same in every run).
    Runs of the same radio share it: not to be written to.
    """
    return _ladder(radio.fading_samples, radio.rician_k_db)


@lru_cache(maxsize=16)
def _ladder(samples: int, rician_k_db: float) -> Float[np.ndarray, "sinr 4"]:
    """The ladder of that many fading samples; it is most of the time that building a run takes, so it is kept."""
    sinr_db = LADDER_START_DB + LADDER_STEP_DB * np.arange(LADDER_ROWS, dtype=np.float64)
    parameter = beta(sinr_db)
    normals = stream(0, "ladder").standard_normal((LADDER_DRAWS, 1, samples, 2))
    expected = []
    for k in (0.0, db_to_linear(rician_k_db)):
        faded = np.power(10.0, sinr_db / 10.0)[None, :, None] * rician_power(k, normals)
        effective = effective_sinr(faded, np.broadcast_to(parameter, faded.shape[:2]))
        expected.append(efficiency_bit_per_s_hz(linear_to_db(np.maximum(effective, 1e-12))).mean(axis=0))
    flat = np.interp(sinr_db, SINR_DB, BIT_PER_S_HZ)
    return np.ascontiguousarray(np.stack([flat, parameter, *expected], axis=-1))


def ladder_grid() -> Float[np.ndarray, " 4"]:
    """Where the ladder's rungs are, for ``link_kernel.climb``."""
    neper_per_db = np.log(10.0) / 10.0
    first, last = db_to_linear(SINR_DB[0]), db_to_linear(SINR_DB[-1])
    return np.array([LADDER_START_DB * neper_per_db, 1.0 / (LADDER_STEP_DB * neper_per_db), first, last])


def doppler(carrier_hz: float, frame_s: float) -> Float[np.ndarray, " row"]:
    """Correlation of fading over a frame by speed: ``max(J0(2 pi v f T / c), 0)`` (Jakes).

    First the rows per m/s, then the rows, 0.05 rad apart up to 50 rad and 0 beyond, where it is less than 0.12.
    """
    phase = 0.05 * np.arange(1000)
    correlation = np.maximum(j0(phase), 0.0)
    correlation[-3:] = 0.0
    per_speed = 2.0 * np.pi * carrier_hz * frame_s / (SPEED_OF_LIGHT_M_PER_S * 0.05)
    return np.concatenate([[per_speed], correlation])


def power_control(radio: Radio) -> Float[np.ndarray, " 3"]:
    """(P0 in W, alpha, limit in W) of the uplink, per resource block.

    An end may be given any part of the band, so its largest power is spread over the whole band: no schedule of the
    frame can then ask for more than ``end_power_max_dbm`` (TS 38.213 clause 7.1.1 with M the whole band).
    """
    limit_w = dbm_to_w(radio.end_power_max_dbm) / blocks(radio)
    return np.array([dbm_to_w(radio.power_control_p0_dbm), radio.power_control_alpha, limit_w])


def fading_spread(radio: Radio) -> Float[np.ndarray, " 2"]:
    """Variance of the power of one fading sample without and with line of sight: 1 and ``(2K + 1)/(K + 1)^2``."""
    k = db_to_linear(radio.rician_k_db)
    return np.array([1.0, (2.0 * k + 1.0) / (k + 1.0) ** 2])
