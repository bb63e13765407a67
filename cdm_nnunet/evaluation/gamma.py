"""Gamma pass rates of a predicted dose on the grid of its reference; ``docs/conventions.md``, "Gamma".

Only whether gamma is at most 1 is computed, so that the search ends at the distance criterion and most of it can be
skipped: within one cell of the grid a trilinear dose lies between its eight corners. Along a line of a fine lattice in
a cell the dose is linear, so the smallest gamma on that line has a closed form: a steep dose that crosses the reference
value between two points of the lattice is not missed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

Normalisation = Literal["prescription", "maximum"]
THRESHOLD_PERCENT = 10.0
STEPS_PER_DISTANCE = 10
_TIE = 1e-6  # of the dose scale: float32 rounding of a dose exactly at the criterion
_NEARLY = 1.06  # of gamma^2 at a point: the line next to it can't be lower by more than 0.05
_GENTLE = 0.2  # of the tolerance, from point to point: gamma between them is lower by at most 0.006
_CHUNK = 512
_Value = TypeVar("_Value", bound=np.generic)
_RULE = re.compile(r"(\d+\.?\d*)\s*%?\s*/\s*(\d+\.?\d*)\s*(?:mm)?(?:[-\s,]+(local|global))?", re.IGNORECASE)


@dataclass(frozen=True)
class GammaRule:
    """Criteria of a gamma pass rate; the defaults are those of AAPM TG-218.

    Attributes:
        dose_percent: Dose criterion, percent.
        distance_mm: Distance criterion, mm.
        local: Whether the dose criterion is relative to the dose in the voxel, not to the normalisation dose.
        threshold_percent: Lowest dose of judged voxels, percent of the normalisation dose.
        normalisation: The dose of 100 %: the case's dose scale (highest ``prescription``), or the ``maximum`` of the
            reference dose.

    Raises:
        InputError: If a number is out of range.
    """

    dose_percent: float = 3.0
    distance_mm: float = 2.0
    local: bool = False
    threshold_percent: float = THRESHOLD_PERCENT
    normalisation: Normalisation = "prescription"

    def __post_init__(self) -> None:
        if not (0 < self.dose_percent <= 20 and 0 < self.distance_mm <= 20):
            raise InputError(
                f"gamma criteria are above 0 and at most 20 % and 20 mm, not {self.dose_percent:g} % and "
                f"{self.distance_mm:g} mm"
            )
        if not 0 < self.threshold_percent < 100:
            raise InputError(f"the threshold of gamma is above 0 and below 100 %, not {self.threshold_percent:g} %")

    @classmethod
    def parse(
        cls, text: str, threshold_percent: float = THRESHOLD_PERCENT, normalisation: Normalisation = "prescription"
    ) -> GammaRule:
        """A rule such as ``3%/2mm`` or ``2%/2mm-local``.

        Raises:
            InputError: If it is not such a text, or a number is out of range.

        Example:
            >>> GammaRule.parse("2%/1.5mm-local")
            GammaRule(dose_percent=2.0, distance_mm=1.5, local=True, threshold_percent=10.0, \
normalisation='prescription')
        """
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise InputError(f"'{text}' is not a gamma criterion; write '3%/2mm', or '3%/2mm-local'")
        percent, mm, mode = match.groups()
        return cls(float(percent), float(mm), (mode or "").lower() == "local", threshold_percent, normalisation)


def gamma_passes(
    reference_dose_gy: NDArray[np.floating],
    predicted_dose_gy: NDArray[np.floating],
    rule: GammaRule,
    *,
    spacing_mm: tuple[float, float, float],
    scale_gy: float,
) -> NDArray[np.bool_]:
    """Whether gamma is at most 1, for every voxel in which the reference reaches the threshold.

    For a voxel at r, gamma is at most 1 if some point p within the distance criterion has
    |p - r|^2 / distance^2 + (predicted(p) - reference(r))^2 / tolerance^2 <= 1. The predicted dose between voxel
    centres is trilinear; points are tried on all lines of a lattice with steps of at most a tenth of the distance
    criterion, which includes all voxel centres. Points outside the grid are not tried.

    Args:
        reference_dose_gy: Shape (Z, Y, X), Gy.
        predicted_dose_gy: Same shape, Gy.
        rule: The criteria, and the lowest judged dose.
        spacing_mm: Voxel size (z, y, x) in mm.
        scale_gy: The rule's normalisation dose, Gy, for the threshold and the global tolerance.

    Returns:
        Shape (n,), in the order of the voxels in memory; empty if no voxel reaches the threshold.

    Raises:
        InputError: If the scale is not above zero.

    References:
        Low et al., "A technique for the quantitative evaluation of dose distributions", Med. Phys. 25 (1998).

    Example:
        >>> reference = np.full((4, 4, 4), 50.0)
        >>> grid = {"spacing_mm": (2.0, 2.0, 2.0), "scale_gy": 60.0}
        >>> [bool(gamma_passes(reference, reference + error, GammaRule(), **grid).all()) for error in (1.7, 1.9)]
        [True, False]
    """
    voxels = judged_voxels(reference_dose_gy, rule, scale_gy)
    wanted = reference_dose_gy.ravel()[voxels].astype(np.float64)
    tolerance = rule.dose_percent / 100 * (wanted if rule.local else np.full_like(wanted, scale_gy)) + _TIE * scale_gy
    flat = predicted_dose_gy.ravel()
    passes: NDArray[np.bool_] = np.abs(flat[voxels] - wanted) <= tolerance
    shape = reference_dose_gy.shape
    place = np.stack(np.unravel_index(voxels, shape))
    strides = (shape[1] * shape[2], shape[2], 1)
    for cell in _cells(spacing_mm, rule.distance_mm):
        todo = np.flatnonzero(~passes)
        for axis in range(3):
            low = place[axis, todo] + cell.offset[axis]
            todo = todo[(low >= 0) & (low + 1 < shape[axis])]
        corners = np.stack(
            [
                flat[voxels[todo] + np.dot(strides, np.add(cell.offset, corner))]
                for corner in itertools.product((0, 1), repeat=3)
            ],
            axis=1,
        ).astype(np.float64)
        reach = tolerance[todo] * cell.left
        may = (wanted[todo] >= corners.min(1) - reach) & (wanted[todo] <= corners.max(1) + reach)
        todo, corners = todo[may], corners[may]
        passes[todo] = _any_point(corners, wanted[todo], tolerance[todo], cell)
    return passes


def judged_voxels(reference_dose_gy: NDArray[np.floating], rule: GammaRule, scale_gy: float) -> NDArray[np.intp]:
    """Flat indices of the voxels in which the reference reaches the threshold, in the order of :func:`gamma_passes`.

    Raises:
        InputError: If the scale is not above zero.
    """
    if not scale_gy > 0:
        raise InputError(f"gamma needs a dose scale above zero, not {scale_gy:g} Gy")
    level_gy = reference_dose_gy.dtype.type(rule.threshold_percent / 100 * scale_gy)
    return np.flatnonzero(reference_dose_gy >= level_gy)


@dataclass(frozen=True, eq=False)
class _Cell:
    """A cell of the grid within reach of a voxel, with a lattice in it; lengths in units of the distance criterion.

    Attributes:
        offset: The cell's lowest corner from the voxel, in voxels (z, y, x).
        left: Remaining dose tolerance at its nearest point.
        weights: Trilinear weights of the corners at each point of the lattice, shape (8, m).
        square: Square of each point's distance, shape (z, y, x), m points.
        lines: The lattice's lines along each axis, cut at its points.
    """

    offset: tuple[int, int, int]
    left: float
    weights: NDArray[np.float64]
    square: NDArray[np.float64]
    lines: tuple[_Lines, ...]


@dataclass(frozen=True, eq=False)
class _Lines:
    """Parts of the lines of a lattice along an axis, each from one point to the next.

    Attributes:
        axis: The axis.
        steps: Number of parts across the whole cell; parts beyond reach are skipped.
        within: Mask of parts within reach of the voxel, shape of the lattice minus one along the axis.
        along: Product of the position of each first point with the part, same shape.
        length: Square of the length of a part.
    """

    axis: int
    steps: int
    within: NDArray[np.bool_]
    along: NDArray[np.float64]
    length: float

    def ends(self, values: NDArray[_Value]) -> tuple[NDArray[_Value], NDArray[_Value]]:
        """Values (..., z, y, x) at the points of the lattice, at the first and at the last point of each part."""
        axis = values.ndim - 3 + self.axis
        first: list[slice] = [slice(None)] * values.ndim
        last = list(first)
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        return values[tuple(first)], values[tuple(last)]

    def steepest(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest change over a part, for values at the corners of the cell, shape (n, 8)."""
        first, last = self.ends(corners.reshape(len(corners), 2, 2, 2))
        return np.asarray(np.abs(last - first).reshape(len(corners), 4).max(axis=1) / self.steps)

    def agree(self, error: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a point of a part agrees, for each of n voxels.

        If neither end agrees, only parts across which the error changes its sign, or with an end that nearly
        agrees, can contain a point that does.

        Args:
            error: Dose error in units of the tolerance, shape (n, z, y, x).
            square: Square of the distance, shape (z, y, x).
        """
        is_above = self.ends(error > 0)
        is_near = self.ends(error**2 + square <= _NEARLY)
        voxel, *part = np.nonzero(((is_above[0] != is_above[1]) | is_near[0] | is_near[1]) & self.within)
        place = tuple(part)
        first, last = (end[(voxel, *place)] for end in self.ends(error))
        # gamma^2 = (e + t c)^2 + q + 2 t b + t^2 l is lowest at t = -(e c + b) / (c^2 + l), within the part
        change, along = last - first, self.along[place]
        t = np.clip(-(first * change + along) / (change**2 + self.length), 0.0, 1.0)
        lowest = (first + t * change) ** 2 + self.ends(square)[0][place] + 2 * t * along + t**2 * self.length
        found = np.zeros(len(error), bool)
        found[voxel[lowest <= 1]] = True
        return found


def _any_point(
    corners: NDArray[np.float64], wanted: NDArray[np.float64], tolerance: NDArray[np.float64], cell: _Cell
) -> NDArray[np.bool_]:
    """Whether a point on the lines of a cell's lattice agrees, for n cells with corners (n, 8)."""
    found = np.empty(len(wanted), bool)
    near = np.flatnonzero(cell.square.ravel() <= 1)
    weights, square = cell.weights[:, near], cell.square.ravel()[near]
    error = (corners - wanted[:, None]) / tolerance[:, None]
    for start in range(0, len(wanted), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = ((error[part] @ weights) ** 2 + square <= 1).any(axis=1)
    for lines in cell.lines:
        rest = np.flatnonzero(~found & (lines.steepest(error) > _GENTLE))
        for start in range(0, len(rest), _CHUNK):
            chunk = rest[start : start + _CHUNK]
            lattice = (error[chunk] @ cell.weights).reshape(len(chunk), *cell.square.shape)
            found[chunk] = lines.agree(lattice, cell.square)
    return found


def _cells(spacing_mm: tuple[float, float, float], distance_mm: float) -> Iterator[_Cell]:
    """Cells of the grid within reach of a voxel, nearest first."""
    found = []
    size = np.array(spacing_mm) / distance_mm
    reach = [int(np.ceil(1 / step)) for step in size]
    counts = [int(np.ceil(STEPS_PER_DISTANCE * step - 1e-9)) for step in size]
    for z, y, x in itertools.product(*(range(-r, r) for r in reach)):
        corner = np.array((z, y, x))
        nearest = np.clip(0, corner, corner + 1) * size
        left = 1 - float(nearest @ nearest)
        if left <= 0:
            continue
        fractions = [
            _reached(n, low, step) for n, low, step in zip(counts, corner.tolist(), size.tolist(), strict=True)
        ]
        points = np.stack(np.meshgrid(*fractions, indexing="ij"))
        at = (points + corner[:, None, None, None]) * size[:, None, None, None]
        square = (at**2).sum(0)
        sides = [np.stack([1 - fraction, fraction]) for fraction in points.reshape(3, -1)]
        weights = np.einsum("zm,ym,xm->zyxm", *sides).reshape(8, -1)
        lines = tuple(_lines(axis, n, at, square, size[axis] / n) for axis, n in enumerate(counts))
        found.append(_Cell((z, y, x), float(np.sqrt(left)), weights, square, lines))
    found.sort(key=lambda cell: -cell.left)
    yield from found


def _reached(steps: int, low: int, size: float) -> NDArray[np.float64]:
    """Fractions of a cell at lattice points within reach, and one more."""
    number = np.arange(steps + 1)
    near = np.abs((number / steps + low) * size) <= 1 + size / steps
    return np.asarray(number[near] / steps)


def _lines(axis: int, steps: int, at: NDArray[np.float64], square: NDArray[np.float64], step: float) -> _Lines:
    ends: list[slice] = [slice(None)] * 3
    ends[axis] = slice(None, -1)
    along, start = at[axis][tuple(ends)] * step, square[tuple(ends)]
    t = np.clip(-along / step**2, 0.0, 1.0)
    within = start + 2 * t * along + t**2 * step**2 <= 1
    return _Lines(axis, steps, within, along, float(step**2))
