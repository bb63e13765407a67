"""The shape of an ROI between its planes of contours, as thin layers.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.blend import Blend
from cdm_nnunet.geometry.contours import ContourStack
from cdm_nnunet.geometry.distances import (
    EIGHT,
    Box,
    Distances,
    LevelCut,
    Raster,
    half_width_mm,
    raster_of,
)
from cdm_nnunet.geometry.plane_distances import PlaneDistances
from cdm_nnunet.geometry.scanlines import Cut

_SAME_OUTLINE_MM = 1e-4  # planes whose distances differ by less have the same outline: no interpolation
_LATE_END = 1.25  # of the slice distance: a piece that tapers to an end beyond this is cut instead
_TAPERS = 1.1  # change of the squared half-width from one plane to the next
_FLATTEST = -4.0  # bend of an ellipsoid twice as wide as high; below it, the shape changes between the planes
_FAR_MM = 1e4
_KEPT = 5  # planes around the current one whose distances are kept
_REACH = 2  # planes up to this one's shape tells how pieces go on
_NEAR = 2  # nodes around a piece with relevant distances


@dataclass(frozen=True, eq=False)
class Layer:
    """A part of an ROI of constant cross-section.

    Attributes:
        low_mm: Its start along w.
        high_mm: Its end.
        cut: Its cross-section.
    """

    low_mm: float
    high_mm: float
    cut: Cut


def layers(stack: ContourStack, thickness_mm: float, step_mm: float, lowered_mm: float = 0.0) -> Iterator[Layer]:
    """An ROI as layers, the shape between two planes interpolated.

    Args:
        stack: The planes with end caps.
        thickness_mm: Maximum thickness of a layer.
        step_mm: Detail within a plane, as :func:`cdm_nnunet.geometry.distances.raster_of`.
        lowered_mm: Flat ends beyond or between planes are lowered by this, so that only one of two ends at voxel
            centres counts. (Rounded ends are accurate only to the thickness of a layer.)
    """
    shape = _Shape(stack, raster_of(stack.sections, step_mm), thickness_mm, lowered_mm)
    for k in range(len(stack.sections)):
        if not stack.is_joined(k - 1):
            yield from shape.end(k, -1)
        yield from shape.between(k) if stack.is_joined(k) else shape.end(k, 1)


def slabs(stack: ContourStack) -> Iterator[Layer]:
    """An ROI as one layer per plane, nothing interpolated."""
    for low_mm, high_mm, section in zip(stack.low_mm.tolist(), stack.high_mm.tolist(), stack.sections, strict=True):
        yield Layer(low_mm, high_mm, section)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A part of one plane's cross-section, or a hole in it, without a continuation in the next plane.

    Attributes:
        box: The part of the raster around it, (v, u).
        distance_mm: In the box: distance from the piece's outline, above zero in the piece; far below it elsewhere.
        inset_mm: Returns its shrinkage at a distance from its plane; very large beyond its end.
        is_flat: Whether it does not shrink before its end.
    """

    box: Box
    distance_mm: Distances
    inset_mm: Callable[[float], float]
    is_flat: bool

    def add_to(self, level: Distances, depth_mm: float) -> None:
        """Add it to a cross-section, ``depth_mm`` beyond its plane."""
        level[self.box] = np.maximum(level[self.box], self.distance_mm - self.inset_mm(depth_mm))

    def take_from(self, level: Distances, depth_mm: float) -> None:
        """Cut it out of a cross-section, ``depth_mm`` beyond its plane."""
        level[self.box] = np.minimum(level[self.box], self.inset_mm(depth_mm) - self.distance_mm)


class _Way(NamedTuple):
    """From a plane towards where its pieces, or the holes in it, end.

    Attributes:
        part: The nodes that are looked at.
        k: The plane.
        side: On which side of w.
        height_mm: Distance of the next slice.
        flat_mm: After which distance flat ones end.
    """

    part: Raster
    k: int
    side: int
    height_mm: float
    flat_mm: float


