"""The shape of an ROI between its planes of contours, as thin layers.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.geometry.contours import ContourStack
from cdm_nnunet.geometry.distances import (
    Distances,
    LevelCut,
    Raster,
    covered,
    half_width_mm,
    raster_of,
    signed_distance,
)
from cdm_nnunet.geometry.scanlines import Cut

_NEWTON_STEPS = 8
_SAME_AREA = 1e-3  # of the area
_SAME_OUTLINE_MM = 1e-4  # planes whose distances differ by less have the same outline: no interpolation
_LATE_END = 1.25  # of the slice distance: a piece that tapers to an end beyond this is cut instead
_TAPERS = 1.1  # change of the squared half-width from one plane to the next
_FLATTEST = -4.0  # bend of an ellipsoid twice as wide as high; below it, the shape changes between the planes
_FAR_MM = 1e4
_KEPT = 5  # planes around the current one whose distances are kept
_EIGHT = np.ones((3, 3), bool)
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

    box: tuple[slice, slice]
    distance_mm: Distances
    inset_mm: Callable[[float], float]
    is_flat: bool

    def add_to(self, level: Distances, depth_mm: float) -> None:
        """Add it to a cross-section, ``depth_mm`` beyond its plane."""
        level[self.box] = np.maximum(level[self.box], self.distance_mm - self.inset_mm(depth_mm))

    def take_from(self, level: Distances, depth_mm: float) -> None:
        """Cut it out of a cross-section, ``depth_mm`` beyond its plane."""
        level[self.box] = np.minimum(level[self.box], self.inset_mm(depth_mm) - self.distance_mm)


class _Shape:
    """Distances in the planes, and the shape between and beyond the planes."""

    def __init__(self, stack: ContourStack, raster: Raster, thickness_mm: float, lowered_mm: float) -> None:
        self.stack, self.raster, self.thickness_mm, self.lowered_mm = stack, raster, thickness_mm, lowered_mm
        self._known: dict[int, Distances] = {}
        self._areas: dict[int, float] = {}

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
        pieces = self._pieces(self._distance(k) > 0, k, side, 1.0, height_mm, flat_mm)
        if pieces and all(piece.is_flat for piece in pieces):
            yield from self._flat_end(k, plane_mm + side * flat_mm)
            return
        lowered_mm = self.lowered_mm if any(piece.is_flat for piece in pieces) else 0.0
        for low_mm, high_mm in self._cuts_mm(plane_mm, plane_mm + side * height_mm, lowered_mm):
            depth_mm = abs((low_mm + high_mm) / 2 - plane_mm)
            level = np.full(self.raster.shape, -_FAR_MM)
            for piece in pieces:
                piece.add_to(level, depth_mm)
            if (level > 0).any():
                yield Layer(low_mm, high_mm, LevelCut(self.raster, level))

    def _flat_end(self, k: int, far_mm: float) -> Iterator[Layer]:
        """Plane k continues unchanged up to its end; an end at the plane itself has no layer."""
        plane_mm = float(self.stack.planes_mm[k])
        if far_mm != plane_mm:
            for low_mm, high_mm in self._cuts_mm(plane_mm, far_mm - self.lowered_mm):
                yield Layer(low_mm, high_mm, self.stack.sections[k])

    def between(self, k: int) -> Iterator[Layer]:
        """Layers between plane k and the next one."""
        low_mm, high_mm = self.stack.planes_mm[k : k + 2].tolist()
        ends = self._distance(k), self._distance(k + 1)
        inside = ends[0] > 0, ends[1] > 0
        height_mm = high_mm - low_mm
        pieces, holes, filled = [], [], []
        for n, (plane, side) in enumerate(((k, 1), (k + 1, -1))):
            lone, open_ = _alone(inside[n], inside[1 - n]), _alone(~inside[n], ~inside[1 - n])
            pieces.append(self._pieces(lone, plane, side, 1.0, height_mm, height_mm / 2))
            holes.append(self._pieces(open_, plane, side, -1.0, height_mm, height_mm / 2))
            size = np.abs(ends[n])
            filled.append(np.where(lone, -size, np.where(open_, size, ends[n])))
        loose = [*pieces[0], *pieces[1], *holes[0], *holes[1]]
        width = None if loose else self._towards_end(k, inside[0] | inside[1])
        bulge = 0.0 if loose else self._bulge(k)
        if not loose and bulge == 0 and float(np.abs(ends[0] - ends[1]).max()) <= _SAME_OUTLINE_MM:
            for low, high in self._cuts_mm(low_mm, high_mm):
                yield Layer(low, high, self.stack.sections[k])
            return
        blend = _Blend(filled[0], filled[1], self.raster.step_mm, bulge, width)
        away = np.zeros(self.raster.shape, bool)
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
            yield Layer(low, high, LevelCut(self.raster, level))

    def _pieces(
        self, mask: NDArray[np.bool_], k: int, side: int, sign: float, height_mm: float, flat_mm: float
    ) -> list[_Piece]:
        """Pieces of plane k (sign 1), or holes (-1), that end on the given side of w; flat ones after ``flat_mm``."""
        if not mask.any():
            return []
        numbers, n = ndimage.label(mask, _EIGHT)
        before = [j for j in (k - side, k - 2 * side) if self._is_linked(k, j)]
        steps_mm = np.abs(np.diff(self.stack.planes_mm[[k, *before]])).tolist()
        made = []
        for piece, (rows, columns) in enumerate(ndimage.find_objects(numbers, n), 1):
            box = _widened(rows), _widened(columns)
            own = numbers[box] == piece
            distances = [sign * self._distance(j)[box] for j in (k, *before)]
            squares = [half_width_mm(distance, own, self.raster.step_mm) ** 2 for distance in distances]
            taper = _taper(squares, steps_mm, height_mm)
            near = ndimage.binary_dilation(own, _EIGHT, _NEAR)
            own_mm = np.where(near & (own | (distances[0] <= 0)), distances[0], -_FAR_MM)
            made.append(_Piece(box, own_mm, taper or _flat(flat_mm), taper is None))
        return made

    def _bulge(self, k: int) -> float:
        """Excess of the area half-way to the next plane over linear interpolation, in nodes.

        From the second differences at both planes: the smaller one, zero if they differ in sign. A ball's area
        follows this parabola exactly.
        """
        planes_mm = self.stack.planes_mm
        areas = {j: self._area(j) for j in range(k - 1, k + 3) if self._is_linked(k, j)}
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

    def _towards_end(self, k: int, mask: NDArray[np.bool_]) -> Callable[[float], float] | None:
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
        squares = [half_width_mm(self._distance(j), mask, self.raster.step_mm) ** 2 for j in chosen]
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

    def _area(self, k: int) -> float:
        """Area of a plane's cross-section, in nodes."""
        if k not in self._areas:
            self._areas[k] = float(covered(self._distance(k), self.raster.step_mm).sum())
        return self._areas[k]

    def _distance(self, k: int) -> Distances:
        if k not in self._known:
            self._known = {j: known for j, known in self._known.items() if abs(j - k) <= _KEPT}
            self._known[k] = signed_distance(self.stack.sections[k], self.raster)
        return self._known[k]

    def _cuts_mm(self, from_mm: float, to_mm: float, lowered_mm: float = 0.0) -> list[tuple[float, float]]:
        """Layers between two positions; flat pieces end in the middle, lowered on request."""
        low_mm, high_mm = min(from_mm, to_mm), max(from_mm, to_mm)
        pairs = int(np.ceil((high_mm - low_mm) / (2 * self.thickness_mm)))
        edges = np.linspace(low_mm, high_mm, 2 * pairs + 1).tolist()
        if pairs:
            edges[pairs] -= lowered_mm
        return list(itertools.pairwise(edges))


