"""3GPP calibration: drops built with gainnet's own propagation, against the curves that companies contributed.

``figures`` reads a file of large-scale calibration curves (R1-165974 for UMi, R1-2509126 for UAV sensing), builds the
drop of each scenario in it, and gives for every metric how far the 5, 50 and 95 % points lie from the median company.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gainnet.network import channel
from gainnet.network.link import noise_w
from gainnet.network.topology import hexagonal_sites_m
from gainnet.rng import stream
from gainnet.units import SPEED_OF_LIGHT_M_PER_S, db_to_linear, dbm_to_w, linear_to_db

log = logging.getLogger(__name__)

Reals = NDArray[np.float64]
Samples = dict[str, Reals]
PERCENTILES = (5.0, 50.0, 95.0)
SITES, SECTORS_RAD = 19, np.deg2rad([30.0, 150.0, 270.0])
ELEMENTS, TILT_RAD = 10, float(np.deg2rad(102.0))
END_HEIGHT_M, END_NOISE_FIGURE_DB = 1.5, 9.0


@dataclass(frozen=True, slots=True)
class Drop:
    """Assumptions of a cellular drop (TR 38.901 tables 7.8-1 and, for RMa, 7.2-3).

    Attributes:
        place: the path-loss model.
        inter_site_m, cell_height_m, nearest_m: layout; ends keep ``nearest_m`` from their site.
        indoor: fraction of ends in buildings.
        floors: fewest and most floors of a building.
        depth_max_m: the way inside is the smaller of two uniform draws up to this.
        high_loss: fraction of buildings with coated windows.
        power_dbm, bandwidth_hz: of a cell, up to 6 GHz and above.
    """

    place: Literal["umi", "uma", "rma"]
    inter_site_m: float
    cell_height_m: float
    nearest_m: float
    indoor: float
    floors: tuple[int, int]
    depth_max_m: float
    high_loss: float
    power_dbm: tuple[float, float]
    bandwidth_hz: tuple[float, float] = (20e6, 100e6)


DROPS = {
    "umi": Drop("umi", 200.0, 10.0, 10.0, 0.8, (4, 8), 25.0, 0.5, (44.0, 35.0)),
    "uma": Drop("uma", 500.0, 25.0, 35.0, 0.8, (4, 8), 25.0, 0.5, (49.0, 35.0)),
    "rma": Drop("rma", 1732.0, 35.0, 35.0, 0.5, (1, 1), 10.0, 0.0, (49.0, 35.0)),
}


def in_hexagon_m(count: int, inter_site_m: float, nearest_m: float, generator: np.random.Generator) -> Reals:
    """Uniform points [point 2] in the cell of a site at the origin whose six neighbours stand ``inter_site_m`` away."""
    towards = np.deg2rad(60.0 * np.arange(3))
    axes = np.stack([np.cos(towards), np.sin(towards)])
    points = np.zeros((0, 2))
    while len(points) < count:
        tried = generator.uniform(-1.0, 1.0, (2 * count, 2)) * inter_site_m / np.sqrt(3.0)
        inside = (np.abs(tried @ axes) <= inter_site_m / 2.0).all(axis=1)
        points = np.concatenate([points, tried[inside & (np.hypot(*tried.T) >= nearest_m)]])
    return points[:count]


def clutter_m(distance_m: Reals, end_height_m: Reals, generator: np.random.Generator) -> Reals:
    """Random effective environment height of UMa (TR 38.901 table 7.4.1-1, note 1): 1 m, or 12, 15, ... below it."""
    near = np.where(distance_m > 18.0, 1.25 * (distance_m / 100.0) ** 3 * np.exp(-distance_m / 150.0), 0.0)
    bonus = np.clip((end_height_m - 13.0) / 10.0, 0.0, None) ** 1.5 * near
    steps = np.maximum(np.floor((end_height_m - 1.5 - 12.0) / 3.0) + 1.0, 0.0)
    high = 12.0 + 3.0 * np.floor(generator.random(distance_m.shape) * steps)
    return np.where((generator.random(distance_m.shape) < 1.0 / (1.0 + bonus)) | (steps == 0.0), 1.0, high)


def cell_gains_db(drop: Drop, carrier_hz: float, ends: int, generator: np.random.Generator) -> Reals:
    """Coupling gains [end cell] of a drop: ends in the centre site's cell, two rings of sites around it.

    The centre of two rings sees what every site sees under wrap-around. Each building link's state follows its outdoor
    part, shadowing is common to the sectors of a site, and the building's loss to all links of an end.
    """
    sites = hexagonal_sites_m(SITES, drop.inter_site_m)
    points = in_hexagon_m(ends, drop.inter_site_m, drop.nearest_m, generator)
    indoor = generator.random((ends, 1)) < drop.indoor
    floors = generator.integers(drop.floors[0], drop.floors[1] + 1, (ends, 1))
    floor = 1 + np.floor(generator.random((ends, 1)) * floors)
    height = np.where(indoor, 3.0 * (floor - 1.0) + END_HEIGHT_M, END_HEIGHT_M)
    depth = np.where(indoor, generator.uniform(0.0, drop.depth_max_m, (2, ends, 1)).min(axis=0), 0.0)
    away = points[:, None] - sites[None]
    distance = np.hypot(away[..., 0], away[..., 1])

    chance = channel.los_probability(drop.place, np.maximum(distance - depth, 0.0), height)
    los = generator.random(distance.shape) < chance
    clutter = clutter_m(distance, height, generator) if drop.place == "uma" else np.ones_like(distance)
    geometry = (drop.place, distance, carrier_hz, drop.cell_height_m, height, clutter)
    loss = np.where(los, channel.los_loss_db(*geometry), channel.nlos_loss_db(*geometry))
    outdoor = channel.shadowing_std_db(drop.place, distance, los, carrier_hz, drop.cell_height_m, height)
    std = np.where(indoor, channel.VARIATIONS[drop.place].indoor_std_db, outdoor)
    building = channel.building_loss_db(carrier_hz, generator.random((ends, 1)) < drop.high_loss, depth, generator)
    loss = loss + np.where(indoor, building, 0.0) + std * generator.standard_normal(distance.shape)

    zenith = np.pi / 2.0 + np.arctan2(drop.cell_height_m - height, distance)
    azimuth = np.arctan2(away[..., 1], away[..., 0])[..., None] - SECTORS_RAD
    antenna = channel.element_gain_db(zenith[..., None], azimuth)
    array = channel.column_gain_db(zenith, ELEMENTS, TILT_RAD)[..., None]
    return np.asarray((antenna + array - loss[..., None]).reshape(ends, -1))


def cellular(name: str, carrier_hz: float, quick: bool) -> Samples:
    """Coupling gain, SINR and SIR (all dB) of ends attached to their strongest cell, all cells sending."""
    drop = DROPS[name]
    above = int(carrier_hz > 6e9)
    gain_db = cell_gains_db(drop, carrier_hz, 3_000 if quick else 30_000, stream(0, f"calibration {name} {carrier_hz}"))
    received = dbm_to_w(drop.power_dbm[above]) * db_to_linear(gain_db)
    signal = received.max(axis=1)
    others = received.sum(axis=1) - signal
    noise = noise_w(drop.bandwidth_hz[above], END_NOISE_FIGURE_DB)
    return {
        "coupling_loss": gain_db.max(axis=1),
        "geometry_sinr": linear_to_db(signal / (others + noise)),
        "wideband_sir": linear_to_db(signal / others),
    }


# UAV sensing: TR 38.901 (Rel-19) table 7.9.6.1-1, whose air links come from TR 36.777 annex B.
TARGET_HEIGHT_M, TRP_HEIGHT_M, AIR_INTER_SITE_M = 200.0, 25.0, 500.0
TARGET_DBSM, BEST_PAIRS, SENSING_ENDS, NEAREST_M = -12.81, 4, 30, 10.0


def trp_to_target_db(distance_m: Reals, carrier_hz: float, generator: np.random.Generator) -> Reals:
    """Loss from a TRP to a target 200 m high: UMa-AV, always in line of sight (TR 36.777 tables B-1 to B-3).

    Its path loss is that of UMa below a breakpoint 380 km away; the shadowing deviation is ``4.64 exp(-0.0066 h)``.
    """
    std = 4.64 * np.exp(-0.0066 * TARGET_HEIGHT_M)
    loss = channel.los_loss_db("uma", distance_m, carrier_hz, TRP_HEIGHT_M, TARGET_HEIGHT_M)
    return np.asarray(loss + std * generator.standard_normal(distance_m.shape))


def end_to_target_db(distance_m: Reals, carrier_hz: float, generator: np.random.Generator) -> Reals:
    """Loss from an end 1.5 m high to the target: UMi-AV with that as the cell's height (TR 38.901 table 7.9.3-1, case
    7).

    Line of sight with probability ``d1/d + exp(-d/p1)(1 - d1/d)`` (TR 36.777 tables B-1 to B-3).
    """
    height, carrier = np.log10(TARGET_HEIGHT_M), np.log10(carrier_hz / 1e9)
    slant = np.log10(np.hypot(distance_m, TARGET_HEIGHT_M - END_HEIGHT_M))
    length, certain = 233.98 * height - 0.95, max(294.05 * height - 432.94, 18.0)
    part = np.minimum(certain / np.maximum(distance_m, 1.0), 1.0)
    los = generator.random(distance_m.shape) < part + np.exp(-distance_m / length) * (1.0 - part)
    free = 20.0 * slant + 20.0 * np.log10(4e9 * np.pi / SPEED_OF_LIGHT_M_PER_S) + 20.0 * carrier
    clear = np.maximum(free, 30.9 + (22.25 - 0.5 * height) * slant + 20.0 * carrier)
    blocked = np.maximum(clear, 32.4 + (43.2 - 7.6 * height) * slant + 20.0 * carrier)
    std = np.where(los, max(5.0 * np.exp(-0.01 * TARGET_HEIGHT_M), 2.0), 8.0)
    return np.asarray(np.where(los, clear, blocked) + std * generator.standard_normal(distance_m.shape))


def legs_db(carrier_hz: float, drops: int, generator: np.random.Generator) -> tuple[Reals, Reals]:
    """Losses to the target of all TRPs [drop trp] and all ends [drop end]; target and ends lie in the centre cell."""
    target = in_hexagon_m(drops, AIR_INTER_SITE_M, 0.0, generator)[:, None]
    ends = in_hexagon_m(drops * SENSING_ENDS, AIR_INTER_SITE_M, NEAREST_M, generator).reshape(drops, SENSING_ENDS, 2)
    trp_m = np.linalg.norm(target - hexagonal_sites_m(SITES, AIR_INTER_SITE_M), axis=-1)
    end_m = np.linalg.norm(target - ends, axis=-1)
    return trp_to_target_db(trp_m, carrier_hz, generator), end_to_target_db(end_m, carrier_hz, generator)


def target(kind: str, carrier_hz: float, quick: bool) -> Samples:
    """Gain (dB) of a target by its best four transmitter-receiver pairs.

    Two legs, ``10 lg(lambda^2 / (4 pi))`` and the cross-section. Monostatic legs share their shadowing; a pair of
    equals counts once, in either direction.
    """
    trp, end = legs_db(carrier_hz, 500 if quick else 5_000, stream(0, f"calibration {kind} {carrier_hz}"))
    if kind == "trpmo(t)":
        legs = 2.0 * trp
    elif kind == "trp-ue":
        legs = (trp[:, :, None] + end[:, None]).reshape(len(trp), -1)
    else:
        nodes = trp if kind == "trp-trp" else end
        first, second = np.triu_indices(nodes.shape[1], k=1)
        legs = nodes[:, first] + nodes[:, second]
    aperture_db = 10.0 * np.log10((SPEED_OF_LIGHT_M_PER_S / carrier_hz) ** 2 / (4.0 * np.pi))
    best = np.sort(legs, axis=1)[:, :BEST_PAIRS]
    return {"coupling_loss": TARGET_DBSM - aperture_db - best.ravel()}


def background(carrier_hz: float, quick: bool) -> Samples:
    """Gain (dB) between a monostatic TRP and one reference point of its background (TR 38.901 clause 7.9.4.2).

    Distance and height are ``Gamma(alpha, rate beta) + c`` of table 7.9.4.2-1 (UMa), always without line of sight.
    """
    count, generator = 5_000 if quick else 50_000, stream(0, f"calibration background {carrier_hz}")
    distance = generator.gamma(10.3370, 1.0 / 0.1317, count) + 68.7778
    height = generator.gamma(16.2253, 1.0 / 1.9218, count) + 2.6142
    loss = channel.nlos_loss_db("uma", distance, carrier_hz, TRP_HEIGHT_M, height)
    return {"coupling_loss": -loss - channel.VARIATIONS["uma"].nlos_std_db * generator.standard_normal(count)}


def samples(scenario: str, quick: bool) -> Samples | str:
    """Samples of each metric of a scenario of the files, or why there are none."""
    name, _, carrier = scenario.lower().rpartition("-")
    if not carrier.endswith("ghz") or not carrier[:-3].isdigit():
        return "its name does not end in a carrier such as 6GHz"
    carrier_hz = float(carrier[:-3]) * 1e9
    kinds: dict[str, Callable[[float, bool], Samples]]
    kinds = {kind: partial(target, kind) for kind in ("trpmo(t)", "trp-trp", "trp-ue", "ue-ue")}
    kinds |= {kind: partial(cellular, kind) for kind in DROPS}
    kinds["trpmo(b)"] = background
    if name in kinds:
        return kinds[name](carrier_hz, quick)
    if name == "trp-trp(b)":
        return "only two companies gave it, 13 dB apart"
    return "there is no drop for it"


def median_company(metric: dict[str, Any]) -> dict[float, float]:
    """The median over the companies of each percentile; one column that holds another metric cannot move it far."""
    curves = list(metric["data"].values())
    return {
        float(percentile): float(np.median([c[i] for c in curves if i < len(c) and c[i] is not None]))
        for i, percentile in enumerate(metric["cdf_percentiles"])
    }


def figures(reference: Path, quick: bool = False) -> dict[str, float]:
    """Signed errors, gainnet minus the median company, of every scenario and metric in the ``reference`` file.

    Keys are ``<scenario>.<metric>.p5_error_db`` (and p50, p95), names in lower case with ``_`` for ``-``. Coupling loss
    counts as in the files, as a gain: positive errors mean too little loss. What cannot be built is logged and left
    out.
    """
    result: dict[str, float] = {}
    for scenario, content in json.loads(reference.read_text(encoding="utf-8"))["scenarios"].items():
        drawn = samples(scenario, quick)
        if isinstance(drawn, str):
            log.warning("calibration: %s left out: %s", scenario, drawn)
            continue
        for name, metric in content["metrics"].items():
            if name not in drawn:
                log.warning("calibration: %s of %s left out: the drop does not give it", name, scenario)
                continue
            known = median_company(metric)
            for percentile in PERCENTILES:
                error = float(np.percentile(drawn[name], percentile)) - known[percentile]
                key = f"{scenario}.{name}".lower().replace("-", "_")
                result[f"{key}.p{percentile:.0f}_error_db"] = round(error, 3)
    return result
