"""Conversions at the border between what people write (dB, dBm) and SI inside. Scalars or arrays."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", float, NDArray[np.float64])

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
BOLTZMANN_J_PER_K = 1.380649e-23


def db_to_linear(value_db: Value) -> Value:
    """A power ratio in dB to the ratio itself."""
    return 10.0 ** (value_db / 10.0)  # type: ignore[no-any-return]


def linear_to_db(value: Value) -> Value:
    """A power ratio to dB."""
    return 10.0 * np.log10(value)  # type: ignore[no-any-return]


def dbm_to_w(power_dbm: Value) -> Value:
    """dBm to W."""
    return 10.0 ** (power_dbm / 10.0 - 3.0)  # type: ignore[no-any-return]


def w_to_dbm(power_w: Value) -> Value:
    """W to dBm."""
    return 10.0 * np.log10(power_w) + 30.0  # type: ignore[no-any-return]
