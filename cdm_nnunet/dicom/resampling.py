"""Volumes on another grid, by linear interpolation in physical space; coarser grids average over their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dicom.grid import Volume, VoxelGrid
from cdm_nnunet.errors import InputError


def resample(volume: Volume, grid: VoxelGrid, outside: float, *, average: bool = False) -> NDArray[np.float32]:
    """Values of a volume on another grid with the same axes.

    Args:
        volume: The volume; its planes may be at unequal distances.
        grid: The other grid.
        outside: Value of voxels whose centre lies outside the box of the volume's voxel centres.
        average: Average over as many points along each axis as a new voxel has old ones: no aliasing where the grid is
            coarser. Without it the value at the voxel's centre is taken.

    Returns:
        Shape of the grid (z, y, x).

    Raises:
        InputError: If the axes of the grids differ.
    """
    if not np.allclose(volume.grid.axes, grid.axes, atol=1e-4):
        raise InputError("the axes of CT and dose grid are tilted against each other; resample one of them first")
    shift_mm = volume.grid.local_mm(grid.origin_mm)
    values = volume.values.astype(np.float64)
    inside = np.ones(grid.shape, bool)
    for axis in range(3):
        centres_mm = grid.offsets_mm[axis] + shift_mm[axis]
        weights = _weights(volume.grid, axis, centres_mm, average)
        values = np.moveaxis(np.tensordot(weights, values, (1, 2 - axis)), 0, 2 - axis)
        known = ~np.isnan(volume.grid.axis_index(axis, centres_mm))
        inside &= known.reshape([-1 if 2 - axis == k else 1 for k in range(3)])
    return np.where(inside, values, outside).astype(np.float32)


def uniform_grid(grid: VoxelGrid, spacing_mm: Sequence[float]) -> VoxelGrid:
    """A grid of equal voxels, of the size (x, y, z), over the box of another one's voxel centres, in its middle."""
    offsets, start = [], grid.origin_mm.copy()
    for axis, centres_mm in enumerate(grid.offsets_mm):
        n = int(np.floor(centres_mm[-1] / spacing_mm[axis] + 1e-6)) + 1
        offsets.append(np.arange(n, dtype=np.float64) * spacing_mm[axis])
        start = start + (centres_mm[-1] - offsets[-1][-1]) / 2 * grid.axes[axis]
    x_mm, y_mm, z_mm = offsets
    return VoxelGrid(start, grid.axes, (x_mm, y_mm, z_mm))


def _weights(grid: VoxelGrid, axis: int, centres_mm: NDArray[np.float64], average: bool) -> NDArray[np.float64]:
    """Linear interpolation along one axis as a matrix, shape (new, old)."""
    old_mm = grid.offsets_mm[axis]
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
