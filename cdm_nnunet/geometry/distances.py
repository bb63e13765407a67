"""Cross-sections as signed distances from their outline, on a raster of nodes.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.scanlines import Points, Section, Spans

Distances = NDArray[np.float64]  # (v, u): distance from the outline in mm, above zero inside
_RASTER_MM = (0.1, 1.5)
_MOST_NODES = 1e6
_LEAST_MM = 1e-9
_MARGIN = 3  # nodes around the ROI
_SHIFT = 0.381966  # of a step: edges at round coordinates must not lie on nodes
_LINES = 64  # to find the area of a cross-section


@dataclass(frozen=True)
class Raster:
    """Nodes with known distances.

    Attributes:
        first_mm: The first node (u, v).
        step_mm: Distance of the nodes.
        shape: Their number (v, u).
    """

    first_mm: tuple[float, float]
    step_mm: float
    shape: tuple[int, int]

    def lines_mm(self, axis: int) -> NDArray[np.float64]:
        """Coordinates of the nodes along u (0) or v (1)."""
        return self.first_mm[axis] + self.step_mm * np.arange(self.shape[1 - axis], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class LevelCut:
    """The cross-section with distances above zero, interpolated linearly between nodes."""

    raster: Raster
    distance_mm: Distances

    @property
    def box_mm(self) -> tuple[Points, Points]:
        """Lowest and highest (u, v), to a node."""
        first, step_mm = np.array(self.raster.first_mm), self.raster.step_mm
        inside = self.distance_mm > 0
        if not inside.any():
            return first, first
        ends = [np.flatnonzero(inside.any(axis))[[0, -1]] for axis in (0, 1)]
        low, high = np.array(ends).T
        return first + (low - 1) * step_mm, first + (high + 1) * step_mm

    def spans(self, lines_mm: NDArray[np.float64]) -> Spans:
        """Parts of the lines v = constant inside."""
        (u0_mm, v0_mm), step_mm = self.raster.first_mm, self.raster.step_mm
        first, distance_mm = self._columns()
        at = (lines_mm - v0_mm) / step_mm
        row = np.clip(np.floor(at).astype(np.int64), 0, self.raster.shape[0] - 2)
        above = (at - row)[:, None]
        level = (1 - above) * distance_mm[row] + above * distance_mm[row + 1]
        inside = (level > 0) & (above >= 0) & (above <= 1)
        inside[:, [0, -1]] = False  # (there is a margin)
        line, start = np.nonzero(~inside[:, :-1] & inside[:, 1:])
        _, end = np.nonzero(inside[:, :-1] & ~inside[:, 1:])
        edges = []
        for node in (start, end):
            low, high = level[line, node], level[line, node + 1]
            edges.append(u0_mm + step_mm * (node + first + low / (low - high)))
        return Spans(line.astype(np.int64), edges[0], edges[1])

    def _columns(self) -> tuple[int, Distances]:
        """The columns of nodes with a part inside, and one more on either side; and the index of the first."""
        found = np.flatnonzero((self.distance_mm > 0).any(0))
        if not found.size:
            return 0, self.distance_mm
        first = max(int(found[0]) - 1, 0)
        return first, self.distance_mm[:, first : int(found[-1]) + 2]


def raster_of(sections: Sequence[Section], step_mm: float) -> Raster:
    """Nodes around cross-sections, at most ``step_mm`` apart, and at least two across thin parts."""
    boxes = [section.box_mm for section in sections]
    low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
    step_mm = float(np.clip(min(step_mm, _half_thickness_mm(sections)), *_RASTER_MM))
    step_mm = max(step_mm, float(np.sqrt(np.prod(high - low) / _MOST_NODES)))
    n_u, n_v = (int(n) for n in np.ceil((high - low) / step_mm) + 1 + 2 * _MARGIN)
    first = low - (_MARGIN - _SHIFT) * step_mm
    return Raster((float(first[0]), float(first[1])), step_mm, (n_v, n_u))


def signed_distance(section: Section, raster: Raster) -> Distances:
    """Distance of every node from the outline of a cross-section, above zero inside; shape (v, u).

    Next to the outline it follows from the crossings of the outline with the lines through the node, exact for
    straight outlines; farther away, from the foot point on the outline of the nearest such node. Parts thinner than
    the distance of the nodes, such as the slit of a keyhole, are not resolved.
    """
    inside, along_u = _crossed(section, raster.lines_mm(1), raster.lines_mm(0))
    _, along_v = _crossed(_turned(section), raster.lines_mm(0), raster.lines_mm(1))
    across = [_to_crossing(inside, along_u), _to_crossing(inside.T, along_v).T]
    band = (np.abs(across[0]) <= 1) | (np.abs(across[1]) <= 1)
    if not band.any():
        return _beyond(section, raster)
    row, column = np.nonzero(band)
    offsets = [offset[band] for offset in across]
    inverse = [np.where(np.isfinite(offset), 1 / np.where(offset == 0, _LEAST_MM, offset), 0.0) for offset in offsets]
    with np.errstate(invalid="ignore"):  # (without a crossing, the slope is unknown)
        steepest = [
            np.abs(inverse[0]) * _slope(across[0], row, column),
            np.abs(inverse[1]) * _slope(across[1].T, column, row),
        ]
    flat = np.abs(offsets[0]) > np.abs(offsets[1])  # the outline runs mostly along u
    inverse = [
        np.where(flat, np.clip(inverse[0], -steepest[1], steepest[1]), inverse[0]),
        np.where(flat, inverse[1], np.clip(inverse[1], -steepest[0], steepest[0])),
    ]
    square = inverse[0] ** 2 + inverse[1] ** 2
    length = np.sqrt(square)
    foot = [column + inverse[0] / square, row + inverse[1] / square]
    normal = [inverse[0] / length, inverse[1] / length]
    nearest = ndimage.distance_transform_edt(~band, return_distances=False, return_indices=True)
    number = np.zeros(raster.shape, np.int64)
    number[band] = np.arange(row.size)
    found = number[nearest[0], nearest[1]]
    away_u = np.arange(raster.shape[1], dtype=np.float64) - foot[0][found]
    away_v = np.arange(raster.shape[0], dtype=np.float64)[:, None] - foot[1][found]
    normal_u, normal_v = normal[0][found], normal[1][found]
    along = np.abs(away_u * normal_v - away_v * normal_u)
    # (a foot point is accurate to one step along the outline)
    distance = np.hypot(away_u * normal_u + away_v * normal_v, np.maximum(along - 1, 0.0))
    return np.asarray(np.where(inside, distance, -distance) * raster.step_mm)


def half_width_mm(distance: Distances, mask: NDArray[np.bool_], step_mm: float) -> float:
    """Largest distance from the outline in a part of a raster, between its nodes too; at least zero.

    Distances fall off to both sides of the middle with slope 1: two nodes on either side give the peak between them.
    """
    row, column = np.nonzero(mask)
    peak = np.full(row.shape, np.inf)
    for v, u in ((0, 1), (1, 0), (1, 1), (1, -1)):
        sides = distance[row + v, column + u] + distance[row - v, column - u]
        peak = np.minimum(peak, sides / 2 + step_mm * np.hypot(u, v))
    return max(float(peak.max(initial=0.0)), 0.0)


def covered(level: Distances, step_mm: float) -> NDArray[np.float64]:
    """Part of each node's square inside the cross-section."""
    share = level / step_mm
    share += 0.5
    return np.clip(share, 0.0, 1.0, out=share)


