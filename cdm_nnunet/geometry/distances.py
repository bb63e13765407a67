"""Cross-sections as signed distances from their outline, on a raster of nodes.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.scanlines import Points, Section, Spans

Distances = NDArray[np.float64]  # (v, u): distance from the outline in mm, above zero inside
Box = tuple[slice, slice]  # nodes (v, u)
_RASTER_MM = (0.1, 1.5)
_MOST_NODES = 1e6
_LEAST_MM = 1e-9
_MARGIN = 3  # nodes around the ROI, and around cross-sections in a part of the raster
_SHIFT = 0.381966  # of a step: edges at round coordinates must not lie on nodes
EIGHT = np.ones((3, 3), bool)  # neighbours of a node, with itself
_LINES = 64  # to find the area of a cross-section


@dataclass(frozen=True)
class Raster:
    """Nodes with known distances.

    Attributes:
        first_mm: The first node (u, v) of the whole.
        step_mm: Distance of the nodes.
        shape: Their number (v, u).
        corner: Number in the whole of the first node (v, u), where this is a part.
    """

    first_mm: tuple[float, float]
    step_mm: float
    shape: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    def lines_mm(self, axis: int) -> NDArray[np.float64]:
        """Coordinates of the nodes along u (0) or v (1)."""
        return self.first_mm[axis] + self.step_mm * self.numbers(1 - axis)

    def numbers(self, axis: int) -> NDArray[np.float64]:
        """Numbers in the whole of the nodes along v (0) or u (1)."""
        return np.arange(self.corner[axis], self.corner[axis] + self.shape[axis], dtype=np.float64)

    def around(self, sections: Iterable[Section]) -> Raster:
        """The part around cross-sections."""
        boxes = np.array([section.box_mm for section in sections])
        ends = ((boxes[:, 0].min(0), boxes[:, 1].max(0)) - np.array(self.first_mm)) / self.step_mm
        low = np.maximum(np.floor(ends[0, ::-1]).astype(int) - _MARGIN, self.corner)
        high = np.minimum(np.ceil(ends[1, ::-1]).astype(int) + _MARGIN + 1, np.add(self.corner, self.shape))
        (v, u), (n_v, n_u) = low.tolist(), (high - low).tolist()
        return Raster(self.first_mm, self.step_mm, (n_v, n_u), (v, u))

    def cut(self, box: Box) -> Raster:
        """A part by its nodes; the box lies within."""
        rows, columns = box
        corner = self.corner[0] + rows.start, self.corner[1] + columns.start
        return Raster(self.first_mm, self.step_mm, (rows.stop - rows.start, columns.stop - columns.start), corner)

    def place_of(self, part: Raster) -> Box:
        """Where the nodes of a part lie in this."""
        (v, u), (n_v, n_u) = np.subtract(part.corner, self.corner).tolist(), part.shape
        return slice(v, v + n_v), slice(u, u + n_u)


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
        rows = np.flatnonzero(inside.any(1))
        if not rows.size:
            return first, first
        columns = np.flatnonzero(inside[rows[0] : rows[-1] + 1].any(0))
        row, column = self.raster.corner
        low, high = (np.array([columns[k] + column, rows[k] + row]) for k in (0, -1))
        return first + (low - 1) * step_mm, first + (high + 1) * step_mm

    def spans(self, lines_mm: NDArray[np.float64]) -> Spans:
        """Parts of the lines v = constant inside."""
        (u0_mm, v0_mm), step_mm, (first_row, first_column) = (
            self.raster.first_mm,
            self.raster.step_mm,
            self.raster.corner,
        )
        at = (lines_mm - v0_mm) / step_mm
        row = np.floor(at).astype(np.int64) - first_row
        row = np.minimum(np.maximum(row, 0), self.raster.shape[0] - 2)
        above = (at - (row + first_row))[:, None]
        level = (1 - above) * self.distance_mm[row]
        level += above * self.distance_mm[row + 1]
        inside = level > 0
        inside &= (above >= 0) & (above <= 1)
        inside[:, [0, -1]] = False  # (there is a margin)
        # A line changes from outside to inside and back in turns.
        line, node = np.divmod(np.flatnonzero(inside[:, :-1] != inside[:, 1:]), inside.shape[1] - 1)
        low, high = level[line, node], level[line, node + 1]
        edge_mm = u0_mm + step_mm * (node + first_column + low / (low - high))
        return Spans(line[::2], edge_mm[::2], edge_mm[1::2])


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
    along_u, count = _crossed(section, raster, 0)
    along_v, _ = _crossed(_turned(section), raster, 1)
    inside = (np.cumsum(count, axis=1, dtype=np.uint8) & 1).view(np.bool_)  # (odd numbers stay odd where they overflow)
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
    foot = [column + raster.corner[1] + inverse[0] / square, row + raster.corner[0] + inverse[1] / square]
    normal = [inverse[0] / length, inverse[1] / length]
    nearest = ndimage.distance_transform_edt(~band, return_distances=False, return_indices=True)
    number = np.zeros(raster.shape, np.int64)
    number[band] = np.arange(row.size)
    found = number[nearest[0], nearest[1]]
    away_u = raster.numbers(1) - foot[0][found]
    away_v = raster.numbers(0)[:, None] - foot[1][found]
    normal_u, normal_v = normal[0][found], normal[1][found]
    along = np.abs(away_u * normal_v - away_v * normal_u)
    # (a foot point is accurate to one step along the outline)
    across_mm, along = away_u * normal_u + away_v * normal_v, np.maximum(along - 1, 0.0)
    distance = np.sqrt(across_mm * across_mm + along * along)  # (hypot takes several times as long)
    return np.asarray(np.where(inside, distance, -distance) * raster.step_mm)


def peaks_mm(distance: Distances, step_mm: float) -> Distances:
    """Largest distance from the outline at and around every node, as both sides of it tell; 0 at the raster's edge.

    Distances fall off to both sides of the middle with slope 1: two nodes on either side give the peak between them.
    """
    peak = np.zeros(distance.shape)
    inner = peak[1:-1, 1:-1]
    inner[:] = np.inf
    for v, u in ((0, 1), (1, 0), (1, 1), (1, -1)):
        sides = _moved(distance, v, u) + _moved(distance, -v, -u)
        sides /= 2
        sides += step_mm * np.hypot(u, v)
        np.minimum(inner, sides, out=inner)
    return peak


def half_width_mm(peaks: Distances, mask: NDArray[np.bool_]) -> float:
    """Largest distance from the outline in a part of a raster, by :func:`peaks_mm`; at least zero."""
    return max(float(peaks[mask].max(initial=0.0)), 0.0)


def _moved(distance: Distances, v: int, u: int) -> Distances:
    """Distances at the neighbours of all nodes but the outermost."""
    rows, columns = distance.shape
    return distance[1 + v : rows - 1 + v, 1 + u : columns - 1 + u]


def covered(level: Distances, step_mm: float) -> NDArray[np.float64]:
    """Part of each node's square inside the cross-section."""
    share = level / step_mm
    share += 0.5
    np.maximum(share, 0.0, out=share)
    return np.minimum(share, 1.0, out=share)


