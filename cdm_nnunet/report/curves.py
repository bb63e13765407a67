"""DVH curves with few points, for drawing."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import DvhCurve

MAX_POINTS = 200
DECIMALS = 3
_CANDIDATES = 5000
_HIGH_STEP_PERCENT = 0.1


class DrawnCurve(NamedTuple):
    """A polyline near a cumulative DVH.

    Attributes:
        dose_gy: Ascending, shape (k,), Gy; a dose appears twice where the curve is vertical.
        volume_percent: Descending from 100 to 0, shape (k,), percent.
        max_error_percent: Largest vertical distance to the exact curve, in percent of the volume, before rounding.
    """

    dose_gy: NDArray[np.float64]
    volume_percent: NDArray[np.float64]
    max_error_percent: float


def drawn_curve(curve: DvhCurve, max_points: int = MAX_POINTS) -> DrawnCurve:
    """Reduce a cumulative DVH to a polyline of at most ``max_points`` points, rounded to three decimals.

    The points are corners of the step function: all of them if they are few enough, otherwise the one farthest from
    the polyline is added repeatedly.

    Example:
        >>> drawn = drawn_curve(DvhCurve(np.array([1.0, 2.0]), np.array([100.0, 25.0])))
        >>> drawn.dose_gy, drawn.volume_percent, drawn.max_error_percent
        (array([0., 1., 1., 2., 2.]), array([100., 100.,  25.,  25.,   0.]), 0.0)
    """
    below = np.append(curve.volume_percent[1:], 0.0)  # right of each step
    x = np.concatenate([[0.0], np.repeat(curve.dose_gy, 2)])
    y = np.concatenate([[100.0], np.column_stack([curve.volume_percent, below]).ravel()])
    chosen = np.arange(x.size) if x.size <= max_points else _vertices(x, y, max_points)
    drawn_x, drawn_y = x[chosen].round(DECIMALS), y[chosen].round(DECIMALS)
    return DrawnCurve(drawn_x, drawn_y, _largest_distance(x, y, chosen))


def _vertices(x: NDArray[np.float64], y: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Indices of ``n`` corners, including both ends."""
    evenly = np.linspace(0, x.size - 1, min(x.size, _CANDIDATES)).round().astype(np.intp)
    high = np.flatnonzero(np.abs(np.diff(y)) > _HIGH_STEP_PERCENT)
    among = np.unique(np.concatenate([evenly, high, high + 1]))
    x, y = x[among], y[among]
    chosen = [0, x.size - 1]
    farthest: list[tuple[float, int, int, int]] = []

    def consider(left: int, right: int) -> None:
        if right - left > 1:
            distance = np.abs(_chord(x[left + 1 : right], x[left], x[right], y[left], y[right]) - y[left + 1 : right])
            place = int(distance.argmax())
            heapq.heappush(farthest, (-float(distance[place]), left, left + 1 + place, right))

    consider(*chosen)
    while farthest and len(chosen) < n:
        _, left, middle, right = heapq.heappop(farthest)
        chosen.append(middle)
        consider(left, middle)
        consider(middle, right)
    return np.asarray(among[np.sort(chosen)], np.intp)


def _largest_distance(x: NDArray[np.float64], y: NDArray[np.float64], chosen: NDArray[np.intp]) -> float:
    """Largest vertical distance of the corners from the polyline through the chosen ones."""
    right = np.searchsorted(chosen, np.arange(x.size)).clip(1)
    left, right = chosen[right - 1], chosen[right]
    inside = (np.arange(x.size) != left) & (np.arange(x.size) != right)
    distance = np.abs(_chord(x, x[left], x[right], y[left], y[right]) - y)[inside]
    return float(distance.max(initial=0.0))


def _chord(x: Any, left_x: Any, right_x: Any, left_y: Any, right_y: Any) -> NDArray[np.float64]:
    """Height at ``x`` of the line between two points; for a vertical line, its upper end."""
    width = right_x - left_x
    share = np.where(width > 0, (x - left_x) / np.where(width > 0, width, 1.0), 0.0)
    return np.asarray(left_y + share * (right_y - left_y))
