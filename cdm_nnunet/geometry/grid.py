"""Voxel grids in the patient: axes to the patient's left, back and head, by flips and permutations alone.

Definitions: ``docs/conventions.md``, "Axes, orientation, units".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

POSITION_TOLERANCE_MM = 0.01
MIN_COSINE = 0.9  # of a grid's axis with the patient's: about 25 degrees of tilt
_UNIFORM_TOLERANCE = 0.01  # of the spacing
_AXIS_NAMES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array of shape (z, y, x) lie in the patient, LPS.

    Attributes:
        origin_mm: Centre of the first voxel (x, y, z), shape (3,).
        axes: Unit vectors of the array's x, y and z axes, one a row, shape (3, 3).
        offsets_mm: Distance of the voxel centres from the origin along the x, y and z axis, ascending from 0. Those
            along x and y are uniform; those along z need not be.

    Raises:
        InputError: If the axes are not orthonormal or not close to the patient's, or the offsets do not ascend.
    """

    origin_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    offsets_mm: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    def __post_init__(self) -> None:
        if not np.allclose(self.axes @ self.axes.T, np.eye(3), atol=1e-3):
            raise InputError(f"the axes of the image are not at right angles: {np.round(self.axes, 4).tolist()}")
        if np.diag(self.axes).min() < MIN_COSINE:
            raise InputError(
                "the image is tilted by more than 25 degrees from the patient's axes; resample it to an axial grid"
            )
        for name, offsets_mm in zip(_AXIS_NAMES, self.offsets_mm, strict=True):
            if offsets_mm.size == 0 or offsets_mm[0] != 0 or (np.diff(offsets_mm) <= 0).any():
                raise InputError(f"the voxel positions along {name} do not ascend: {offsets_mm[:5].tolist()} ...")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels (z, y, x)."""
        x, y, z = (offsets_mm.size for offsets_mm in self.offsets_mm)
        return z, y, x

    @property
    def is_uniform(self) -> bool:
        """Whether the planes along z are at equal distances."""
        steps_mm = np.diff(self.offsets_mm[2])
        return steps_mm.size < 2 or bool(np.ptp(steps_mm) <= _UNIFORM_TOLERANCE * steps_mm.mean())

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (x, y, z); along z the median distance of the planes. It is NaN along an axis of one voxel."""
        x, y, z = (
            float(np.median(np.diff(offsets_mm))) if offsets_mm.size > 1 else float("nan")
            for offsets_mm in self.offsets_mm
        )
        return x, y, z

    def local_mm(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Offsets along the grid's axes of points in the patient; both of shape (..., 3), order (x, y, z)."""
        local: NDArray[np.float64] = (points_mm - self.origin_mm) @ self.axes.T
        return local

    def index(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional voxel index (x, y, z) of points in the patient, NaN outside the box of the voxel centres.

        Args:
            points_mm: Shape (..., 3), order (x, y, z).
        """
        local = self.local_mm(points_mm)
        return np.stack([self.axis_index(axis, local[..., axis]) for axis in range(3)], axis=-1)

    def axis_index(self, axis: int, offset_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional index along one axis (0 x, 1 y, 2 z) of offsets from the origin, NaN outside the voxel centres."""
        centres_mm = self.offsets_mm[axis]
        clipped_mm = np.clip(offset_mm, 0.0, centres_mm[-1])
        index = np.interp(clipped_mm, centres_mm, np.arange(centres_mm.size, dtype=np.float64))
        return np.where(np.abs(clipped_mm - offset_mm) <= POSITION_TOLERANCE_MM, index, np.nan)

    def same_as(self, other: Grid) -> bool:
        """Whether another grid has the same voxels, to 0.01 mm."""
        pairs = zip((self.corners_mm(), *self.offsets_mm), (other.corners_mm(), *other.offsets_mm), strict=True)
        return self.shape == other.shape and all(
            np.allclose(mine, theirs, atol=POSITION_TOLERANCE_MM) for mine, theirs in pairs
        )

    def corners_mm(self) -> NDArray[np.float64]:
        """Centres of the eight outermost voxels, shape (8, 3)."""
        ends = itertools.product(*((0.0, offsets_mm[-1]) for offsets_mm in self.offsets_mm))
        corners: NDArray[np.float64] = self.origin_mm + np.array(list(ends)) @ self.axes
        return corners

    def describe(self) -> str:
        """Size, spacing and origin as text."""
        size = " x ".join(str(n) for n in reversed(self.shape))
        spacing = " x ".join(f"{step:g}" for step in np.round(self.spacing_mm, 4))
        return f"{size} voxels of {spacing} mm from ({', '.join(f'{x:g}' for x in np.round(self.origin_mm, 3))})"


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a grid.

    Attributes:
        values: Shape (z, y, x).
        grid: Where they lie.
    """

    values: NDArray[Any]
    grid: Grid


def directions_of(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors along columns, rows and normal of an image, one a row, shape (3, 3).

    Args:
        orientation: ImageOrientationPatient, six numbers.

    Raises:
        InputError: If they are no pair of unit vectors at right angles.
    """
    along_columns, along_rows = orientation[:3], orientation[3:]
    directions = np.stack([along_columns, along_rows, np.cross(along_columns, along_rows)])
    if not np.allclose(directions @ directions.T, np.eye(3), atol=1e-3):
        raise InputError(f"ImageOrientationPatient {orientation.tolist()} is no pair of unit vectors at right angles")
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def volume_from_frames(
    frames: NDArray[Any],
    position_mm: NDArray[np.float64],
    orientation: NDArray[np.float64],
    pixel_spacing_mm: NDArray[np.float64],
    normal_offsets_mm: NDArray[np.float64],
) -> Volume:
    """Put frames in order and turn the array to the patient's axes, without interpolation.

    Args:
        frames: Shape (frames, rows, columns).
        position_mm: Centre of the first pixel of the plane at offset 0 (ImagePositionPatient), (x, y, z).
        orientation: Direction in which the columns count up, then the rows (ImageOrientationPatient), six numbers.
        pixel_spacing_mm: Distance of rows, distance of columns (PixelSpacing).
        normal_offsets_mm: Offset of each frame along the cross product of the two directions.

    Raises:
        InputError: If spacing or orientation are impossible, planes coincide, or the image is tilted by 25 degrees.
    """
    directions = directions_of(orientation)
    if not (pixel_spacing_mm > 0).all():
        raise InputError(f"PixelSpacing {pixel_spacing_mm.tolist()} is not above zero")
    order = np.argsort(normal_offsets_mm)
    planes_mm = normal_offsets_mm[order]
    if (np.diff(planes_mm) < POSITION_TOLERANCE_MM).any():
        at = planes_mm[int(np.argmin(np.diff(planes_mm)))]
        raise InputError(f"several planes at the same position ({at:g} mm along the normal)")
    values = frames[order]
    origin_mm = position_mm + planes_mm[0] * directions[2]
    offsets = [
        np.arange(frames.shape[2]) * pixel_spacing_mm[1],
        np.arange(frames.shape[1]) * pixel_spacing_mm[0],
        planes_mm - planes_mm[0],
    ]
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(directions[p[k], k]) for k in range(3)))
    values = values.transpose(*(2 - best[axis] for axis in (2, 1, 0)))
    directions, offsets = directions[list(best)], [offsets[k] for k in best]
    for axis in range(3):
        if directions[axis, axis] < 0:
            values = np.flip(values, 2 - axis)
            origin_mm = origin_mm + offsets[axis][-1] * directions[axis]
            directions[axis] *= -1
            offsets[axis] = offsets[axis][-1] - offsets[axis][::-1]
    x_mm, y_mm, z_mm = offsets
    # (adding zero turns -0.0 into 0.0)
    return Volume(np.ascontiguousarray(values), Grid(origin_mm + 0.0, directions + 0.0, (x_mm, y_mm, z_mm)))
