"""3GPP calibration: drops built with gainnet's own propagation, against the curves that companies contributed.

``figures`` reads a file of large-scale calibration curves (R1-165974 for UMi, R1-2509126 for UAV sensing), builds the
drop of each scenario in it, and gives for every metric how far the 5, 50 and 95 % points lie from the median company.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gainnet.network import channel
from gainnet.network.link import noise_w
from gainnet.network.topology import hexagonal_sites_m
from gainnet.units import SPEED_OF_LIGHT_M_PER_S, dbm_to_w, linear_to_db, w_to_dbm

log = logging.getLogger(__name__)

Array = np.ndarray
PERCENTILES = (5.0, 50.0, 95.0)
SITES = 19
ELEMENTS, TILT_RAD = 10, np.deg2rad(102.0)
END_NOISE_FIGURE_DB = 9.0


@dataclass(frozen=True, slots=True)
class Drop:
    """Assumptions of a cellular drop (TR 38.901 table 7.8-1, and table 7.2-3 for RMa).

    Attributes:
        place: the path-loss model.
        inter_site_m, cell_height_m, nearest_m: layout; ends keep ``nearest_m`` from every site.
        indoor: fraction of ends in buildings.
        depth_max_m: a building's depth is the smaller of two uniform draws up to this.
        high_loss: fraction of buildings with coated windows.
        power_dbm: transmit power of a cell up to 6 GHz and above.
    """

    place: Literal["umi", "uma", "rma"]
    inter_site_m: float
    cell_height_m: float
    nearest_m: float
    indoor: float
    depth_max_m: float
    high_loss: float
    power_dbm: tuple[float, float]


DROPS = {
    "UMi": Drop("umi", 200.0, 10.0, 10.0, 0.8, 25.0, 0.5, (44.0, 35.0)),
    "UMa": Drop("uma", 500.0, 25.0, 35.0, 0.8, 25.0, 0.5, (49.0, 35.0)),
    "RMa": Drop("rma", 1732.0, 35.0, 35.0, 0.5, 10.0, 0.0, (49.0, 35.0)),
}


def in_hexagon_m(count: int, inter_site_m: float, generator: np.random.Generator) -> Array:
    """Uniform points [point 2] in the hexagon of a site at the origin whose neighbours stand ``inter_site_m`` away."""
    towards = np.deg2rad(60.0 * np.arange(3))
    axes = np.stack([np.cos(towards), np.sin(towards)])
    points = np.zeros((0, 2))
    while len(points) < count:
        tried = generator.uniform(-1.0, 1.0, (2 * count, 2)) * inter_site_m / np.sqrt(3.0)
        points = np.concatenate([points, tried[(np.abs(tried @ axes) <= inter_site_m / 2.0).all(axis=1)]])
    return points[:count]


def wrapped_m(points: Array, sites: Array, inter_site_m: float) -> Array:
    """Vectors [point site 2] from the nearest image of each site, the 19 sites repeated six times around."""
    first = inter_site_m * np.array([4.0, np.sqrt(3.0)])
    turn = np.deg2rad(60.0 * np.arange(6))
    shifts = np.stack(
        [first[0] / 1.0 * np.cos(turn) - first[1] * np.sin(turn), first[0] * np.sin(turn) + first[1] * np.cos(turn)], axis=-1
    )
    images = np.concatenate([np.zeros((1, 2)), shifts])
    away = points[:, None, None] - sites[None, :, None] - images
    nearest = np.square(away).sum(axis=-1).argmin(axis=-1)
    return np.take_along_axis(away, nearest[..., None, None], axis=2)[:, :, 0]
