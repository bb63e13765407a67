"""Masks of contours on a voxel grid: exact coverage of every voxel, then the majority.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dicom.contours import ContourStack, EndCaps, axes_of, is_flat, stack_of
from cdm_nnunet.dicom.grid import VoxelGrid
from cdm_nnunet.dicom.scanlines import coverage
from cdm_nnunet.dicom.structures import RoiContours
from cdm_nnunet.errors import InputError

LINES_PER_VOXEL = 5  # odd: the middle one decides where a face runs through voxel centres
_TIE = 1e-5  # of a voxel: contours are shifted by it, so that of two faces at voxel centres one counts
_ROUNDING = 1e-6
_OBLIQUE_SAMPLES = 3  # points along each axis of a voxel whose grid is tilted against the contours


@dataclass(frozen=True, eq=False)
class RoiMask:
    """An ROI on a grid.

    Attributes:
        mask: Shape (z, y, x).
        volume_cc: Volume inside the contours, not that of the voxels.
        lost_cc: Part of that volume that lies outside the grid.
        notes: What was decided, for the record.
    """

    mask: NDArray[np.bool_]
    volume_cc: float
    lost_cc: float
    notes: tuple[str, ...]


def rasterise(
    roi: RoiContours,
    grid: VoxelGrid,
    slices_mm: NDArray[np.float64] | None = None,
    *,
    end_caps: EndCaps = "half-slab",
    may_lie_outside: bool = False,
) -> RoiMask:
    """Mask of an ROI: the voxels of which at least half lies in the ROI.

    Args:
        roi: The ROI.
        grid: The grid, at least two planes; the planes may be at unequal distances.
        slices_mm: Positions of all slices of the CT along the normal of the contours; default: those of the grid.
        end_caps: As :func:`cdm_nnunet.dicom.contours.stack_of`; by default a drawn slice counts as a whole.
        may_lie_outside: Return an empty mask for an ROI wholly outside the grid.

    Raises:
        InputError: As :func:`cdm_nnunet.dicom.contours.stack_of`, or if the grid has a single plane or the ROI lies
            wholly outside it.
    """
    if grid.shape[0] < 2:
        raise InputError("a grid of a single plane has no voxel size along z")
    aligned = is_flat(roi, grid.axes)
    axes = grid.axes if aligned else axes_of(roi)
    complete = slices_mm is not None
    known_mm = slices_mm if slices_mm is not None else np.empty(0)
    if slices_mm is None and aligned:
        known_mm = grid.origin_mm @ axes[2] + grid.offsets_mm[2]
    stack = stack_of(roi, known_mm, end_caps=end_caps, axes=axes, slices_are_complete=complete)
    made = _aligned(stack, grid) if aligned else _oblique(stack, grid)
    if not made.volume_cc > 0:
        raise InputError(f"ROI '{roi.name}' encloses no volume")
    if made.lost_cc >= (1 - _ROUNDING) * made.volume_cc and not may_lie_outside:
        raise InputError(f"ROI '{roi.name}' lies wholly outside the image")
    return made


def voxel_bounds_mm(offsets_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the voxels of an axis begin and end: half-way between their centres; shape (n + 1,).

    Example:
        >>> voxel_bounds_mm(np.array([0.0, 2.0, 6.0]))
        array([-1.,  1.,  4.,  8.])
    """
    middles = (offsets_mm[:-1] + offsets_mm[1:]) / 2
    first, last = offsets_mm[0] - (middles[0] - offsets_mm[0]), offsets_mm[-1] + (offsets_mm[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def _aligned(stack: ContourStack, grid: VoxelGrid) -> RoiMask:
    """The grid's planes are parallel to the contours'."""
    origin = grid.axes @ grid.origin_mm
    step = np.array([offsets[1] - offsets[0] if offsets.size > 1 else 1.0 for offsets in grid.offsets_mm[:2]])
    shift = _TIE * step
    # The box of the ROI in voxels (u, v), which may reach beyond the grid.
    low, high = (np.floor((edge - shift - origin[:2]) / step + 0.5).astype(int) for edge in stack.box_mm)
    n_u, n_v = (int(n) for n in high - low + 1)
    corner = origin[:2] + (low - 0.5) * step + shift
    areas = [
        coverage(section, (corner[0], corner[1]), (step[0], step[1]), (n_v, n_u), LINES_PER_VOXEL)
        for section in stack.sections
    ]
    inside = [(max(0, -low[k]), min(n, grid.offsets_mm[k].size - low[k])) for k, n in ((0, n_u), (1, n_v))]
    (u0, u1), (v0, v1) = ((start, max(start, end)) for start, end in inside)
    bounds_mm = origin[2] + voxel_bounds_mm(grid.offsets_mm[2])
    overlap_mm = np.minimum(bounds_mm[1:, None], stack.high_mm) - np.maximum(bounds_mm[:-1, None], stack.low_mm)
    overlap_mm = overlap_mm.clip(0.0)  # (z, slabs)
    mask = np.zeros(grid.shape, bool)
    half = 0.5 * np.diff(bounds_mm) * (1 - _ROUNDING)
    for z in np.flatnonzero(overlap_mm.sum(1) >= half):
        slabs = np.flatnonzero(overlap_mm[z])
        covered = sum(overlap_mm[z, k] * areas[k][v0:v1, u0:u1] for k in slabs)
        mask[z, low[1] + v0 : low[1] + v1, low[0] + u0 : low[0] + u1] = covered >= 0.5 * overlap_mm[z].sum()
    pixel_mm2 = step[0] * step[1]
    total = np.array([area.sum() for area in areas]) * (stack.high_mm - stack.low_mm) * pixel_mm2
    kept = np.array([area[v0:v1, u0:u1].sum() for area in areas]) * overlap_mm.sum(0) * pixel_mm2
    lost_cc = float((total - kept).sum()) / 1000
    volume_cc = float(total.sum()) / 1000
    return RoiMask(mask, volume_cc, lost_cc if lost_cc > _ROUNDING * volume_cc else 0.0, stack.notes)


def _oblique(stack: ContourStack, grid: VoxelGrid) -> RoiMask:
    """The grid is tilted against the contours: points in every voxel are looked up in a fine raster of the slabs."""
    step_mm = min(grid.spacing_mm) / 2
    low, high = stack.box_mm
    shape = tuple(int(n) for n in np.ceil((high - low) / step_mm)[::-1] + 1)
    first = (float(low[0]), float(low[1]))
    fine = [coverage(section, first, (step_mm, step_mm), (shape[0], shape[1]), 2) for section in stack.sections]
    total = np.array([area.sum() for area in fine]) * step_mm**2 * (stack.high_mm - stack.low_mm)
    volume_cc = float(total.sum()) / 1000
    inside = np.stack([area >= 0.5 for area in fine])
    bounds = [voxel_bounds_mm(offsets) for offsets in grid.offsets_mm]
    fractions = (np.arange(_OBLIQUE_SAMPLES) + 0.5) / _OBLIQUE_SAMPLES
    x, y, z = ((edge[:-1, None] + np.diff(edge)[:, None] * fractions).ravel() for edge in bounds)
    mask = np.zeros(grid.shape, bool)
    kept_mm3 = 0.0
    for k in range(grid.shape[0]):
        count = np.zeros(grid.shape[1:], np.int64)
        for z_mm in z[k * _OBLIQUE_SAMPLES : (k + 1) * _OBLIQUE_SAMPLES]:
            points = grid.origin_mm + z_mm * grid.axes[2] + y[:, None, None] * grid.axes[1] + x[:, None] * grid.axes[0]
            local = points @ stack.axes.T
            slab = np.searchsorted(stack.low_mm, local[..., 2], side="right") - 1
            column, row = (np.floor((local[..., axis] - first[axis]) / step_mm).astype(int) for axis in (0, 1))
            known = (slab >= 0) & (local[..., 2] <= stack.high_mm[slab])
            known &= (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
            hit = np.zeros(known.shape, bool)
            hit[known] = inside[slab[known], row[known], column[known]]
            rows, columns = grid.shape[1:]
            count += hit.reshape(rows, _OBLIQUE_SAMPLES, columns, _OBLIQUE_SAMPLES).sum((1, 3))
        mask[k] = 2 * count >= _OBLIQUE_SAMPLES**3
        area_mm2 = np.diff(bounds[1])[:, None] * np.diff(bounds[0])
        kept_mm3 += float((count * area_mm2).sum() * np.diff(bounds[2])[k]) / _OBLIQUE_SAMPLES**3
    lost_cc = max(0.0, volume_cc - kept_mm3 / 1000)
    return RoiMask(mask, volume_cc, lost_cc if lost_cc > 0.01 * volume_cc else 0.0, stack.notes)
