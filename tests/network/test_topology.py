"""Cells, edges, backhaul and its paths."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import config

from gainnet.errors import ScenarioError
from gainnet.network import topology
from gainnet.scenario.network import Backhaul, Explicit, Hexagonal, Manhattan, ManhattanMobility, Radio, Site


def test_hexagonal_sites_stand_apart_in_rings():
    sites = topology.hexagonal_sites_m(19, 200.0)
    gaps = np.linalg.norm(sites[:, None] - sites[None], axis=-1)[~np.eye(19, dtype=bool)]
    assert gaps.min() == pytest.approx(200.0)
    assert np.linalg.norm(sites, axis=1).max() == pytest.approx(400.0)
    assert np.linalg.norm(sites[1:7], axis=1) == pytest.approx(200.0)


def test_three_sectors_share_a_site():
    built = topology.build(config(topology=Hexagonal(sites=7, sectors=3), radio=Radio(antenna="sector")))
    assert built.cell_xy_m.shape == (21, 2)
    assert (built.cell_xy_m[0] == built.cell_xy_m[2]).all()
    assert np.rad2deg(built.cell_azimuth_rad[:3]) == pytest.approx([30.0, 150.0, 270.0])


@pytest.mark.parametrize("layout", [Hexagonal(sectors=3), Explicit(cells=(Site(x_m=0.0, y_m=0.0, azimuth_deg=90.0),))])
def test_sectors_need_sector_antennas(layout):
    with pytest.raises(ScenarioError, match=r"^network\.radio\.antenna: omni"):
        topology.build(config(topology=layout))


def test_manhattan_cells_stand_at_different_corners():
    layout = Manhattan(blocks_x=4, blocks_y=4, cells=13)
    built = topology.build(config(topology=layout, mobility=ManhattanMobility()))
    assert len({tuple(place) for place in built.cell_xy_m}) == 13
    assert (np.remainder(built.cell_xy_m, 150.0) == 0.0).all()
    gaps = np.linalg.norm(built.cell_xy_m[:, None] - built.cell_xy_m[None], axis=-1)
    assert gaps[~np.eye(13, dtype=bool)].min() > 200.0
    assert built.streets.shape == (10, 4)
    assert built.area_m == (-10.0, -10.0, 610.0, 610.0)


def test_explicit_cells():
    cells = (Site(x_m=0.0, y_m=0.0), Site(x_m=50.0, y_m=20.0, azimuth_deg=90.0))
    built = topology.build(config(topology=Explicit(cells=cells, margin_m=5.0), radio=Radio(antenna="sector")))
    assert np.isnan(built.cell_azimuth_rad[0])
    assert built.cell_azimuth_rad[1] == pytest.approx(np.pi / 2)
    assert built.area_m == (-5.0, -5.0, 55.0, 25.0)


def test_consecutive_cells_share_an_edge():
    built = topology.build(config(topology=Hexagonal(sites=7), cells_per_edge=3))
    assert built.cell_edge.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert (built.clouds, built.edges, built.fixed) == (1, 3, 4)


@pytest.mark.parametrize(("sites", "ring", "links"), [(1, 1e9, 1), (2, 1e9, 3), (7, 1e9, 14), (7, None, 7)])
def test_links(sites, ring, links):
    built = topology.build(config(topology=Hexagonal(sites=sites), backhaul=Backhaul(ring_bit_per_s=ring)))
    assert len(built.link_a) == len(built.link_latency_s) == links
    assert built.link_a.max() < built.fixed
    assert built.link_b.max() < built.fixed


def test_paths_join_their_nodes_with_the_least_latency():
    built = topology.build(config(topology=Hexagonal(sites=7), backhaul=Backhaul(cloud_latency_s=0.003)))
    fixed = built.fixed
    for a in range(fixed):
        for b in range(fixed):
            links = built.path_link[built.path_ptr[a * fixed + b] : built.path_ptr[a * fixed + b + 1]]
            node = a
            for link in links:
                ends = {int(built.link_a[link]), int(built.link_b[link])}
                assert node in ends
                node = (ends - {node}).pop()
            assert node == b
            assert built.link_latency_s[links].sum() == pytest.approx(built.path_latency_s[a, b])
    assert (built.path_latency_s == built.path_latency_s.T).all()
    through = built.path_latency_s[:, :, None] + built.path_latency_s[None]
    assert (built.path_latency_s[:, None] <= through.min(axis=1)[:, None] + 1e-12).all()