def _crossed(
    section: Section, lines_mm: NDArray[np.float64], nodes_mm: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether nodes of lines lie inside, and the distance from each node to the next crossing, in steps."""
    found = section.spans(lines_mm)
    step_mm = nodes_mm[1] - nodes_mm[0]
    line = np.concatenate([found.line, found.line])
    at = (np.concatenate([found.start_mm, found.end_mm]) - nodes_mm[0]) / step_mm
    first = np.ceil(at).astype(np.int64)  # the first node beyond the crossing
    shape = lines_mm.size, nodes_mm.size
    count = np.bincount(line * shape[1] + first, minlength=shape[0] * shape[1]).reshape(shape)
    inside = np.cumsum(count, axis=1) % 2 == 1
    where = np.full((shape[0], shape[1] - 1), 0.5)
    where[line, first - 1] = at - (first - 1)
    return inside, where


def _to_crossing(inside: NDArray[np.bool_], where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance along the rows to the nearest crossing of each node, in steps; infinite without one."""
    node = np.arange(inside.shape[1], dtype=np.float64)
    changes = inside[:, :-1] != inside[:, 1:]
    after, before = np.full(inside.shape, np.inf), np.full(inside.shape, -np.inf)
    after[:, :-1] = before[:, 1:] = node[:-1] + where
    after[:, :-1][~changes], before[:, 1:][~changes] = np.inf, -np.inf
    after = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1] - node
    before = np.maximum.accumulate(before, axis=1) - node
    return np.where(-before < after, before, after)


def _slope(offset: NDArray[np.float64], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shift of the crossing along a row from row to row at nodes, in steps; at a corner, on the flatter side.

    If a node lies between two sides of an outline, the crossings across belong to another side than those along.
    """
    padded = np.pad(offset, ((1, 1), (0, 0)), constant_values=np.inf)
    above, own, below = (padded[row + k, column] for k in range(3))
    with np.errstate(invalid="ignore"):
        before, after = (
            np.nan_to_num(change, nan=np.inf, posinf=np.inf, neginf=np.inf) for change in (own - above, below - own)
        )
    low, high = np.minimum(np.abs(before), np.abs(after)), np.maximum(np.abs(before), np.abs(after))
    # (the harmonic mean, exact to third order for smooth curves)
    ratio = np.divide(low, high, out=np.zeros_like(low), where=np.isfinite(high) & (high > 0))
    turns = np.isfinite(high) & (before * after < 0)
    return np.where(turns, 0.0, low * 2 / (1 + ratio))


def _beyond(section: Section, raster: Raster) -> Distances:
    """Distances below zero from the points of contours that are too small for the raster."""
    points = np.concatenate([contour for group in section.groups for contour in group])
    column, row = np.rint((points - raster.first_mm) / raster.step_mm).astype(np.int64).T
    marked = np.zeros(raster.shape, bool)
    marked[row, column] = True
    return -raster.step_mm * np.asarray(ndimage.distance_transform_edt(~marked)) - _LEAST_MM


def _turned(section: Section) -> Section:
    return Section(tuple(tuple(contour[:, ::-1] for contour in group) for group in section.groups))


def _half_thickness_mm(sections: Sequence[Section]) -> float:
    """Half the radius of equivalent disks, or half the width of equivalent bands: area divided by outline."""
    area_mm2 = length_mm = 0.0
    for section in sections:
        low, high = section.box_mm
        pitch_mm = float(high[1] - low[1]) / _LINES
        found = section.spans(low[1] + (np.arange(_LINES) + 0.5) * pitch_mm)
        area_mm2 += float((found.end_mm - found.start_mm).sum()) * pitch_mm
        for contour in itertools.chain.from_iterable(section.groups):
            length_mm += float(np.linalg.norm(np.diff(contour, axis=0, append=contour[:1]), axis=1).sum())
    return area_mm2 / length_mm if length_mm else 0.0