class _Shape:
    """Distances in the planes, and the shape between and beyond the planes."""

    def __init__(self, stack: ContourStack, raster: Raster, thickness_mm: float, lowered_mm: float) -> None:
        self.stack, self.raster, self.thickness_mm, self.lowered_mm = stack, raster, thickness_mm, lowered_mm
        self._known: dict[int, PlaneDistances] = {}

    def end(self, k: int, side: int) -> Iterator[Layer]:
        """Layers beyond an outermost plane, on the given side of w."""
        stack = self.stack
        plane_mm = float(stack.planes_mm[k])
        is_rounded = stack.end_caps.startswith("rounded") and stack.is_joined(k if side < 0 else k - 1)
        if not is_rounded:
            yield from self._flat_end(k, float((stack.low_mm if side < 0 else stack.high_mm)[k]))
            return
        height_mm = abs(plane_mm - float(stack.planes_mm[k - side]))
        flat_mm = height_mm / 2 if stack.end_caps.endswith("half-slab") else 0.0
        part = self.raster.around([stack.sections[k]])
        pieces = self._pieces(self._plane(k).at(part) > 0, _Way(part, k, side, height_mm, flat_mm))
        if pieces and all(piece.is_flat for piece in pieces):
            yield from self._flat_end(k, plane_mm + side * flat_mm)
            return
        lowered_mm = self.lowered_mm if any(piece.is_flat for piece in pieces) else 0.0
        for low_mm, high_mm in self._cuts_mm(plane_mm, plane_mm + side * height_mm, lowered_mm):
            depth_mm = abs((low_mm + high_mm) / 2 - plane_mm)
            level = np.full(part.shape, -_FAR_MM)
            for piece in pieces:
                piece.add_to(level, depth_mm)
            if (level > 0).any():
                yield Layer(low_mm, high_mm, LevelCut(part, level))

    def _flat_end(self, k: int, far_mm: float) -> Iterator[Layer]:
        """Plane k continues unchanged up to its end; an end at the plane itself has no layer."""
        plane_mm = float(self.stack.planes_mm[k])
        if far_mm != plane_mm:
            for low_mm, high_mm in self._cuts_mm(plane_mm, far_mm - self.lowered_mm):
                yield Layer(low_mm, high_mm, self.stack.sections[k])

    def between(self, k: int) -> Iterator[Layer]:
        """Layers between plane k and the next one."""
        low_mm, high_mm = self.stack.planes_mm[k : k + 2].tolist()
        part = self.raster.around(self.stack.sections[k : k + 2])
        planes = self._plane(k), self._plane(k + 1)
        ends = planes[0].at(part), planes[1].at(part)
        inside = ends[0] > 0, ends[1] > 0
        height_mm = high_mm - low_mm
        pieces, holes, filled = [], [], []
        for n, (plane, side) in enumerate(((k, 1), (k + 1, -1))):
            lone, open_ = planes[n].alone(planes[1 - n], part)
            way = _Way(part, plane, side, height_mm, height_mm / 2)
            pieces.append(self._pieces(lone, way))
            holes.append(self._pieces(open_, way, -1.0))
            size = np.abs(ends[n])
            filled.append(np.where(lone, -size, np.where(open_, size, ends[n])))
        loose = [*pieces[0], *pieces[1], *holes[0], *holes[1]]
        width = None if loose else self._towards_end(k, part, inside[0] | inside[1])
        bulge = 0.0 if loose else self._bulge(k)
        if not loose and bulge == 0 and float(np.abs(ends[0] - ends[1]).max()) <= _SAME_OUTLINE_MM:
            for low, high in self._cuts_mm(low_mm, high_mm):
                yield Layer(low, high, self.stack.sections[k])
            return
        blend = Blend(filled[0], filled[1], self.raster.step_mm, bulge, width)
        away = np.zeros(part.shape, bool)
        has_pieces = bool(pieces[0] or pieces[1])
        for piece in (*pieces[0], *pieces[1]):
            away[piece.box] |= piece.distance_mm > -_FAR_MM
        lowered_mm = self.lowered_mm if any(piece.is_flat for piece in loose) else 0.0
        for low, high in self._cuts_mm(low_mm, high_mm, lowered_mm):
            middle_mm = (low + high) / 2
            level = blend.at((middle_mm - low_mm) / height_mm)
            if has_pieces:
                np.minimum(level, -self.raster.step_mm, out=level, where=away)
            for n, depth_mm in enumerate((middle_mm - low_mm, high_mm - middle_mm)):
                for piece in pieces[n]:
                    piece.add_to(level, depth_mm)
                for hole in holes[n]:
                    hole.take_from(level, depth_mm)
            yield Layer(low, high, LevelCut(part, level))

    def _pieces(self, mask: NDArray[np.bool_], way: _Way, sign: float = 1.0) -> list[_Piece]:
        """Pieces of a plane (sign 1), or holes (-1), that end on the way."""
        if not mask.any():
            return []
        k, side = way.k, way.side
        numbers, n = ndimage.label(mask, EIGHT)
        before = [j for j in (k - side, k - 2 * side) if self._is_linked(k, j)]
        steps_mm = np.abs(np.diff(self.stack.planes_mm[[k, *before]])).tolist()
        made = []
        for piece, (rows, columns) in enumerate(ndimage.find_objects(numbers, n), 1):
            box = _widened(rows), _widened(columns)
            own, around = numbers[box] == piece, way.part.cut(box)
            distance = sign * self._plane(k).at(around)
            squares = [half_width_mm(self._plane(j).peaks_mm(around, sign), own) ** 2 for j in (k, *before)]
            taper = _taper(squares, steps_mm, way.height_mm)
            own_mm = np.where(_near(own) & (own | (distance <= 0)), distance, -_FAR_MM)
            made.append(_Piece(box, own_mm, taper or _flat(way.flat_mm), taper is None))
        return made

    def _bulge(self, k: int) -> float:
        """Excess of the area half-way to the next plane over linear interpolation, in nodes.

        From the second differences at both planes: the smaller one, zero if they differ in sign. A ball's area
        follows this parabola exactly.
        """
        planes_mm = self.stack.planes_mm
        areas = {j: self._plane(j).area for j in range(k - 1, k + 3) if self._is_linked(k, j)}
        bends = []
        for j in (k, k + 1):
            if j - 1 in areas and j + 1 in areas:
                before_mm, after_mm = np.diff(planes_mm[j - 1 : j + 2])
                slopes = (areas[j] - areas[j - 1]) / before_mm, (areas[j + 1] - areas[j]) / after_mm
                bends.append(float(slopes[1] - slopes[0]) / float(before_mm + after_mm))
        if not bends or min(bends) * max(bends) <= 0:
            return 0.0
        bulge = -min(bends, key=abs) * float(planes_mm[k + 1] - planes_mm[k]) ** 2 / 4
        limit = min(areas[k], areas[k + 1]) / 2
        return min(max(bulge, -limit), limit)

    def _towards_end(self, k: int, part: Raster, mask: NDArray[np.bool_]) -> Callable[[float], float] | None:
        """Half-width at a fraction of the way from plane k to the next, if one of them is the last of a rounded end."""
        if not self.stack.end_caps.startswith("rounded"):
            return None
        planes_mm, ends = self.stack.planes_mm, []
        for end, side in ((k, -1), (k + 1, 1)):
            if not self.stack.is_joined(end if side > 0 else end - 1) and self._is_linked(end, end - 2 * side):
                ends.append((end, end - side, end - 2 * side))
        if len(ends) != 1:
            return None
        chosen = ends[0]
        squares = [half_width_mm(self._plane(j).peaks_mm(part, 1.0), mask) ** 2 for j in chosen]
        if squares[1] < _TAPERS * squares[0]:
            return None
        steps_mm = np.abs(np.diff(planes_mm[list(chosen)])).tolist()
        slope, bend = _parabola(squares, steps_mm)

        def width_mm(t: float) -> float:
            depth_mm = -steps_mm[0] * (t if chosen[0] == k else 1 - t)
            return float(np.sqrt(np.clip(squares[0] + depth_mm * (slope + bend * depth_mm), squares[0], squares[1])))

        return width_mm

    def _is_linked(self, k: int, j: int) -> bool:
        low, high = min(k, j), max(k, j)
        return low >= 0 and all(self.stack.is_joined(m) for m in range(low, high))

    def _plane(self, k: int) -> PlaneDistances:
        """Distances from the outline of plane k, around all planes that need them."""
        if k not in self._known:
            self._known = {j: known for j, known in self._known.items() if abs(j - k) <= _KEPT}
            sections = self.stack.sections
            part = self.raster.around(sections[max(k - _REACH, 0) : k + _REACH + 1])
            self._known[k] = PlaneDistances(sections[k], part)
        return self._known[k]

    def _cuts_mm(self, from_mm: float, to_mm: float, lowered_mm: float = 0.0) -> list[tuple[float, float]]:
        """Layers between two positions; flat pieces end in the middle, lowered on request."""
        low_mm, high_mm = min(from_mm, to_mm), max(from_mm, to_mm)
        pairs = int(np.ceil((high_mm - low_mm) / (2 * self.thickness_mm)))
        edges = np.linspace(low_mm, high_mm, 2 * pairs + 1).tolist()
        if pairs:
            edges[pairs] -= lowered_mm
        return list(itertools.pairwise(edges))


