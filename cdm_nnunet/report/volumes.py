"""Volumes for the slice viewer: CT, doses and ROI masks, cropped, quantised and compressed."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.documents import plain
from cdm_nnunet.evaluation.scene import Scene, central_slices

DOSE_STEP_GY = 0.05
SHOWN_FROM_FRACTION = 0.05
MARGIN_MM = 10.0
# HU of the 256 grey codes of the CT: fine in soft tissue, coarser in air and bone.
HU_TABLE = np.concatenate([np.linspace(-1024, -204, 51), np.arange(-200, 300, 4), np.linspace(300, 3100, 80)])


@dataclass(frozen=True)
class DisplayVolume:
    """A compressed volume and how to read it.

    Attributes:
        header: For the viewer: ``shape`` (Z, Y, X); ``spacing_mm`` and ``origin_mm`` (z, y, x) of the displayed voxels;
            ``stride``, every which voxel of the dose grid is shown along z, y, x; ``dose_step_gy``;
            ``prescription_gy``; ``rois``, names in the order of their masks; ``centre``, the slices (z, y, x) to begin
            with; ``gamma``, the criterion and the pass rate, where it is shown.
        packed: gzip of: the doses of the scene, in their order, as little-endian uint16 multiples of ``dose_step_gy``,
            the CT as uint8 positions in :data:`HU_TABLE`, and one bit per voxel for each ROI, each mask filled up to
            whole bytes; then likewise where gamma is above 1, if it is shown.
    """

    header: dict[str, Any]
    packed: bytes


def display_volume(scene: Scene, max_bytes: int) -> DisplayVolume:
    """Pack a scene for the viewer.

    The box that holds dose from 5 % of the prescription on and all ROIs is kept. Values are those of voxels of the dose
    grid, never interpolated: where the packed volume would be larger than ``max_bytes``, every second voxel is left out
    along the axis with the smallest spacing, and so on.

    Args:
        scene: The case along the patient's axes.
        max_bytes: Limit of the packed size; a volume of under 8 voxels along an axis is not thinned out further.
    """
    box = _shown_box(scene)
    stride = [1, 1, 1]
    while True:
        parts = tuple(slice(part.start, part.stop, step) for part, step in zip(box, stride, strict=True))
        volume = _pack(scene, parts, stride)
        if len(volume.packed) <= max_bytes:
            return volume
        axes = [axis for axis in range(3) if volume.header["shape"][axis] >= 8]
        if not axes:
            return volume
        stride[min(axes, key=lambda axis: stride[axis] * scene.grid.spacing_zyx_mm[axis])] += 1


def _shown_box(scene: Scene) -> tuple[slice, slice, slice]:
    highest_gy = np.maximum.reduce(list(scene.doses_gy.values()))
    shown = highest_gy >= SHOWN_FROM_FRACTION * scene.prescription_gy
    for mask in scene.masks.values():
        shown |= mask
    z, y, x = (_range(shown, axis, scene.grid.spacing_zyx_mm[axis]) for axis in range(3))
    return z, y, x


def _range(shown: NDArray[np.bool_], axis: int, spacing_mm: float) -> slice:
    filled = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))
    if not filled.size:
        return slice(0, shown.shape[axis])
    margin = math.ceil(MARGIN_MM / spacing_mm)
    return slice(max(0, int(filled[0]) - margin), min(shown.shape[axis], int(filled[-1]) + 1 + margin))


def _pack(scene: Scene, parts: tuple[slice, ...], stride: list[int]) -> DisplayVolume:
    doses = [np.ascontiguousarray(dose[parts], np.float64) for dose in scene.doses_gy.values()]
    step_gy = max(DOSE_STEP_GY, max(float(dose.max()) for dose in doses) / np.iinfo(np.uint16).max)
    pieces = [np.round(dose / step_gy).astype("<u2").tobytes() for dose in doses]
    pieces.append(hu_codes(scene.ct_hu[parts]).tobytes())
    pieces += [np.packbits(mask[parts]).tobytes() for mask in scene.masks.values()]
    if scene.gamma is not None:
        pieces.append(np.packbits(scene.gamma.failed[parts]).tobytes())
    starts = [part.start for part in parts]
    shape = doses[0].shape
    centre = [
        min(max(0, round((middle - start) / step)), size - 1)
        for middle, start, step, size in zip(central_slices(scene), starts, stride, shape, strict=True)
    ]
    header = {
        "shape": list(shape),
        "spacing_mm": [mm * step for mm, step in zip(scene.grid.spacing_zyx_mm, stride, strict=True)],
        "origin_mm": [
            o + s * mm for o, s, mm in zip(scene.grid.origin_zyx_mm, starts, scene.grid.spacing_zyx_mm, strict=True)
        ],
        "stride": list(stride),
        "dose_step_gy": step_gy,
        "prescription_gy": scene.prescription_gy,
        "rois": list(scene.masks),
        "centre": centre,
        **({} if scene.gamma is None else {"gamma": plain(scene.gamma.result)}),
    }
    return DisplayVolume(header, gzip.compress(b"".join(pieces), compresslevel=6, mtime=0))


def hu_codes(ct_hu: NDArray[Any]) -> NDArray[np.uint8]:
    """Position of the nearest value in :data:`HU_TABLE`, same shape."""
    borders = (HU_TABLE[1:] + HU_TABLE[:-1]) / 2
    return np.searchsorted(borders, ct_hu).astype(np.uint8)
