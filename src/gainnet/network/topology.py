"""Where the cells and the fixed machines stand, and the backhaul that joins the machines."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gainnet.errors import ScenarioError
from gainnet.scenario.network import Backhaul, Explicit, Hexagonal, Manhattan
from gainnet.scenario.network import Network as NetworkConfig

STREET_HALF_WIDTH_M = 10.0


@dataclass(frozen=True, slots=True)
class Topology:
    """The fixed part of the network.

    Fixed nodes are numbered cloud first, then the edges. The cloud is one node of ``cloud.count`` accelerators, each
    edge one node of ``edge.count``. A backhaul link carries its rate once, both directions together.

    Attributes:
        cell_xy_m: place of each cell.
        cell_azimuth_rad: boresight of each sector, counter-clockwise from east; nan for an omnidirectional cell.
        cell_height_m: height of every cell's antenna.
        cell_edge: fixed node of the edge that each cell is attached to.
        clouds, edges: numbers of nodes.
        area_m: (xmin, ymin, xmax, ymax) in which ends move.
        streets: (x1, y1, x2, y2) of each street; none unless the topology is manhattan.
        link_a, link_b: the fixed nodes that each link joins.
        link_bit_per_s, link_latency_s: rate and latency of each link.
        path_ptr, path_link: links of the least-latency path from fixed node a to b, in order from a:
            ``path_link[path_ptr[a * fixed + b] : path_ptr[a * fixed + b + 1]]``.
        path_latency_s: latency of that path.
    """

    cell_xy_m: Float[np.ndarray, "cell 2"]
    cell_azimuth_rad: Float[np.ndarray, " cell"]
    cell_height_m: float
    cell_edge: Int[np.ndarray, " cell"]
    clouds: int
    edges: int
    area_m: tuple[float, float, float, float]
    streets: Float[np.ndarray, "street 4"]
    link_a: Int[np.ndarray, " link"]
    link_b: Int[np.ndarray, " link"]
    link_bit_per_s: Float[np.ndarray, " link"]
    link_latency_s: Float[np.ndarray, " link"]
    path_ptr: Int[np.ndarray, " pair_and_one"]
    path_link: Int[np.ndarray, " hop"]
    path_latency_s: Float[np.ndarray, "fixed fixed"]

    @property
    def fixed(self) -> int:
        """Number of fixed nodes: clouds and edges."""
        return self.clouds + self.edges


def hexagonal_sites_m(sites: int, inter_site_m: float) -> Float[np.ndarray, "site 2"]:
    """The ``sites`` points of a hexagonal lattice nearest to its centre, ring by ring, counter-clockwise in a ring."""
    reach = int(np.ceil(np.sqrt(sites))) + 1
    q, r = (axis.ravel() for axis in np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)))
    ring = np.maximum.reduce([np.abs(q), np.abs(r), np.abs(q + r)])
    xy = inter_site_m * np.stack([q + 0.5 * r, np.sqrt(3.0) / 2.0 * r], axis=-1)
    angle = np.round(np.remainder(np.arctan2(xy[:, 1], xy[:, 0]), 2.0 * np.pi), 9)
    return np.asarray(xy[np.lexsort((angle, ring))][:sites])


def _corners_m(config: Manhattan) -> Float[np.ndarray, "cell 2"]:
    """Street corners for the cells: each next one is the farthest from those chosen, starting at the centre."""
    columns, lines = np.meshgrid(np.arange(config.blocks_x + 1), np.arange(config.blocks_y + 1))
    corners = np.stack([columns.ravel() * config.block_x_m, lines.ravel() * config.block_y_m], axis=-1)
    middle = np.array([config.blocks_x * config.block_x_m, config.blocks_y * config.block_y_m]) / 2.0
    chosen = [int(np.argmin(np.linalg.norm(corners - middle, axis=1)))]
    gap = np.linalg.norm(corners - corners[chosen[0]], axis=1)
    while len(chosen) < config.cells:
        chosen.append(int(np.argmax(np.round(gap, 6))))
        gap = np.minimum(gap, np.linalg.norm(corners - corners[chosen[-1]], axis=1))
    return np.asarray(corners[chosen])


def _streets_m(config: Manhattan) -> Float[np.ndarray, "street 4"]:
    width, height = config.blocks_x * config.block_x_m, config.blocks_y * config.block_y_m
    upright = [(x * config.block_x_m, 0.0, x * config.block_x_m, height) for x in range(config.blocks_x + 1)]
    level = [(0.0, y * config.block_y_m, width, y * config.block_y_m) for y in range(config.blocks_y + 1)]
    return np.array(upright + level, dtype=np.float64)


def _box_m(points: Float[np.ndarray, "point 2"], margin_m: float) -> tuple[float, float, float, float]:
    low, high = points.min(axis=0) - margin_m, points.max(axis=0) + margin_m
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _cells(
    config: NetworkConfig,
) -> tuple[
    Float[np.ndarray, "cell 2"],
    Float[np.ndarray, " cell"],
    tuple[float, float, float, float],
    Float[np.ndarray, "street 4"],
]:
    """Places and boresights of the cells, the area and the streets."""
    layout, none = config.topology, np.zeros((0, 4))
    if isinstance(layout, Explicit):
        places = np.array([(site.x_m, site.y_m) for site in layout.cells], dtype=np.float64)
        degrees = [np.nan if site.azimuth_deg is None else site.azimuth_deg for site in layout.cells]
        return places, np.deg2rad(np.array(degrees, dtype=np.float64)), _box_m(places, layout.margin_m), none
    if isinstance(layout, Manhattan):
        places, streets = _corners_m(layout), _streets_m(layout)
        box = _box_m(streets.reshape(-1, 2), STREET_HALF_WIDTH_M)
        return places, np.full(len(places), np.nan), box, streets
    assert isinstance(layout, Hexagonal)
    sites = hexagonal_sites_m(layout.sites, layout.inter_site_m)
    places = np.repeat(sites, layout.sectors, axis=0)
    azimuth = np.deg2rad([30.0, 150.0, 270.0]) if layout.sectors == 3 else np.array([np.nan])
    return places, np.tile(azimuth, layout.sites), _box_m(sites, layout.inter_site_m / 2.0), none


def _links(backhaul: Backhaul, edges: int) -> tuple[list[tuple[int, int]], list[float], list[float]]:
    """Ends, rates and latencies of the links: each edge to the cloud (node 0), then the ring through the edges."""
    ends = [(0, 1 + edge) for edge in range(edges)]
    rate = [backhaul.cloud_bit_per_s] * edges
    latency = [backhaul.cloud_latency_s] * edges
    if backhaul.ring_bit_per_s is not None and edges > 1:
        around = edges if edges > 2 else 1
        ends += [(1 + edge, 1 + (edge + 1) % edges) for edge in range(around)]
        rate += [backhaul.ring_bit_per_s] * around
        latency += [backhaul.ring_latency_s] * around
    return ends, rate, latency


def _shortest(
    source: int, neighbours: list[list[tuple[int, int]]], latency: list[float]
) -> tuple[list[float], list[list[int]]]:
    """Dijkstra: latency and links to each node; equal latencies go by fewer hops, then by lower link numbers."""
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    queue: list[tuple[float, int, tuple[int, ...], int]] = [(0.0, 0, (), source)]
    while queue:
        length, hops, links, node = heapq.heappop(queue)
        if node in best:
            continue
        best[node] = (length, links)
        for other, link in neighbours[node]:
            if other not in best:
                heapq.heappush(queue, (length + latency[link], hops + 1, (*links, link), other))
    nodes = range(len(neighbours))
    return [best[node][0] for node in nodes], [list(best[node][1]) for node in nodes]


def build(config: NetworkConfig) -> Topology:
    """The topology of a scenario.

    Every ``cells_per_edge`` consecutive cells share one edge, the last edge taking what is left.

    Raises:
        ScenarioError: cells that look somewhere (three sectors at a site, an azimuth) with omnidirectional antennas.
    """
    places, azimuth, area, streets = _cells(config)
    cells = len(places)
    if config.radio.antenna == "omni" and not np.isnan(azimuth).all():
        raise ScenarioError(
            "network.radio.antenna: omni, but the topology has sectors (sectors = 3, or a cell with azimuth_deg): "
            "write sector, or give the topology no sectors"
        )
    edges = -(-cells // config.cells_per_edge)
    ends, rate, latency = _links(config.backhaul, edges)
    neighbours: list[list[tuple[int, int]]] = [[] for _ in range(1 + edges)]
    for link, (a, b) in enumerate(ends):
        neighbours[a].append((b, link))
        neighbours[b].append((a, link))
    found = [_shortest(source, neighbours, latency) for source in range(1 + edges)]
    paths = [path for _, links in found for path in links]
    return Topology(
        cell_xy_m=places,
        cell_azimuth_rad=azimuth,
        cell_height_m=config.radio.cell_height_m,
        cell_edge=1 + np.arange(cells) // config.cells_per_edge,
        clouds=1,
        edges=edges,
        area_m=area,
        streets=streets,
        link_a=np.array([a for a, _ in ends], dtype=np.int64),
        link_b=np.array([b for _, b in ends], dtype=np.int64),
        link_bit_per_s=np.array(rate, dtype=np.float64),
        link_latency_s=np.array(latency, dtype=np.float64),
        path_ptr=np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64),
        path_link=np.array([link for path in paths for link in path], dtype=np.int64),
        path_latency_s=np.array([lengths for lengths, _ in found], dtype=np.float64),
    )
