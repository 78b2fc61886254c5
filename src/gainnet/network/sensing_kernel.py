"""OFDM radar on plain floats, compiled so that it inlines into the loop: echo SNR, detection, accuracy.

N subcarriers, M symbols, rho the SNR of one resource element; ``S = rho N M`` is the SNR after coherent integration.
Everything is linear and SI. Sources: radar equation and detection, Richards, Fundamentals of Radar Signal Processing,
chapters 2 and 6; OFDM radar bounds, Braun, OFDM Radar Algorithms in Mobile Communication Networks (KIT, 2014).
"""

from __future__ import annotations

import math

from gainnet.compiled import njit
from gainnet.units import BOLTZMANN_J_PER_K, SPEED_OF_LIGHT_M_PER_S

SUBCARRIERS_PER_BLOCK = 12.0
NOISE_W_PER_HZ = BOLTZMANN_J_PER_K * 290.0


@njit
def radar_snr(
    power_w: float,
    gain: float,
    wavelength_m: float,
    cross_section_m2: float,
    range_m: float,
    noise_figure: float,
    subcarrier_hz: float,
) -> float:
    """SNR rho of one resource element of a monostatic echo.

    ``rho = (P / 12) G lambda^2 sigma / ((4 pi)^3 R^4 k T0 F df)`` with P the transmit power of one resource block and
    G the product of the transmit and receive gains.
    """
    echo_w = power_w / SUBCARRIERS_PER_BLOCK * gain * wavelength_m**2 * cross_section_m2
    return echo_w / ((4.0 * math.pi) ** 3 * range_m**4 * NOISE_W_PER_HZ * noise_figure * subcarrier_hz)


@njit
def integrated_snr(rho: float, block: float, symbol: float) -> float:
    """``S = rho N M`` of a sensing level of so many resource blocks and symbols."""
    return rho * SUBCARRIERS_PER_BLOCK * block * symbol


@njit
def detection_probability(snr: float, false_alarm_probability: float) -> float:
    """Detection of a Swerling-1 target: ``P_d = P_fa^(1 / (1 + S))`` with S its mean SNR."""
    return math.exp(math.log(false_alarm_probability) / (1.0 + snr))


@njit
def range_std_m(snr: float, block: float, subcarrier_hz: float) -> float:
    """Square root of the Cramer-Rao bound of range: ``c / (4 pi df) sqrt(6 / (S (N^2 - 1)))``; S > 0."""
    subcarriers = SUBCARRIERS_PER_BLOCK * block
    scale_m = SPEED_OF_LIGHT_M_PER_S / (4.0 * math.pi * subcarrier_hz)
    return scale_m * math.sqrt(6.0 / (snr * (subcarriers * subcarriers - 1.0)))


@njit
def velocity_std_m_per_s(snr: float, symbol: float, symbol_s: float, wavelength_m: float) -> float:
    """Square root of the bound of radial velocity: ``lambda / (4 pi T) sqrt(6 / (S (M^2 - 1)))``; S > 0, M > 1."""
    return wavelength_m / (4.0 * math.pi * symbol_s) * math.sqrt(6.0 / (snr * (symbol * symbol - 1.0)))


@njit
def perception_accuracy(
    snr: float, block: float, subcarrier_hz: float, false_alarm_probability: float, range_error_max_m: float
) -> float:
    """Probability that the target is detected and its range is right to within ``range_error_max_m``, in [0, 1].

    ``P_d erf(e / (sqrt(2) sigma_R))``: Swerling-1 detection times a Gaussian range error at its Cramer-Rao bound. The
    definition is ours; it rises with S and with the bandwidth, and is 0 without an echo. The bound is taken at the
    mean SNR, so it flatters a fluctuating target near the threshold, where P_d is the smaller factor anyway.
    """
    if snr <= 0.0:
        return 0.0
    spread_m = range_std_m(snr, block, subcarrier_hz)
    located = math.erf(range_error_max_m / (math.sqrt(2.0) * spread_m))
    return detection_probability(snr, false_alarm_probability) * located
