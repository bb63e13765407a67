"""Matching of contours to a CT that was exported again with other UIDs, by its slices."""

from __future__ import annotations

import numpy as np

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.ct import CtVolume
from cdm_nnunet.dicom.structures import StructureSet
from cdm_nnunet.geometry.planes import clusters, heights_mm, is_flat

_ON_SLICE_MM = 0.2
_MOST_OFF = 0.05  # share of the contour planes; some are interpolated


def why_other_geometry(structures: StructureSet, ct: CtVolume) -> str:
    """Reason why contours can't have been drawn on a CT, from its slices; empty if they can.

    Args:
        structures: The structure set.
        ct: The CT; its headers are enough.
    """
    grid = ct.volume.grid
    drawn = [roi for roi in structures.rois if roi.contours]
    if not drawn:
        return "the structure set has no contours"
    if not all(is_flat(roi, grid.axes) for roi in drawn):
        return "the contours are not parallel to its slices"
    planes_mm = clusters(np.concatenate([heights_mm(roi, grid.axes) for roi in drawn]))[0]
    slices_mm = grid.axes[2] @ grid.origin_xyz_mm + grid.offsets_xyz_mm[2]
    off = np.abs(planes_mm[:, None] - slices_mm).min(1) > _ON_SLICE_MM
    if np.count_nonzero(off) > _MOST_OFF * planes_mm.size:
        return f"{np.count_nonzero(off)} of {planes_mm.size} planes of contours are on none of its slices"
    listed = max((len(images) for images in structures.listed.values()), default=0)
    if listed > slices_mm.size:
        return f"the structure set lists {counted(listed, 'image')}, and it has {slices_mm.size}"
    return ""
