"""One frame of movement, on streets and in the open."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gainnet.compiled import njit

Reals = NDArray[np.float64]
Whole = NDArray[np.int64]

EAST, NORTH, WEST, SOUTH = 0, 1, 2, 3


@njit
def open_ways(column: int, line: int, blocks: Whole) -> int:
    """Bit mask of the headings that lead on from a corner of a grid of ``blocks`` (x, y)."""
    ways = 1 if column < blocks[0] else 0
    ways += 2 if line < blocks[1] else 0
    ways += 4 if column > 0 else 0
    return ways + (8 if line > 0 else 0)


@njit
def choose(heading: int, ways: int, turn_probability: float, uniform: Reals) -> int:
    """Heading after a corner: a turn with ``turn_probability`` or where the street ends, left and right alike."""
    ahead = ways >> heading & 1
    if ahead == 1 and uniform[0] >= turn_probability:
        return heading
    left, right = (heading + 1) % 4, (heading + 3) % 4
    has_left, has_right = ways >> left & 1, ways >> right & 1
    if has_left == 1 and (has_right == 0 or uniform[1] < 0.5):
        return left
    return right if has_right == 1 else heading


@njit
def drive(
    corner: Whole,
    heading: Whole,
    past_m: Reals,
    speed: Reals,
    block_m: Reals,
    blocks: Whole,
    lane_m: float,
    turn_probability: float,
    time_s: float,
    position: Reals,
    velocity: Reals,
    uniform: Reals,
) -> None:
    """Drive each vehicle for a time along its street and round the corner it meets: one at most, so keep it short.

    ``corner`` [user 2] is the grid corner last passed, ``heading`` a quarter turn counter-clockwise from east,
    ``past_m`` the way since. Vehicles keep ``lane_m`` to the right of the street's middle. ``uniform`` [user 2] is
    fresh in [0, 1). Writes all the former, and ``position`` and ``velocity`` [user 2].
    """
    for user in range(speed.shape[0]):
        way = heading[user]
        past_m[user] += speed[user] * time_s
        if past_m[user] >= block_m[way % 2]:
            past_m[user] -= block_m[way % 2]
            corner[user, way % 2] += 1 if way < 2 else -1
            way = choose(way, open_ways(corner[user, 0], corner[user, 1], blocks), turn_probability, uniform[user])
            heading[user] = way
        east = 1.0 if way == EAST else (-1.0 if way == WEST else 0.0)
        north = 1.0 if way == NORTH else (-1.0 if way == SOUTH else 0.0)
        position[user, 0] = corner[user, 0] * block_m[0] + east * past_m[user] + north * lane_m
        position[user, 1] = corner[user, 1] * block_m[1] + north * past_m[user] - east * lane_m
        velocity[user, 0] = east * speed[user]
        velocity[user, 1] = north * speed[user]


@njit
def roam(
    target: Reals,
    speed: Reals,
    pause_s: Reals,
    area: Reals,
    bounds: Reals,
    time_s: float,
    position: Reals,
    velocity: Reals,
    uniform: Reals,
) -> None:
    """Walk each end for a time towards its target; there it pauses, and then picks another in ``area``.

    It passes one target at most: had it time to reach the next as well, it would wait there. ``bounds`` is (lowest
    speed, highest speed, longest pause), ``area`` (xmin, ymin, xmax, ymax), ``uniform`` [user 4] fresh in [0, 1).
    Writes all but these; ``velocity`` is that at the end of the time, zero in a pause.
    """
    for user in range(speed.shape[0]):
        left = time_s
        for _ in range(2):
            rest = min(pause_s[user], left)
            pause_s[user] -= rest
            left -= rest
            east, north = target[user, 0] - position[user, 0], target[user, 1] - position[user, 1]
            away = math.sqrt(east * east + north * north)
            walked = min(speed[user] * left, away)
            part = walked / away if away > 0.0 else 0.0
            position[user, 0] += east * part
            position[user, 1] += north * part
            velocity[user, 0] = east / away * speed[user] if left > 0.0 and away > 0.0 else 0.0
            velocity[user, 1] = north / away * speed[user] if left > 0.0 and away > 0.0 else 0.0
            if walked < away or left <= 0.0:
                break
            left -= away / speed[user]
            if _ == 0:
                pause_s[user] = bounds[2] * uniform[user, 0]
                speed[user] = bounds[0] + (bounds[1] - bounds[0]) * uniform[user, 1]
                target[user, 0] = area[0] + (area[2] - area[0]) * uniform[user, 2]
                target[user, 1] = area[1] + (area[3] - area[1]) * uniform[user, 3]
