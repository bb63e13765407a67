"""Volumes on another grid, by linear interpolation in physical space; on coarser grids averaged over voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import POSITION_TOLERANCE_MM, Grid, Volume

_EQUAL_MM = 0.101  # distances of planes that differ by less are equal
EDGE_DOSE_FRACTION = 0.01  # of the maximum: a dose below this at the end of its grid counts as zero beyond


def resample(volume: Volume, grid: Grid, outside: float, *, average: bool = False) -> NDArray[np.float32]:
    """Values of a volume on another grid with the same axes.

    Args:
        volume: The volume; its planes may be at unequal distances.
        grid: The other grid.
        outside: Value of voxels whose centre lies outside the box of the volume's voxel centres.
        average: Average over as many points along each axis as a new voxel has old ones, to avoid aliasing on a coarser
            grid. Otherwise the value at the voxel's centre is used.

    Returns:
        Shape of the grid (z, y, x).

    Raises:
        InputError: If the axes of the grids differ.
    """
    if not np.allclose(volume.grid.axes, grid.axes, atol=1e-4):
        raise InputError("the axes of CT and dose grid are tilted against each other; resample one of them first")
    shift_mm = volume.grid.local_mm(grid.origin_xyz_mm)
    values = volume.values.astype(np.float64)
    for axis in range(3):
        centres_mm = grid.offsets_xyz_mm[axis] + shift_mm[axis]
        weights = _weights(volume.grid, axis, centres_mm, average)
        if np.array_equal(weights, np.eye(len(weights))):
            continue
        values = np.moveaxis(np.tensordot(weights, values, (1, 2 - axis)), 0, 2 - axis)
    return np.where(covered_by(volume.grid, grid), values, outside).astype(np.float32)


def covered_by(given: Grid, grid: Grid) -> NDArray[np.bool_]:
    """Voxels of a grid with centres in the box of another one's voxel centres; shape of the grid (z, y, x)."""
    shift_mm = given.local_mm(grid.origin_xyz_mm)
    inside = np.ones(grid.shape, bool)
    for axis in range(3):
        known = ~np.isnan(given.axis_index(axis, grid.offsets_xyz_mm[axis] + shift_mm[axis]))
        inside &= known.reshape([-1 if 2 - axis == k else 1 for k in range(3)])
    return inside


def sum_volumes(volumes: Sequence[Volume], labels: Sequence[object]) -> tuple[Volume, str]:
    """Sum of doses that may lie on different grids.

    If the grids differ, the sum has the finest of them, extended to the box of all, and the others are interpolated
    linearly. A dose beyond its own grid is unknown. It counts as zero if it is negligible at the edge. Otherwise a rim
    of less than a voxel is cut off, and a wider one is refused.

    Args:
        volumes: Doses, Gy.
        labels: Name of each, for messages.

    Returns:
        The sum, and text for a note: empty if all lie on one grid.

    Raises:
        InputError: If grids are tilted relative to each other or not uniform, or one ends within its dose: with more
            than 1 % of the maximum of the sum, more than a voxel short of the others.
    """
    first = volumes[0]
    if all(first.grid.same_as(volume.grid) for volume in volumes[1:]):
        return Volume(np.sum([volume.values for volume in volumes], axis=0), first.grid), ""
    finest = min((volume.grid for volume in volumes), key=lambda grid: float(np.prod(grid.spacing_xyz_mm)))
    if not (finest.is_uniform and np.isfinite(finest.spacing_xyz_mm).all()):
        raise InputError(
            f"{labels[0]} and {counted(len(labels) - 1, 'other')} lie on different grids, of planes that are not even"
        )
    grid = _continued(finest, [volume.grid for volume in volumes])
    total = np.zeros(grid.shape)
    for volume in volumes:
        total += resample(volume, grid, 0.0)
    limit_gy = EDGE_DOSE_FRACTION * float(total.max())
    low_mm, high_mm = np.zeros(3), np.array([offsets_mm[-1] for offsets_mm in grid.offsets_xyz_mm])
    left_gy = 0.0
    for volume, label in zip(volumes, labels, strict=True):
        for axis, at_end, short_mm, edge_gy in _faces(volume, grid):
            if edge_gy <= limit_gy:
                left_gy = max(left_gy, edge_gy)
            elif short_mm > max(other.grid.spacing_xyz_mm[axis] for other in volumes):
                raise InputError(
                    f"{label}: the dose is {edge_gy:.2f} Gy where its grid ends, {short_mm:.1f} mm short of the other "
                    "grids; the dose beyond is unknown. Calculate all on one grid"
                )
            elif at_end:
                high_mm[axis] = min(high_mm[axis], grid.offsets_xyz_mm[axis][-1] - short_mm)
            else:
                low_mm[axis] = max(low_mm[axis], short_mm)
    spacing = " x ".join(f"{step:g}" for step in np.round(grid.spacing_xyz_mm, 3))
    n_grids = sum(not any(v.grid.same_as(w.grid) for w in volumes[:k]) for k, v in enumerate(volumes))
    text = f" on {n_grids} different grids, on voxels of {spacing} mm; up to {left_gy:.2g} Gy where a grid ends"
    return _cropped(Volume(total, grid), low_mm, high_mm), text