def _taper(squares: list[float], steps_mm: list[float], height_mm: float) -> Callable[[float], float] | None:
    """Shrinkage of a piece beyond its plane, if it tapers to an end before the next slice; otherwise None.

    The square of its half-width follows the parabola through the last three planes: exact for balls, cones, tori and
    ellipsoids. Without a third plane, or if the shape changes between them, it follows that of a ball.

    Args:
        squares: Squares of the half-width in its plane and up to two before, mm2.
        steps_mm: Distances of these planes.
        height_mm: Distance of the next slice.
    """
    if len(squares) < 2 or squares[1] < _TAPERS * squares[0]:
        return None
    slope, bend = _parabola(squares, steps_mm)
    if slope >= 0:
        return None
    root = slope**2 - 4 * bend * squares[0]
    end_mm = 2 * squares[0] / (-slope + np.sqrt(root)) if root >= 0 else -slope / (2 * bend)
    if end_mm > _LATE_END * height_mm:
        return None
    width_mm, end_mm = np.sqrt(squares[0]), min(end_mm, height_mm)

    def inset_mm(depth_mm: float) -> float:
        if depth_mm >= end_mm:
            return _FAR_MM
        return float(width_mm - np.sqrt(max(squares[0] + depth_mm * (slope + bend * depth_mm), 0.0)))

    return inset_mm


def _parabola(squares: list[float], steps_mm: list[float]) -> tuple[float, float]:
    """Slope at the first of two or three planes, and bend; that of a ball if the third is not usable."""
    slope, bend = (squares[0] - squares[1]) / steps_mm[0], -1.0
    if len(squares) > 2:
        bend = (slope - (squares[1] - squares[2]) / steps_mm[1]) / (steps_mm[0] + steps_mm[1])
        bend = bend if bend >= _FLATTEST else -1.0
    return slope + bend * steps_mm[0], bend


def _widened(part: slice) -> slice:
    """A part of an axis extended by nearby nodes."""
    return slice(max(part.start - _NEAR, 0), part.stop + _NEAR)


def _near(own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The nodes of a piece and those near it, also across corners."""
    rows = own.copy()
    for n in range(1, _NEAR + 1):
        rows[n:] |= own[:-n]
        rows[:-n] |= own[n:]
    near = rows.copy()
    for n in range(1, _NEAR + 1):
        near[:, n:] |= rows[:, :-n]
        near[:, :-n] |= rows[:, n:]
    return near


def _flat(end_mm: float) -> Callable[[float], float]:
    return lambda depth_mm: 0.0 if depth_mm < end_mm else _FAR_MM