class _Blend:
    """Transition to the next plane: linear in distances, shifted to be linear in area, plus a bulge.

    Each part connected across the two planes has one shift; it is smaller where distances differ by less than a node,
    so that a common outline is unchanged. Without it a curved solid loses volume, and a thin oblique one loses more.
    Towards a rounded end, the half-width is prescribed instead.
    """

    def __init__(
        self,
        low: Distances,
        high: Distances,
        step_mm: float,
        bulge: float,
        width_mm: Callable[[float], float] | None,
    ) -> None:
        self.low, self.high, self.step_mm, self.bulge, self.width_mm = low, high, step_mm, bulge, width_mm
        both, self.n = ndimage.label((low > 0) | (high > 0), _EIGHT)
        self.part = np.zeros(both.shape, np.int64)
        if self.n > 1:
            nearest = ndimage.distance_transform_edt(both == 0, return_distances=False, return_indices=True)
            self.part = both[nearest[0], nearest[1]].astype(np.int64) - 1
        self.areas = self._area(low), self._area(high)
        self.moved = np.minimum(np.abs(high - low) / step_mm, 1.0)
        self.moved_mm = step_mm * self.moved

    def at(self, t: float) -> Distances:
        """Distances at a fraction t of the way."""
        level = (1 - t) * self.low + t * self.high
        if self.width_mm is not None and self.n == 1:
            inside = (self.low > 0) | (self.high > 0)
            return level + (self.width_mm(t) - half_width_mm(level, inside, self.step_mm))
        wanted = (1 - t) * self.areas[0] + t * self.areas[1]
        if self.n == 1:
            wanted = wanted + 4 * t * (1 - t) * self.bulge
        for _ in range(_NEWTON_STEPS if self.n else 0):
            excess = self._area(level) - wanted
            if (np.abs(excess) <= _SAME_AREA * wanted).all():
                break
            movable = self._sum(self.moved * (np.abs(level) < self.step_mm / 2))
            shift = np.clip(excess / np.maximum(movable, 1.0), -1.0, 1.0)
            level -= self.moved_mm * (shift[self.part] if self.n > 1 else shift[0])
        return level

    def _area(self, level: Distances) -> NDArray[np.float64]:
        """Area of each part, in nodes."""
        return self._sum(covered(level, self.step_mm))

    def _sum(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        if self.n <= 1:
            return np.array([float(values.sum())])
        return np.bincount(self.part.ravel(), values.ravel().astype(np.float64), self.n).astype(np.float64)


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


def _flat(end_mm: float) -> Callable[[float], float]:
    return lambda depth_mm: 0.0 if depth_mm < end_mm else _FAR_MM


def _alone(own: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected parts of one plane's cross-section that share no node with that of another."""
    numbers, n = ndimage.label(own, _EIGHT)
    shared = np.zeros(n + 1, bool)
    shared[0] = True
    shared[numbers[other]] = True
    return np.asarray(~shared[numbers])
