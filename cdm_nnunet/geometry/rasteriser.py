"""Masks of contours on a voxel grid: voxels with at least half coverage, computed exactly.

Definitions: ``docs/conventions.md``, "From contours".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contours import ContourStack, stack_of
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.interpolation import Layer, layers, slabs
from cdm_nnunet.geometry.planes import PLANE_TOLERANCE_MM, axes_of, heights_mm, is_flat
from cdm_nnunet.geometry.roi_contours import RoiContours
from cdm_nnunet.geometry.scanlines import coverage
from cdm_nnunet.geometry.slices import Slices

LINES_PER_VOXEL = 5  # odd: the middle one decides if a face runs through voxel centres
_LAYERS_PER_VOXEL = 4  # for interpolated shapes between contours
_FINE_STEPS = 300  # across an ROI, unless they are larger than a pixel or smaller than a quarter of one
_TIE = 1e-5  # of a voxel: shift of contours, so that only one of two faces at voxel centres counts
_ROUNDING = 1e-6
_OBLIQUE_SAMPLES = 3  # points along each axis of a voxel in a grid that is tilted relative to the contours


@dataclass(frozen=True, eq=False)
class RoiMask:
    """An ROI on a grid.

    Attributes:
        mask: Shape (z, y, x).
        volume_cc: Volume inside the contours, not that of the voxels.
        lost_cc: Part of that volume outside the grid.
        notes: Decisions, for the record.
    """

    mask: NDArray[np.bool_]
    volume_cc: float
    lost_cc: float
    notes: tuple[str, ...]


def rasterise(
    roi: RoiContours,
    grid: Grid,
    slices: Slices | None = None,
    *,
    end_caps: EndCaps = DEFAULT_END_CAPS,
    may_lie_outside: bool = False,
) -> RoiMask:
    """Mask of an ROI: the voxels with at least half of their volume in the ROI.

    Args:
        roi: The ROI.
        grid: The grid, at least two planes; the planes may be at unequal distances.
        slices: The slices of the CT along the normal of the contours; default: derived from the ROI's own planes, or
            the grid's if the ROI has only one plane.
        end_caps: As in :func:`cdm_nnunet.geometry.contours.stack_of`; by default a drawn slice counts as a whole,
            and if the grid has other planes than the contours, tapering ends are rounded.
        may_lie_outside: Return an empty mask for an ROI wholly outside the grid.

    Raises:
        InputError: As :func:`cdm_nnunet.geometry.contours.stack_of`, or if the grid has a single plane or the ROI lies
            wholly outside it.
    """
    if grid.shape[0] < 2:
        raise InputError("a grid of a single plane has no voxel size along z")
    roi.refuse_without_volume()
    aligned = is_flat(roi, grid.axes)
    axes = grid.axes if aligned else axes_of(roi)
    if slices is None and aligned and float(np.ptp(heights_mm(roi, axes))) <= PLANE_TOLERANCE_MM:
        slices = Slices(grid.origin_xyz_mm @ axes[2] + grid.offsets_xyz_mm[2])
    stack = stack_of(roi, slices, end_caps=end_caps, axes=axes)
    parts = slabs(stack) if aligned and _on_planes(stack, grid) else _interpolated(stack, grid)
    made = (_aligned if aligned else _oblique)(stack, parts, grid)
    if not made.volume_cc > 0:
        raise InputError(f"ROI '{roi.name}' encloses no volume")
    if made.lost_cc >= (1 - _ROUNDING) * made.volume_cc and not may_lie_outside:
        raise InputError(f"ROI '{roi.name}' lies entirely outside the image")
    return made


def voxel_bounds_mm(offsets_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boundaries of the voxels of an axis: half-way between their centres; shape (n + 1,).

    Example:
        >>> voxel_bounds_mm(np.array([0.0, 2.0, 6.0]))
        array([-1.,  1.,  4.,  8.])
    """
    middles = (offsets_mm[:-1] + offsets_mm[1:]) / 2
    first, last = offsets_mm[0] - (middles[0] - offsets_mm[0]), offsets_mm[-1] + (offsets_mm[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def _on_planes(stack: ContourStack, grid: Grid) -> bool:
    """Whether the grid's planes in the ROI are the planes of its contours."""
    planes_mm = grid.axes[2] @ grid.origin_xyz_mm + grid.offsets_xyz_mm[2]
    apart_mm = np.abs(planes_mm[:, None] - stack.planes_mm)  # (planes of the grid, planes of contours)
    # (a plane where two slabs meet has no contours)
    low_mm, high_mm = stack.low_mm - PLANE_TOLERANCE_MM, stack.high_mm + PLANE_TOLERANCE_MM
    in_roi = ((planes_mm[:, None] > low_mm) & (planes_mm[:, None] < high_mm)).any(1)
    in_grid = (stack.planes_mm >= planes_mm[0]) & (stack.planes_mm <= planes_mm[-1])
    return bool(
        (apart_mm[in_roi].min(1) <= PLANE_TOLERANCE_MM).all()
        and (apart_mm[:, in_grid].min(0) <= PLANE_TOLERANCE_MM).all()
    )


def _interpolated(stack: ContourStack, grid: Grid) -> Iterator[Layer]:
    height_mm = float(np.diff(voxel_bounds_mm(grid.offsets_xyz_mm[2])).min())
    low, high = stack.box_mm
    pixel_mm = float(np.nanmin(grid.spacing_xyz_mm[:2]))
    step_mm = float(np.clip((high - low).max() / _FINE_STEPS, pixel_mm / 4, pixel_mm))
    return layers(stack, height_mm / _LAYERS_PER_VOXEL, step_mm, _TIE * height_mm)


def _aligned(stack: ContourStack, parts: Iterable[Layer], grid: Grid) -> RoiMask:
    """Coverage if the grid's planes are parallel to the contours'."""
    origin = grid.axes @ grid.origin_xyz_mm
    step = np.array([offsets[1] - offsets[0] if offsets.size > 1 else 1.0 for offsets in grid.offsets_xyz_mm[:2]])
    shift = _TIE * step
    # The box of the ROI in voxels (u, v), which may reach beyond the grid.
    low, high = (np.floor((edge - shift - origin[:2]) / step + 0.5).astype(int) for edge in stack.box_mm)
    n_u, n_v = (int(n) for n in high - low + 1)
    corner = origin[:2] + (low - 0.5) * step + shift
    inside = [(max(0, -low[k]), min(n, grid.offsets_xyz_mm[k].size - low[k])) for k, n in ((0, n_u), (1, n_v))]
    (u0, u1), (v0, v1) = ((start, max(start, end)) for start, end in inside)
    bounds_mm = origin[2] + voxel_bounds_mm(grid.offsets_xyz_mm[2])
    covered: dict[int, NDArray[np.float64]] = {}  # by z: coverage times height
    height_mm = np.zeros(grid.shape[0])
    total = kept = 0.0
    for part in parts:
        area = coverage(part.cut, (corner[0], corner[1]), (step[0], step[1]), (n_v, n_u), LINES_PER_VOXEL)
        own = area[v0:v1, u0:u1]
        overlap_mm = np.minimum(bounds_mm[1:], part.high_mm) - np.maximum(bounds_mm[:-1], part.low_mm)
        for z in np.flatnonzero(overlap_mm > 0).tolist():
            covered[z] = covered.get(z, 0.0) + overlap_mm[z] * own
        overlap_mm = overlap_mm.clip(0.0)
        height_mm += overlap_mm
        total += float(area.sum()) * (part.high_mm - part.low_mm)
        kept += float(own.sum() * overlap_mm.sum())
    mask = np.zeros(grid.shape, bool)
    for z in np.flatnonzero(height_mm >= 0.5 * np.diff(bounds_mm) * (1 - _ROUNDING)).tolist():
        mask[z, low[1] + v0 : low[1] + v1, low[0] + u0 : low[0] + u1] = covered[z] >= 0.5 * height_mm[z]
    voxel_cc = step[0] * step[1] / 1000
    lost_cc, volume_cc = float((total - kept) * voxel_cc), float(total * voxel_cc)
    return RoiMask(mask, volume_cc, lost_cc if lost_cc > _ROUNDING * volume_cc else 0.0, stack.notes)


def _oblique(stack: ContourStack, parts: Iterable[Layer], grid: Grid) -> RoiMask:
    """Coverage if the grid is tilted: points in every voxel are looked up in a fine raster of the layers."""
    step_mm = min(grid.spacing_xyz_mm) / 2
    low, high = stack.box_mm
    shape = tuple(int(n) for n in np.ceil((high - low) / step_mm)[::-1] + 1)
    first = (float(low[0]), float(low[1]))
    volume_cc, fine, ends_mm = 0.0, [], []
    for part in parts:
        area = coverage(part.cut, first, (step_mm, step_mm), (shape[0], shape[1]), 2)
        volume_cc += float(area.sum()) * step_mm**2 * (part.high_mm - part.low_mm) / 1000
        fine.append(area >= 0.5)
        ends_mm.append((part.low_mm, part.high_mm))
    inside = np.stack(fine)
    low_mm, high_mm = np.array(ends_mm).T
    bounds = [voxel_bounds_mm(offsets) for offsets in grid.offsets_xyz_mm]
    fractions = (np.arange(_OBLIQUE_SAMPLES) + 0.5) / _OBLIQUE_SAMPLES
    x, y, z = ((edge[:-1, None] + np.diff(edge)[:, None] * fractions).ravel() for edge in bounds)
    mask = np.zeros(grid.shape, bool)
    kept_mm3 = 0.0
    for k in range(grid.shape[0]):
        count = np.zeros(grid.shape[1:], np.int64)
        for z_mm in z[k * _OBLIQUE_SAMPLES : (k + 1) * _OBLIQUE_SAMPLES]:
            points = (
                grid.origin_xyz_mm + z_mm * grid.axes[2] + y[:, None, None] * grid.axes[1] + x[:, None] * grid.axes[0]
            )
            local = points @ stack.axes.T
            layer = np.searchsorted(low_mm, local[..., 2], side="right") - 1
            column, row = (np.floor((local[..., axis] - first[axis]) / step_mm).astype(int) for axis in (0, 1))
            known = (layer >= 0) & (local[..., 2] <= high_mm[layer])
            known &= (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
            hit = np.zeros(known.shape, bool)
            hit[known] = inside[layer[known], row[known], column[known]]
            rows, columns = grid.shape[1:]
            count += hit.reshape(rows, _OBLIQUE_SAMPLES, columns, _OBLIQUE_SAMPLES).sum((1, 3))
        mask[k] = 2 * count >= _OBLIQUE_SAMPLES**3
        area_mm2 = np.diff(bounds[1])[:, None] * np.diff(bounds[0])
        kept_mm3 += float((count * area_mm2).sum() * np.diff(bounds[2])[k]) / _OBLIQUE_SAMPLES**3
    lost_cc = max(0.0, volume_cc - kept_mm3 / 1000)
    return RoiMask(mask, volume_cc, lost_cc if lost_cc > 0.01 * volume_cc else 0.0, stack.notes)
