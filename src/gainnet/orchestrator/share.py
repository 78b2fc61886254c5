"""Closed forms for continuous shares, given who uses what: rates, bandwidth, power, clock, windows.

Every function is the exact minimiser of the convex programme in its docstring (its KKT conditions are tested), so that
no iteration of a general method runs inside a frame.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gainnet.orchestrator.share_kernel import square_root_with_floors

BISECTIONS = 100
"""Halvings of an interval: more than a double has bits."""


def rate_share(
    weight: Float[np.ndarray, " item"],
    work: Float[np.ndarray, " item"],
    capacity: float,
    floor: Float[np.ndarray, " item"] | None = None,
) -> Float[np.ndarray, " item"]:
    """Rates f that minimise the weighted delay ``sum w_i c_i / f_i`` with ``sum f_i <= capacity``, ``f_i >= floor_i``.

    The square-root law ``f_i ~ sqrt(w_i c_i)``, above the floors. ``work`` is in any unit, rates in that unit per s.
    Floors that exceed the capacity are scaled down to it.
    """
    out = np.empty(len(work))
    square_root_with_floors(weight * work, np.zeros(len(work)) if floor is None else floor, capacity, out)
    return out


def bandwidth_share_hz(
    weight: Float[np.ndarray, " item"],
    size_bit: Float[np.ndarray, " item"],
    efficiency_bit_per_s_hz: Float[np.ndarray, " item"],
    bandwidth_hz: float,
    floor_hz: Float[np.ndarray, " item"] | None = None,
) -> Float[np.ndarray, " item"]:
    """Bandwidths that minimise the weighted delay of sending ``size_bit`` at a fixed power density, in Hz.

    At a fixed power density the spectral efficiency does not depend on the share: the law of ``rate_share`` with work
    ``size_bit / efficiency``.
    """
    return rate_share(weight, size_bit / efficiency_bit_per_s_hz, bandwidth_hz, floor_hz)


def water_filling_w(noise_over_gain_w: Float[np.ndarray, " channel"], power_w: float) -> Float[np.ndarray, " channel"]:
    """Powers that maximise ``sum log(1 + p_i / n_i)`` with ``sum p_i <= power_w``: ``(level - n_i)+``, in W.

    ``n_i`` is noise over channel gain. The level is found exactly, from the best channels on.
    """
    if len(noise_over_gain_w) == 0:
        return np.zeros(0)
    ascending = np.sort(noise_over_gain_w)
    levels = (power_w + np.cumsum(ascending)) / np.arange(1, len(ascending) + 1)
    # As many channels are wet as have their floor under the level that they alone would share.
    wet = max(int(np.count_nonzero(levels > ascending)), 1)
    power: Float[np.ndarray, " channel"] = np.maximum(levels[wet - 1] - noise_over_gain_w, 0.0)
    return power


def min_max_delay(
    work: Float[np.ndarray, " item"], fixed_s: Float[np.ndarray, " item"], capacity: float
) -> tuple[Float[np.ndarray, " item"], float]:
    """Rates with ``sum f_i <= capacity`` that minimise ``T = max_i fixed_i + work_i / f_i``; the rates and T, in s.

    All with work end together: T solves ``sum work_i / (T - fixed_i) = capacity``, by bisection. Items without work get
    no rate; without any work T is the largest fixed delay.
    """
    rate = np.zeros(len(work))
    busy = work > 0.0
    longest = float(fixed_s.max(initial=0.0))
    if not busy.any():
        return rate, longest
    low = float(fixed_s[busy].max())
    high = low + float(work.sum()) / capacity
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        enough = middle > fixed_s[busy].max() and (work[busy] / (middle - fixed_s[busy])).sum() <= capacity
        low, high = (low, middle) if enough else (middle, high)
    rate[busy] = work[busy] / (high - fixed_s[busy])
    return rate, max(high, longest)


def energy_delay_clock(
    weight: Float[np.ndarray, " item"],
    kappa: Float[np.ndarray, " item"],
    lowest: Float[np.ndarray, " item"],
    highest: Float[np.ndarray, " item"],
) -> Float[np.ndarray, " item"]:
    """Clock f in [lowest, highest] that minimises ``weight c / f + kappa c f^2``, whatever the work c >= 0.

    ``weight`` is what a second costs, ``kappa f^2`` the energy of a unit of work: ``f = (weight / 2 kappa)^(1/3)``.
    """
    return np.clip(np.cbrt(weight / (2.0 * kappa)), lowest, highest)


def chain_windows_s(
    work: Float[np.ndarray, " stage"], price: Float[np.ndarray, " stage"], budget_s: float
) -> tuple[Float[np.ndarray, " stage"], float]:
    """Windows of a chain's stages that minimise ``sum price_s r_s`` with ``sum work_s / r_s <= budget_s``; the cost.

    ``price_s`` is what a unit of rate costs for as long as the chain lasts. Windows ``t_s = work_s / r_s`` are in
    proportion to ``sqrt(work_s price_s)``; the cost is ``(sum sqrt(work_s price_s))^2 / budget_s``. Free stages get no
    window: their rate is unbounded.
    """
    root = np.sqrt(work * price)
    total = float(root.sum())
    if total <= 0.0:
        return np.zeros(len(work)), 0.0
    return budget_s * root / total, total * total / budget_s