def _faces(volume: Volume, grid: Grid) -> Iterator[tuple[int, bool, float, float]]:
    """Faces of a volume inside a grid's box: axis, whether at its end, distance, and highest dose."""
    corners = grid.local_mm(volume.grid.corners_mm())
    for axis in range(3):
        ends = np.array([corners[:, axis].min(), grid.offsets_xyz_mm[axis][-1] - corners[:, axis].max()])
        for at_end in (False, True):
            if ends[int(at_end)] > POSITION_TOLERANCE_MM:
                face = np.moveaxis(volume.values, 2 - axis, 0)[-1 if at_end else 0]
                yield axis, at_end, float(ends[int(at_end)]), float(face.max())


def _cropped(volume: Volume, low_mm: NDArray[np.float64], high_mm: NDArray[np.float64]) -> Volume:
    """The part between two offsets along each axis (x, y, z)."""
    values, start, kept = volume.values, volume.grid.origin_xyz_mm.copy(), []
    for axis, offsets_mm in enumerate(volume.grid.offsets_xyz_mm):
        inside = np.flatnonzero(
            (offsets_mm >= low_mm[axis] - POSITION_TOLERANCE_MM) & (offsets_mm <= high_mm[axis] + POSITION_TOLERANCE_MM)
        )
        values = np.take(values, inside, 2 - axis)
        start = start + offsets_mm[inside[0]] * volume.grid.axes[axis]
        kept.append(offsets_mm[inside] - offsets_mm[inside[0]])
    x_mm, y_mm, z_mm = kept
    return Volume(values, Grid.of_offsets(start, volume.grid.axes, (x_mm, y_mm, z_mm)))


def _continued(grid: Grid, others: Sequence[Grid]) -> Grid:
    """A uniform grid, extended to the box of all grids' voxel centres."""
    corners = np.concatenate([grid.local_mm(other.corners_mm()) for other in others])
    offsets, start = [], grid.origin_xyz_mm.copy()
    for axis, (centres_mm, step) in enumerate(zip(grid.offsets_xyz_mm, grid.spacing_xyz_mm, strict=True)):
        before = int(np.floor(-corners[:, axis].min() / step + 1e-3))
        after = int(np.floor((corners[:, axis].max() - centres_mm[-1]) / step + 1e-3))
        offsets.append(np.arange(centres_mm.size + before + after, dtype=np.float64) * step)
        start = start - before * step * grid.axes[axis]
    x_mm, y_mm, z_mm = offsets
    return Grid.of_offsets(start, grid.axes, (x_mm, y_mm, z_mm))


def uniform_grid(grid: Grid, spacing_zyx_mm: Sequence[float]) -> Grid:
    """A grid of equal voxels, centred in the box of another one's voxel centres."""
    offsets, start, spacing_mm = [], grid.origin_xyz_mm.copy(), spacing_zyx_mm[::-1]
    for axis, centres_mm in enumerate(grid.offsets_xyz_mm):
        n = int(np.floor(centres_mm[-1] / spacing_mm[axis] + 1e-6)) + 1
        offsets.append(np.arange(n, dtype=np.float64) * spacing_mm[axis])
        start = start + (centres_mm[-1] - offsets[-1][-1]) / 2 * grid.axes[axis]
    x_mm, y_mm, z_mm = offsets
    return Grid.of_offsets(start, grid.axes, (x_mm, y_mm, z_mm))


def even_grid(grid: Grid) -> Grid:
    """A grid with equal plane distances, the smallest that occurs twice in a row, over the box of another one."""
    z_mm, y_mm, x_mm = grid.spacing_zyx_mm
    steps_mm = np.diff(grid.offsets_xyz_mm[2])
    repeated = np.abs(np.diff(steps_mm)) <= _EQUAL_MM
    if repeated.any():
        z_mm = float(np.minimum(steps_mm[1:], steps_mm[:-1])[repeated].min())
    return uniform_grid(grid, (z_mm, y_mm, x_mm))


def _weights(grid: Grid, axis: int, centres_mm: NDArray[np.float64], average: bool) -> NDArray[np.float64]:
    """Linear interpolation along one axis as a matrix, shape (new, old)."""
    old_mm = grid.offsets_xyz_mm[axis]
    new_step = float(np.median(np.diff(centres_mm))) if centres_mm.size > 1 else 0.0
    old_step = float(np.median(np.diff(old_mm))) if old_mm.size > 1 else 1.0
    n = max(1, int(np.ceil(new_step / old_step - 1e-6))) if average else 1
    weights = np.zeros((centres_mm.size, old_mm.size))
    rows = np.arange(centres_mm.size)
    for shift in (np.arange(n) + 0.5) / n - 0.5:
        at = np.interp(np.clip(centres_mm + shift * new_step, 0, old_mm[-1]), old_mm, np.arange(old_mm.size))
        low = np.minimum(at.astype(np.int64), max(old_mm.size - 2, 0))
        np.add.at(weights, (rows, low), (1 - (at - low)) / n)
        np.add.at(weights, (rows, np.minimum(low + 1, old_mm.size - 1)), (at - low) / n)
    return weights
