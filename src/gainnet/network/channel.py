"""Propagation of TR 38.901: path loss, line of sight, shadowing, buildings and antennas, as functions of arrays.

Losses and gains are in dB here, where the standard gives them so; ``tabulate`` turns them into the natural logarithms
of power ratios that the kernels read. Distances in m, frequencies in Hz, angles in rad. Path-loss functions take
broadcastable arrays and return the broadcast shape; none raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtri

from gainnet.scenario.network import Radio
from gainnet.units import SPEED_OF_LIGHT_M_PER_S

Place = Literal["umi", "uma", "rma"]
Reals = Float[np.ndarray, "..."] | float

ELEMENT_GAIN_DBI = 8.0
BEAMWIDTH_RAD = float(np.deg2rad(65.0))
ATTENUATION_MAX_DB = 30.0
NEPER_PER_DB = float(np.log(10.0) / 10.0)
# The smooth field (1 + x) exp(-x) behind the line-of-sight state falls to 1/e, where TR 38.901 defines the correlation
# distance, at x = 2.146 of its lengths.
SMOOTH_LENGTHS = 2.1462
BUILDING_HEIGHT_M = 5.0
STREET_WIDTH_M = 20.0


@dataclass(frozen=True, slots=True)
class Variation:
    """How a place varies about its path loss.

    Attributes:
        los_std_db, far_los_std_db, nlos_std_db, indoor_std_db: shadowing (TR 38.901 tables 7.4.1-1 and 7.5-6);
            ``far`` is
            past the breakpoint.
        los_correlation_m, nlos_correlation_m, indoor_correlation_m: its correlation distances (table 7.5-6).
        state_correlation_m: correlation distance of the line-of-sight state (table 7.6.3.1-2).
    """

    los_std_db: float
    far_los_std_db: float
    nlos_std_db: float
    indoor_std_db: float
    los_correlation_m: float
    nlos_correlation_m: float
    indoor_correlation_m: float
    state_correlation_m: float


VARIATIONS: Mapping[str, Variation] = {
    "umi": Variation(4.0, 4.0, 7.82, 7.0, 10.0, 13.0, 7.0, 50.0),
    "uma": Variation(4.0, 4.0, 6.0, 7.0, 37.0, 50.0, 7.0, 50.0),
    "rma": Variation(4.0, 6.0, 8.0, 8.0, 37.0, 120.0, 120.0, 60.0),
}


def _slant_m(distance_m: Reals, cell_height_m: Reals, end_height_m: Reals) -> Float[np.ndarray, ...]:
    """Three-dimensional distance from the horizontal one, at least 1 m (the models hold beyond it)."""
    square = np.square(distance_m) + np.square(np.subtract(cell_height_m, end_height_m))
    return np.asarray(np.sqrt(np.maximum(square, 1.0)))


def breakpoint_m(
    place: Place, carrier_hz: float, cell_height_m: Reals, end_height_m: Reals, clutter_height_m: Reals = 1.0
) -> Float[np.ndarray, ...]:
    """Horizontal distance at which the line-of-sight slope steepens.

    ``4 (h_BS - h_E)(h_UT - h_E) f / c`` in a city (h_E the effective environment height: 1 m in UMi, and in UMa below
    13 m), ``2 pi h_BS h_UT f / c`` in the country. Source: TR 38.901 table 7.4.1-1, notes 1 and 5.
    """
    per_m = carrier_hz / SPEED_OF_LIGHT_M_PER_S
    if place == "rma":
        return np.asarray(2.0 * np.pi * np.multiply(cell_height_m, end_height_m) * per_m)
    above = np.subtract(cell_height_m, clutter_height_m) * np.maximum(np.subtract(end_height_m, clutter_height_m), 0.0)
    return np.asarray(4.0 * above * per_m)


def _city_los_db(
    place: Place,
    distance_m: Reals,
    carrier_hz: float,
    cell_height_m: Reals,
    end_height_m: Reals,
    clutter_height_m: Reals,
) -> Float[np.ndarray, ...]:
    """UMi and UMa in line of sight: PL1 up to the breakpoint, PL2 beyond."""
    slant = _slant_m(distance_m, cell_height_m, end_height_m)
    turn = breakpoint_m(place, carrier_hz, cell_height_m, end_height_m, clutter_height_m)
    offset, slope, correction = (32.4, 21.0, 9.5) if place == "umi" else (28.0, 22.0, 9.0)
    common = offset + 20.0 * np.log10(carrier_hz / 1e9)
    square = np.square(turn) + np.square(np.subtract(cell_height_m, end_height_m))
    near = common + slope * np.log10(slant)
    far = common + 40.0 * np.log10(slant) - correction * np.log10(np.maximum(square, 1.0))
    return np.asarray(np.where(np.less_equal(distance_m, turn), near, far))


def _country_los_db(
    distance_m: Reals, carrier_hz: float, cell_height_m: Reals, end_height_m: Reals
) -> Float[np.ndarray, ...]:
    """RMa in line of sight: PL1 up to the breakpoint, then 40 dB a decade from its value there."""
    power = BUILDING_HEIGHT_M**1.72

    def near(slant: Reals) -> Float[np.ndarray, ...]:
        return np.asarray(
            20.0 * np.log10(40.0 * np.pi * np.asarray(slant) * carrier_hz / 3e9)
            + min(0.03 * power, 10.0) * np.log10(slant)
            - min(0.044 * power, 14.77)
            + 0.002 * np.log10(BUILDING_HEIGHT_M) * np.asarray(slant)
        )

    slant = _slant_m(distance_m, cell_height_m, end_height_m)
    turn = breakpoint_m("rma", carrier_hz, cell_height_m, end_height_m)
    far = near(turn) + 40.0 * np.log10(slant / turn)
    return np.asarray(np.where(np.less_equal(distance_m, turn), near(slant), far))


def los_loss_db(
    place: Place,
    distance_m: Reals,
    carrier_hz: float,
    cell_height_m: Reals,
    end_height_m: Reals,
    clutter_height_m: Reals = 1.0,
) -> Float[np.ndarray, ...]:
    """Basic path loss in line of sight at horizontal ``distance_m``. Source: TR 38.901 table 7.4.1-1."""
    if place == "rma":
        return _country_los_db(distance_m, carrier_hz, cell_height_m, end_height_m)
    return _city_los_db(place, distance_m, carrier_hz, cell_height_m, end_height_m, clutter_height_m)


def nlos_loss_db(
    place: Place,
    distance_m: Reals,
    carrier_hz: float,
    cell_height_m: Reals,
    end_height_m: Reals,
    clutter_height_m: Reals = 1.0,
) -> Float[np.ndarray, ...]:
    """Basic path loss without line of sight, never below the one with it. Source: TR 38.901 table 7.4.1-1."""
    slant = np.log10(_slant_m(distance_m, cell_height_m, end_height_m))
    carrier = np.log10(carrier_hz / 1e9)
    if place == "umi":
        loss = 35.3 * slant + 22.4 + 21.3 * carrier - 0.3 * np.subtract(end_height_m, 1.5)
    elif place == "uma":
        loss = 13.54 + 39.08 * slant + 20.0 * carrier - 0.6 * np.subtract(end_height_m, 1.5)
    else:
        height = np.log10(cell_height_m)
        loss = (
            161.04
            - 7.1 * np.log10(STREET_WIDTH_M)
            + 7.5 * np.log10(BUILDING_HEIGHT_M)
            - (24.37 - 3.7 * np.square(np.divide(BUILDING_HEIGHT_M, cell_height_m))) * height
            + (43.42 - 3.1 * height) * (slant - 3.0)
            + 20.0 * carrier
            - (3.2 * np.square(np.log10(11.75 * np.asarray(end_height_m))) - 4.97)
        )
    los = los_loss_db(place, distance_m, carrier_hz, cell_height_m, end_height_m, clutter_height_m)
    return np.asarray(np.maximum(los, loss))


def los_probability(place: Place, distance_m: Reals, end_height_m: Reals = 1.5) -> Float[np.ndarray, ...]:
    """Probability of line of sight at horizontal (outdoor) ``distance_m``.

    UMi and UMa: ``18/d + exp(-d/l)(1 - 18/d)`` with l = 36 and 63 m, 1 up to 18 m; UMa times
    ``1 + C' (5/4)(d/100)^3 exp(-d/150)`` for ends above 13 m. RMa: ``exp(-(d - 10)/1000)``.
    Source: TR 38.901 table 7.4.2-1.
    """
    if place == "rma":
        return np.asarray(np.exp(-np.maximum(np.subtract(distance_m, 10.0), 0.0) / 1000.0))
    length = 36.0 if place == "umi" else 63.0
    distance = np.maximum(distance_m, 18.0)
    ground = 18.0 / distance + np.exp(-distance / length) * (1.0 - 18.0 / distance)
    if place == "umi":
        return np.asarray(ground)
    height = np.power(np.clip(np.subtract(end_height_m, 13.0), 0.0, 10.0) / 10.0, 1.5)
    bonus = height * 1.25 * np.power(distance / 100.0, 3.0) * np.exp(-distance / 150.0)
    return np.asarray(np.where(np.less_equal(distance_m, 18.0), 1.0, np.minimum(ground * (1.0 + bonus), 1.0)))


def shadowing_std_db(
    place: Place,
    distance_m: Reals,
    los: Bool[np.ndarray, ...] | bool,
    carrier_hz: float,
    cell_height_m: float,
    end_height_m: Reals,
) -> Float[np.ndarray, ...]:
    """Standard deviation of shadowing outdoors. Source: TR 38.901 table 7.4.1-1."""
    varies = VARIATIONS[place]
    far = np.greater(distance_m, breakpoint_m(place, carrier_hz, cell_height_m, end_height_m))
    return np.asarray(np.where(los, np.where(far, varies.far_los_std_db, varies.los_std_db), varies.nlos_std_db))


def wall_loss_db(carrier_hz: float, high_loss: Bool[np.ndarray, ...] | bool) -> Float[np.ndarray, ...]:
    """Mean loss through a building's outer wall, without the loss inside.

    Low: ``5 - 10 lg(0.3 10^(-L_glass/10) + 0.7 10^(-L_concrete/10))``; high: 0.7 coated glass and 0.3 concrete. The
    standard deviation about it is 4.4 dB (low) and 6.5 dB (high). Source: TR 38.901 tables 7.4.3-1 and 7.4.3-2.
    """
    carrier = carrier_hz / 1e9
    glass, coated, concrete = (
        10.0 ** (-loss / 10.0) for loss in (2.0 + 0.2 * carrier, 23.0 + 0.3 * carrier, 5.0 + 4.0 * carrier)
    )
    low = 5.0 - 10.0 * np.log10(0.3 * glass + 0.7 * concrete)
    high = 5.0 - 10.0 * np.log10(0.7 * coated + 0.3 * concrete)
    return np.asarray(np.where(high_loss, high, low))


def building_loss_db(
    carrier_hz: float,
    high_loss: Bool[np.ndarray, ...],
    depth_m: Float[np.ndarray, ...],
    generator: np.random.Generator,
) -> Float[np.ndarray, ...]:
    """Random outdoor-to-indoor loss: wall, 0.5 dB for each metre inside, and the normal spread of the wall's.

    Source: TR 38.901 clause 7.4.3.1, equation 7.4-2.
    """
    spread = np.where(high_loss, 6.5, 4.4) * generator.standard_normal(high_loss.shape)
    return np.asarray(wall_loss_db(carrier_hz, high_loss) + 0.5 * depth_m + spread)


def elevation_attenuation_db(zenith_rad: Reals) -> Float[np.ndarray, ...]:
    """Vertical cut of the antenna element, ``min(12 ((zenith - 90 deg)/65 deg)^2, 30)``. Source: table 7.3-1."""
    return np.asarray(
        np.minimum(12.0 * np.square(np.subtract(zenith_rad, np.pi / 2.0) / BEAMWIDTH_RAD), ATTENUATION_MAX_DB)
    )


def azimuth_attenuation_db(azimuth_rad: Reals) -> Float[np.ndarray, ...]:
    """Horizontal cut of the antenna element, ``min(12 (azimuth/65 deg)^2, 30)``. Source: TR 38.901 table 7.3-1."""
    wrapped = np.remainder(np.add(azimuth_rad, np.pi), 2.0 * np.pi) - np.pi
    return np.asarray(np.minimum(12.0 * np.square(wrapped / BEAMWIDTH_RAD), ATTENUATION_MAX_DB))


def element_gain_db(zenith_rad: Reals, azimuth_rad: Reals) -> Float[np.ndarray, ...]:
    """Gain of one antenna element over isotropic, 8 dBi at most; azimuth from its boresight. Source: table 7.3-1."""
    cuts = elevation_attenuation_db(zenith_rad) + azimuth_attenuation_db(azimuth_rad)
    return np.asarray(ELEMENT_GAIN_DBI - np.minimum(cuts, ATTENUATION_MAX_DB))


def column_gain_db(zenith_rad: Reals, elements: int, tilt_rad: float) -> Float[np.ndarray, ...]:
    """Array gain of a column of elements half a wavelength apart, steered to zenith ``tilt_rad``; 10 lg(elements) at
    most.

    ``|sum_m exp(j pi m (cos zenith - cos tilt))|^2 / elements``. Source: TR 36.873 clause 8.1 (complex weights), which
    TR 38.901 clause 7.8 takes over.
    """
    phase = np.pi * (np.cos(zenith_rad) - np.cos(tilt_rad))
    field = np.exp(1j * np.multiply.outer(np.arange(elements), phase)).sum(axis=0)
    return np.asarray(10.0 * np.log10(np.maximum(np.square(np.abs(field)) / elements, 1e-12)))


def tabulate(radio: Radio, distance_max_m: float, step_m: float = 1.0) -> Float[np.ndarray, "distance 7"]:
    """What the kernels need of the place at horizontal distances 0, step, ... to at least ``distance_max_m``.

    Columns, gains and deviations as natural logarithms of power: mean gain in line of sight and without it (antenna
    maxima included), probability of line of sight, the normal quantile of that probability (at most +-9), shadowing
    deviation in line of sight and without it, attenuation of a sector's vertical cut. The kernels interpolate linearly;
    beyond 3 m that is within 0.02 dB for cells 8 m or more above the ends.
    """
    distance = np.arange(0.0, distance_max_m + 2.0 * step_m, step_m)
    place, carrier, heights = radio.path_loss, radio.carrier_hz, (radio.cell_height_m, radio.end_height_m)
    antennas = radio.antenna_gain_dbi + radio.end_antenna_gain_dbi
    probability = los_probability(place, distance, radio.end_height_m)
    zenith = np.pi / 2.0 + np.arctan2(heights[0] - heights[1], np.maximum(distance, 1e-9))
    columns = (
        NEPER_PER_DB * (antennas - los_loss_db(place, distance, carrier, *heights)),
        NEPER_PER_DB * (antennas - nlos_loss_db(place, distance, carrier, *heights)),
        probability,
        np.clip(ndtri(probability), -9.0, 9.0),
        NEPER_PER_DB * shadowing_std_db(place, distance, True, carrier, *heights),
        NEPER_PER_DB * shadowing_std_db(place, distance, False, carrier, *heights),
        NEPER_PER_DB * elevation_attenuation_db(zenith),
    )
    return np.ascontiguousarray(np.stack(columns, axis=-1))
