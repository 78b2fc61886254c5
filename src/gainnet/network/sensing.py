"""Sensing: the OFDM radar of a scenario, what its levels cost, and what sounding a channel teaches.

Scalar formulas for the loop are in `gainnet.network.sensing_kernel`; here are the scenario's constants and the array
formulas that set-up, reports and tests use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import chndtr

from gainnet.errors import ScenarioError
from gainnet.network.sensing_kernel import SUBCARRIERS_PER_BLOCK
from gainnet.scenario.network import Network
from gainnet.units import SPEED_OF_LIGHT_M_PER_S, db_to_linear

SYMBOLS_PER_SLOT = 14.0
CYCLIC_PREFIX_FRACTION = 144.0 / 2048.0


@dataclass(frozen=True, slots=True)
class Radar:
    """The radar of a scenario in linear SI units, and its sensing levels.

    Attributes:
        wavelength_m: of the carrier.
        subcarrier_hz: subcarrier spacing.
        symbol_s: OFDM symbol with its cyclic prefix.
        end_gain: transmit times receive antenna gain of an end's radar.
        cell_gain: likewise of a cell's.
        end_noise_figure: linear.
        cell_noise_figure: linear.
        cross_section_m2: radar cross-section of the target.
        false_alarm_probability: for each detection.
        range_error_max_m: range error at which a located target still counts.
        block: resource blocks of each level.
        symbol: symbols of each level.
        cost_block_s: resource-block-seconds of each level, ``blocks symbols symbol_s``.
    """

    wavelength_m: float
    subcarrier_hz: float
    symbol_s: float
    end_gain: float
    cell_gain: float
    end_noise_figure: float
    cell_noise_figure: float
    cross_section_m2: float
    false_alarm_probability: float
    range_error_max_m: float
    block: Int[np.ndarray, " level"]
    symbol: Int[np.ndarray, " level"]
    cost_block_s: Float[np.ndarray, " level"]


def build(config: Network) -> Radar:
    """The radar of a scenario's network.

    Raises:
        ScenarioError: a level needs more resource blocks than the band has.
    """
    radio, sensing = config.radio, config.sensing
    blocks = int(radio.bandwidth_hz / (SUBCARRIERS_PER_BLOCK * radio.subcarrier_hz))
    if max(sensing.blocks) > blocks:
        raise ScenarioError(
            f"network.sensing.blocks: a level takes {max(sensing.blocks)} resource blocks, but the band has {blocks}"
        )
    block = np.array(sensing.blocks, dtype=np.int64)
    symbol = np.array(sensing.symbols, dtype=np.int64)
    symbol_s = symbol_duration_s(radio.subcarrier_hz)
    return Radar(
        wavelength_m=SPEED_OF_LIGHT_M_PER_S / radio.carrier_hz,
        subcarrier_hz=radio.subcarrier_hz,
        symbol_s=symbol_s,
        end_gain=db_to_linear(2.0 * sensing.end_radar_gain_dbi),
        cell_gain=db_to_linear(2.0 * sensing.radar_carrier_gain_dbi),
        end_noise_figure=db_to_linear(radio.end_noise_figure_db),
        cell_noise_figure=db_to_linear(radio.cell_noise_figure_db),
        cross_section_m2=db_to_linear(sensing.target_cross_section_dbsm),
        false_alarm_probability=sensing.false_alarm_probability,
        range_error_max_m=sensing.range_error_max_m,
        block=block,
        symbol=symbol,
        cost_block_s=(block * symbol) * symbol_s,
    )


def symbol_duration_s(subcarrier_hz: float) -> float:
    """An OFDM symbol with its cyclic prefix: a slot of ``1 ms / (df / 15 kHz)`` holds 14 (TS 38.211, 4.3.2)."""
    return 15.0 / subcarrier_hz / SYMBOLS_PER_SLOT


def marcum_detection_probability(
    snr: Float[np.ndarray, "*shape"], false_alarm_probability: float
) -> Float[np.ndarray, "*shape"]:
    """Detection of a target that does not fluctuate: ``P_d = Q_1(sqrt(2 S), sqrt(-2 ln P_fa))``.

    Q_1 is the survival function of a noncentral chi-square of two degrees of freedom (Richards, section 6.3).
    """
    return 1.0 - chndtr(-2.0 * np.log(false_alarm_probability), 2.0, 2.0 * snr)


def range_resolution_m(bandwidth_hz: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Range at which two targets come apart: ``c / (2 B)``."""
    return SPEED_OF_LIGHT_M_PER_S / (2.0 * bandwidth_hz)


def velocity_resolution_m_per_s(
    wavelength_m: float, symbol: Float[np.ndarray, "*shape"], symbol_s: float
) -> Float[np.ndarray, "*shape"]:
    """Radial velocity at which two targets come apart: ``lambda / (2 M T)``."""
    return wavelength_m / (2.0 * symbol * symbol_s)


def unambiguous_range_m(subcarrier_hz: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Largest range without ambiguity or inter-symbol interference: ``min(c / (2 df), c T_cp / 2)``.

    The normal cyclic prefix is 144 / 2048 of the useful symbol (TS 38.211, 5.3.1), so the second term is the smaller.
    """
    period_m = SPEED_OF_LIGHT_M_PER_S / (2.0 * subcarrier_hz)
    return np.minimum(period_m, CYCLIC_PREFIX_FRACTION * period_m)


def mutual_information_bit(rho: Float[np.ndarray, "*shape subcarrier"], symbol: float) -> Float[np.ndarray, "*shape"]:
    """What a coherent interval of M symbols says about a Gaussian target response: ``sum_k log2(1 + M rho_k)``.

    Bell, Information theory and radar waveform design, IEEE Trans. IT 39(5), 1993.
    """
    bits: Float[np.ndarray, "*shape"] = np.asarray(np.sum(np.log2(1.0 + symbol * rho), axis=-1))
    return bits


def gain_variance(snr: Float[np.ndarray, "*shape"], pilot: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Relative variance of a channel gain measured with so many pilot resource elements of that SNR (both > 0).

    The least-squares channel estimate has error variance ``1 / x`` with ``x = pilots snr``; its squared magnitude less
    that bias has relative variance ``2 / x + 1 / x^2``, exactly.
    """
    information = pilot * snr
    variance: Float[np.ndarray, "*shape"] = 2.0 / information + 1.0 / information**2
    return variance


def gain_error_db(snr: Float[np.ndarray, "*shape"], pilot: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Standard deviation of a measured gain in dB, ``10 / ln 10 sqrt(gain_variance)``: first order, for small errors.

    One resource block of one symbol carries twelve pilots.
    """
    error_db: Float[np.ndarray, "*shape"] = 10.0 / np.log(10.0) * np.sqrt(gain_variance(snr, pilot))
    return error_db