def _crossed(section: Section, raster: Raster, axis: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Where after each node of the lines along u (axis 0) or v (1) the outline is, in steps, and crossings before it.

    The cross-section's second axis is across the lines. Crossings are counted from one node to the next.
    """
    found = section.spans(raster.lines_mm(1 - axis))
    first_mm = raster.first_mm[axis]
    step_mm = first_mm + raster.step_mm - first_mm
    line = np.concatenate([found.line, found.line])
    at = (np.concatenate([found.start_mm, found.end_mm]) - first_mm) / step_mm
    beyond = np.ceil(at).astype(np.int64)  # the first node beyond the crossing
    part = at - (beyond - 1)
    beyond -= raster.corner[1 - axis]
    shape = raster.shape[axis], raster.shape[1 - axis]
    count = np.bincount(line * shape[1] + beyond, minlength=shape[0] * shape[1]).astype(np.uint8).reshape(shape)
    where = np.full((shape[0], shape[1] - 1), 0.5)
    where[line, beyond - 1] = part
    return where, count


def _to_crossing(inside: NDArray[np.bool_], where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance along the rows to the nearest crossing of each node, in steps; infinite without one."""
    node = np.arange(inside.shape[1], dtype=np.float64)
    changes = inside[:, :-1] != inside[:, 1:]
    at = node[:-1] + where
    after, before = np.full(inside.shape, np.inf), np.full(inside.shape, -np.inf)
    np.copyto(after[:, :-1], at, where=changes)
    np.copyto(before[:, 1:], at, where=changes)
    after = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
    after -= node
    before = np.maximum.accumulate(before, axis=1)
    before -= node
    np.copyto(after, before, where=-before < after)
    return after


def _slope(offset: NDArray[np.float64], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shift of the crossing along a row from row to row at nodes, in steps; at a corner, on the flatter side.

    If a node lies between two sides of an outline, the crossings across belong to another side than those along.
    """
    above, own, below = (offset[row + k, column] for k in (-1, 0, 1))  # (no node lies at the edge)
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
    row, column = row - raster.corner[0], column - raster.corner[1]
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
