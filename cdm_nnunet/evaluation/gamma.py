"""Gamma pass rates of a predicted dose on the grid of its reference; ``docs/conventions.md``, "Gamma".

Only whether gamma is at most 1 is asked, so that the search ends at the distance criterion and most of it can be left
out: within one cell of the grid a trilinear dose lies between its eight corners.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

THRESHOLD_PERCENT = 10.0
STEPS_PER_DISTANCE = 10
_TIE = 1e-6  # of the dose scale: what float32 does to a dose that lies exactly at the criterion
_CHUNK = 2048


def gamma_passes(
    reference_dose_gy: NDArray[np.floating],
    predicted_dose_gy: NDArray[np.floating],
    *,
    spacing_mm: tuple[float, float, float],
    dose_percent: float,
    distance_mm: float,
    scale_gy: float,
    local: bool = False,
) -> NDArray[np.bool_]:
    """Whether gamma is at most 1, for every voxel in which the reference reaches 10 % of the scale.

    For a voxel at r, gamma is at most 1 where some point p within the distance criterion has
    |p - r|^2 / distance^2 + (predicted(p) - reference(r))^2 / tolerance^2 <= 1. The predicted dose between voxel
    centres is trilinear; points are tried on a lattice with steps of at most a tenth of the distance criterion, which
    holds all voxel centres. Points outside the grid are not tried.

    Args:
        reference_dose_gy: Shape (Z, Y, X), Gy.
        predicted_dose_gy: Same shape, Gy.
        spacing_mm: Voxel size (z, y, x) in mm.
        dose_percent: Dose criterion: the tolerance in percent of the scale, or of the voxel's reference dose.
        distance_mm: Distance criterion, mm.
        scale_gy: What 100 % is, for the threshold and the global tolerance, Gy.
        local: Whether the tolerance is a percentage of the voxel's reference dose.

    Returns:
        Shape (n,), in the order of the voxels in memory; empty where no voxel reaches the threshold.

    Raises:
        InputError: If a criterion or the scale is not above zero.

    References:
        Low et al., "A technique for the quantitative evaluation of dose distributions", Med. Phys. 25 (1998).

    Example:
        >>> reference = np.full((4, 4, 4), 50.0)
        >>> rule = {"spacing_mm": (2.0, 2.0, 2.0), "dose_percent": 3.0, "distance_mm": 3.0, "scale_gy": 60.0}
        >>> [bool(gamma_passes(reference, reference + error, **rule).all()) for error in (1.7, 1.9)]
        [True, False]
    """
    if not min(dose_percent, distance_mm, scale_gy) > 0:
        criteria = f"{dose_percent:g} %, {distance_mm:g} mm and a dose scale of {scale_gy:g} Gy"
        raise InputError(f"gamma needs criteria and a dose scale above zero, not {criteria}")
    voxels = np.flatnonzero(reference_dose_gy >= reference_dose_gy.dtype.type(THRESHOLD_PERCENT / 100 * scale_gy))
    wanted = reference_dose_gy.ravel()[voxels].astype(np.float64)
    tolerance = dose_percent / 100 * (wanted if local else np.full_like(wanted, scale_gy)) + _TIE * scale_gy
    flat = predicted_dose_gy.ravel()
    passes: NDArray[np.bool_] = np.abs(flat[voxels] - wanted) <= tolerance
    shape = reference_dose_gy.shape
    place = np.stack(np.unravel_index(voxels, shape))
    strides = (shape[1] * shape[2], shape[2], 1)
    for cell, weights, falloff in _cells(spacing_mm, distance_mm):
        todo = np.flatnonzero(~passes)
        for axis in range(3):
            low = place[axis, todo] + cell[axis]
            todo = todo[(low >= 0) & (low + 1 < shape[axis])]
        corners = np.stack(
            [
                flat[voxels[todo] + np.dot(strides, np.add(cell, corner))]
                for corner in itertools.product((0, 1), repeat=3)
            ],
            axis=1,
        ).astype(np.float64)
        reach = tolerance[todo] * falloff.max()
        may = (wanted[todo] >= corners.min(1) - reach) & (wanted[todo] <= corners.max(1) + reach)
        passes[todo[may]] = _any_point(corners[may], wanted[todo[may]], tolerance[todo[may]], weights, falloff)
    return passes


def _any_point(
    corners: NDArray[np.float64],
    wanted: NDArray[np.float64],
    tolerance: NDArray[np.float64],
    weights: NDArray[np.float64],
    falloff: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether a point of a cell agrees: corners (n, 8) and weights (8, m) make the dose at m points of n cells."""
    found = np.empty(len(wanted), bool)
    for start in range(0, len(wanted), _CHUNK):
        part = slice(start, start + _CHUNK)
        error = np.abs(corners[part] @ weights - wanted[part, None])
        found[part] = (error <= tolerance[part, None] * falloff).any(axis=1)
    return found


def _cells(
    spacing_mm: tuple[float, float, float], distance_mm: float
) -> Iterator[tuple[tuple[int, int, int], NDArray[np.float64], NDArray[np.float64]]]:
    """Cells of the grid within reach of a voxel, nearest first, with the points to try in each.

    Yields:
        The cell's lowest corner as an offset from the voxel; trilinear weights of its corners, shape (8, m); how much
        of the dose tolerance is left at each point, shape (m,).
    """
    found = []
    reach = [int(np.ceil(distance_mm / spacing)) for spacing in spacing_mm]
    fractions = [np.linspace(0, 1, int(np.ceil(STEPS_PER_DISTANCE * h / distance_mm - 1e-9)) + 1) for h in spacing_mm]
    grid = np.stack(np.meshgrid(*fractions, indexing="ij")).reshape(3, -1)
    for z, y, x in itertools.product(*(range(-r, r) for r in reach)):
        offset_mm = (grid + np.array([[z], [y], [x]])) * np.array(spacing_mm)[:, None]
        left = 1 - (offset_mm**2).sum(0) / distance_mm**2
        points, left = grid[:, left >= 0], left[left >= 0]
        if left.size:
            sides = [np.stack([1 - fraction, fraction]) for fraction in points]
            weights = np.einsum("zm,ym,xm->zyxm", *sides).reshape(8, -1)
            found.append(((z, y, x), weights, np.sqrt(left)))
    found.sort(key=lambda cell: -cell[2].max())
    yield from found
