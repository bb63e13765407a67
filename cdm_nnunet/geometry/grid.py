"""Voxel grids in the patient: axes to the patient's left, back and head, by flips and permutations only.

Definitions: ``docs/conventions.md``, "Axes, orientation, units".
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError, numbers

POSITION_TOLERANCE_MM = 0.01
MAX_TILT_DEGREES = 25.0  # of a grid's axes relative to the patient's
Offsets = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
_UNIFORM_TOLERANCE = 0.01  # of the spacing


@dataclass(frozen=True, eq=False)
class Grid:
    """Position of the voxels of an array of shape (z, y, x) in the patient, LPS.

    Attributes:
        shape: Number of voxels (z, y, x).
        spacing_zyx_mm: Voxel size; the median if it varies. It may be NaN along an axis of one voxel.
        origin_xyz_mm: Centre of the first voxel, shape (3,).
        axes: Unit vectors of the array's x, y and z axes, one per row, shape (3, 3).
        own_offsets_xyz_mm: Distance of the voxel centres from the first along each axis, ascending from 0, if they
            don't follow from the voxel size: the planes of a CT may be unequally spaced.

    Raises:
        InputError: If the axes are not orthonormal, the origin is not finite, a voxel size is not above zero, or the
            voxel centres do not ascend.
    """

    shape: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_xyz_mm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    axes: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    own_offsets_xyz_mm: Offsets | None = None

    def __post_init__(self) -> None:
        if self.axes.shape != (3, 3) or not np.allclose(self.axes @ self.axes.T, np.eye(3), atol=1e-3):
            raise InputError(f"the axes of the image are not at right angles: {np.round(self.axes, 4).tolist()}")
        if self.origin_xyz_mm.shape != (3,) or not np.isfinite(self.origin_xyz_mm).all():
            raise InputError(f"the origin must be three numbers in mm, not {self.origin_xyz_mm.tolist()}")
        if any(n > 1 and not mm > 0 for n, mm in zip(self.shape, self.spacing_zyx_mm, strict=True)):
            raise InputError(f"voxel size {numbers(self.spacing_xyz_mm)} mm is not plausible; it is above zero")
        for name, n, offsets_mm in zip("xyz", self.shape[::-1], self.offsets_xyz_mm, strict=True):
            if offsets_mm.size != n or n == 0 or offsets_mm[0] != 0 or not (np.diff(offsets_mm) > 0).all():
                raise InputError(f"the voxel positions along {name} do not ascend: {offsets_mm[:5].tolist()} ...")

    @classmethod
    def of_image(
        cls,
        shape: tuple[int, ...],
        spacing_zyx_mm: Sequence[float],
        origin_xyz_mm: Sequence[float] | NDArray[np.float64],
        direction: Sequence[float],
    ) -> Grid:
        """A grid from the geometry in image files.

        Args:
            shape: Number of voxels (z, y, x).
            spacing_zyx_mm: Voxel size.
            origin_xyz_mm: Centre of the first voxel.
            direction: Direction cosines of x, y and z as the columns of a matrix, nine numbers row by row.

        Raises:
            InputError: As the class; or if the direction does not have nine numbers.
        """
        if len(direction) != 9:
            raise InputError(f"direction cosines are nine numbers, not {len(direction)}")
        (nz, ny, nx), (z, y, x) = shape, spacing_zyx_mm
        axes = np.reshape(np.asarray(direction, np.float64), (3, 3)).T
        return cls((nz, ny, nx), (z, y, x), np.asarray(origin_xyz_mm, np.float64), axes)

    @classmethod
    def of_offsets(
        cls,
        origin_xyz_mm: NDArray[np.float64],
        axes: NDArray[np.float64],
        offsets_xyz_mm: Sequence[NDArray[np.float64]],
    ) -> Grid:
        """A grid from the distances of its voxel centres from the first, along each axis."""
        x_mm, y_mm, z_mm = offsets_xyz_mm
        z, y, x = (
            float(np.median(np.diff(offsets))) if offsets.size > 1 else math.nan for offsets in (z_mm, y_mm, x_mm)
        )
        return cls((z_mm.size, y_mm.size, x_mm.size), (z, y, x), origin_xyz_mm, axes, (x_mm, y_mm, z_mm))

    @functools.cached_property
    def offsets_xyz_mm(self) -> Offsets:
        """Distance of the voxel centres from the origin along the x, y and z axis, ascending from 0."""
        if self.own_offsets_xyz_mm is not None:
            return self.own_offsets_xyz_mm
        z, y, x = (
            np.arange(n, dtype=np.float64) * step if n > 1 else np.zeros(1)
            for n, step in zip(self.shape, self.spacing_zyx_mm, strict=True)
        )
        return x, y, z

    @property
    def spacing_xyz_mm(self) -> tuple[float, float, float]:
        """The voxel size in the order of DICOM and SimpleITK."""
        z, y, x = self.spacing_zyx_mm
        return x, y, z

    @property
    def origin_zyx_mm(self) -> tuple[float, float, float]:
        """The centre of the first voxel in the order of the array's axes."""
        x, y, z = (float(mm) for mm in self.origin_xyz_mm)
        return z, y, x

    @property
    def direction(self) -> tuple[float, ...]:
        """Direction cosines of x, y and z as the columns of a matrix, nine numbers row by row."""
        return tuple(float(cosine) for cosine in self.axes.T.ravel())

    @property
    def is_uniform(self) -> bool:
        """Whether the planes along z are equally spaced."""
        steps_mm = np.diff(self.offsets_xyz_mm[2])
        return steps_mm.size < 2 or bool(np.ptp(steps_mm) <= _UNIFORM_TOLERANCE * steps_mm.mean())

    def refuse_other_axes(self, what: object) -> None:
        """Check that the array's x, y and z run to the patient's left, back and head, up to a small tilt.

        Args:
            what: Name of the image on the grid, for messages.

        Raises:
            InputError: If they do not.
        """
        if np.diag(self.axes).min() < math.cos(math.radians(MAX_TILT_DEGREES)):
            raise InputError(
                f"{what} is not on an axial grid in LPS orientation: its x, y and z axes do not run to the patient's "
                f"left, back and head to within {MAX_TILT_DEGREES:g} degrees (direction {numbers(self.direction)}); "
                "reorient or resample all images of the case"
            )

    def local_mm(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Offsets along the grid's axes of points in the patient; both of shape (..., 3), order (x, y, z)."""
        local: NDArray[np.float64] = (points_mm - self.origin_xyz_mm) @ self.axes.T
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
        centres_mm = self.offsets_xyz_mm[axis]
        clipped_mm = np.clip(offset_mm, 0.0, centres_mm[-1])
        index = np.interp(clipped_mm, centres_mm, np.arange(centres_mm.size, dtype=np.float64))
        return np.where(np.abs(clipped_mm - offset_mm) <= POSITION_TOLERANCE_MM, index, np.nan)

    def same_as(self, other: Grid) -> bool:
        """Whether another grid has the same voxels, within 0.01 mm."""
        pairs = zip((self.corners_mm(), *self.offsets_xyz_mm), (other.corners_mm(), *other.offsets_xyz_mm), strict=True)
        return self.shape == other.shape and all(
            np.allclose(mine, theirs, atol=POSITION_TOLERANCE_MM) for mine, theirs in pairs
        )

    def corners_mm(self) -> NDArray[np.float64]:
        """Centres of the eight outermost voxels, shape (8, 3)."""
        ends = itertools.product(*((0.0, offsets_mm[-1]) for offsets_mm in self.offsets_xyz_mm))
        corners: NDArray[np.float64] = self.origin_xyz_mm + np.array(list(ends)) @ self.axes
        return corners

    def describe(self) -> str:
        """Size, spacing and origin as text."""
        size = " x ".join(str(n) for n in reversed(self.shape))
        spacing = " x ".join(f"{step:g}" for step in np.round(self.spacing_xyz_mm, 4))
        return f"{size} voxels of {spacing} mm from ({', '.join(f'{x:g}' for x in np.round(self.origin_xyz_mm, 3))})"


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a grid.

    Attributes:
        values: Shape (z, y, x).
        grid: Their grid.
    """

    values: NDArray[Any]
    grid: Grid


def directions_of(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors along columns, rows and normal of an image, one per row, shape (3, 3).

    Args:
        orientation: ImageOrientationPatient, six numbers.

    Raises:
        InputError: If they are not a pair of unit vectors at right angles.
    """
    along_columns, along_rows = orientation[:3], orientation[3:]
    directions = np.stack([along_columns, along_rows, np.cross(along_columns, along_rows)])
    if not np.allclose(directions @ directions.T, np.eye(3), atol=1e-3):
        raise InputError(
            f"ImageOrientationPatient {orientation.tolist()} is not a pair of unit vectors at right angles"
        )
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def volume_from_frames(
    frames: NDArray[Any],
    position_mm: NDArray[np.float64],
    orientation: NDArray[np.float64],
    pixel_spacing_mm: NDArray[np.float64],
    normal_offsets_mm: NDArray[np.float64],
) -> Volume:
    """Sort frames and reorient the array to the patient's axes, without interpolation.

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
    grid = Grid.of_offsets(origin_mm + 0.0, directions + 0.0, offsets)  # (adding zero turns -0.0 into 0.0)
    grid.refuse_other_axes("the image")
    return Volume(np.ascontiguousarray(values), grid)
