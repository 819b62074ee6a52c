"""Places linked people on a plane: near each other where a link joins them.

Everything is computed in a fixed order from a fixed start, so the same links give the same drawing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

LINK = 138.0  # length of a link, pixels
APART = (100.0, 104.0)  # two people are at least so far apart, across or down
STEPS, ROUNDS = 150, 300


def components(count: int, links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """People joined by links, directly or through others; those without a link are left out.

    Args:
        count: number of people.
        links: pairs of people.

    Returns:
        The people of each component in increasing order, the largest component first.
    """
    near = _neighbours(count, links)
    seen: set[int] = set()
    result = []
    for start in range(count):
        if near[start] and start not in seen:
            members, queue = {start}, [start]
            while queue:
                new = [node for node in near[queue.pop()] if node not in members]
                members.update(new)
                queue += new
            seen |= members
            result.append(sorted(members))
    return sorted(result, key=lambda members: (-len(members), members[0]))


def lay_out(count: int, links: Sequence[tuple[int, int]]) -> Points:
    """Where each person of a component stands.

    Minimises the stress: the squared differences of distances on the plane from distances along
    links, weighted by 1 / distance^2, by majorization from a circle (Gansner, Koren and North,
    "Graph drawing by stress majorization", 2004). Then people who overlap are moved apart.

    Args:
        count: number of people, all joined by links.
        links: pairs of people.

    Returns:
        (count, 2) pixels from the left and the top, the least of both 0.
    """
    if count == 2:
        return np.array([[0.0, 0.0], [LINK, 0.0]])
    hops = _hops(count, links)  # (N, N)
    points = _least_stress(_circle(count, links), hops)
    points = _apart(_upright(points) * LINK)
    result: Points = points - points.min(axis=0)
    return result


def _neighbours(count: int, links: Sequence[tuple[int, int]]) -> list[list[int]]:
    near: list[set[int]] = [set() for _ in range(count)]
    for a, b in links:
        near[a].add(b)
        near[b].add(a)
    return [sorted(nodes) for nodes in near]


def _hops(count: int, links: Sequence[tuple[int, int]]) -> Points:
    """Number of links between every two people."""
    near = _neighbours(count, links)
    hops = np.zeros((count, count))
    for start in range(count):
        level, seen, front = 0, {start}, [start]
        while front:
            hops[start, front] = level
            level += 1
            front = sorted({node for a in front for node in near[a]} - seen)
            seen.update(front)
    return hops


def _circle(count: int, links: Sequence[tuple[int, int]]) -> Points:
    """People on a circle, each beside one that it is linked with where that is possible."""
    near = _neighbours(count, links)
    order: list[int] = []
    seen: set[int] = set()
    stack = [max(range(count), key=lambda node: (len(near[node]), -node))]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            order.append(node)
            stack += sorted(near[node], key=lambda other: (len(near[other]), other), reverse=True)
    angles = np.empty(count)
    angles[order] = 2 * np.pi * np.arange(count) / count - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * max(1.0, count / 2 / np.pi)


def _least_stress(points: Points, hops: Points) -> Points:
    count = len(points)
    far = hops + np.eye(count)
    weights = far**-2 * (1 - np.eye(count))
    wanted = weights * far
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.inv(laplacian + 1 / count)  # of what is orthogonal to a common shift
    for _ in range(STEPS):
        between = np.hypot(*(axis[:, None] - axis for axis in points.T))  # (N, N)
        ratios = wanted / np.maximum(between, 1e-6)
        target = np.diag(ratios.sum(axis=1)) - ratios
        moved = inverse @ (target @ points)
        if np.abs(moved - points).max() < 1e-4:
            break
        points = moved
    return points


def _upright(points: Points) -> Points:
    """Turned so that the longer axis stands upright: drawings go side by side, on phones below."""
    points = points - points.mean(axis=0)
    values, axes = np.linalg.eigh(points.T @ points)
    if values[1] < 1.3 * max(values[0], 1e-9):  # about round: as it is
        return points
    long = axes[:, 1] * (1 if abs(axes[0, 1]) < 1e-9 or axes[0, 1] > 0 else -1)
    across = np.array([-long[1], long[0]])
    turned = np.stack([points @ across, points @ long], axis=1)
    return turned[:, ::-1] if len(points) == 3 else turned  # three in a row fit any screen


def _apart(points: Points) -> Points:
    """Moves people who overlap, each pair along the axis on which less is missing."""
    count, own = len(points), np.eye(len(points), dtype=bool)
    # equal places, or places on a line, get different directions to go
    x, y = (points + 1e-3 * np.arange(count)[:, None] * np.array([1.0, -1.0])).T
    for _ in range(ROUNDS):
        across, down = x[:, None] - x, y[:, None] - y  # (N, N)
        missing_x, missing_y = APART[0] - np.abs(across), APART[1] - np.abs(down)
        hit = (missing_x > 0.5) & (missing_y > 0.5) & ~own
        if not hit.any():
            break
        is_across = missing_x / APART[0] <= missing_y / APART[1]
        x = x + (np.sign(across) * missing_x * (hit & is_across)).sum(axis=1) * 0.3
        y = y + (np.sign(down) * missing_y * (hit & ~is_across)).sum(axis=1) * 0.3
    return np.stack([x, y], axis=1)
