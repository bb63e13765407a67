"""Check that contours lie within the CT: without image references, only this shows that a CT ends too early."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.roi_contours import RoiContours

MAX_BEYOND_MM = (100.0, 100.0, 10.0)  # x, y, z: a body may extend beyond the scanner's field of view, not its slices
NOTED_BEYOND_MM = (15.0, 15.0, 2.0)
_AXES = ("left-right", "front-back", "head-feet")


def extent_notes(rois: Iterable[RoiContours], grid: Grid, where: object) -> list[str]:
    """Compare the contours of ROIs with the box of a CT.

    Args:
        rois: The ROIs to check.
        grid: Grid of the CT.
        where: Their file, for messages.

    Raises:
        InputError: If contours extend beyond the CT.
    """
    notes = []
    for roi in rois:
        for axis, beyond_mm in enumerate(_beyond_mm(roi, grid) if roi.contours else ()):
            said = f"the contours of ROI '{roi.name}' reach {beyond_mm:.4g} mm beyond the CT ({_AXES[axis]})"
            if beyond_mm > MAX_BEYOND_MM[axis]:
                raise InputError(
                    f"{where}: {said}: images are missing, or the contours belong to another CT or are "
                    "damaged; export both again"
                )
            if beyond_mm > NOTED_BEYOND_MM[axis]:
                notes.append(f"unusual: {said}; there the CT counts as air")
    return notes


def _beyond_mm(roi: RoiContours, grid: Grid) -> tuple[float, ...]:
    """Distance by which the contours extend beyond the grid's voxels along x, y and z; 0 if they do not."""
    points_mm = grid.local_mm(np.concatenate(roi.contours))
    low_mm, high_mm = points_mm.min(0), points_mm.max(0)
    beyond = []
    for axis, offsets_mm in enumerate(grid.offsets_xyz_mm):
        half_mm = float(np.diff(offsets_mm).max()) / 2 if offsets_mm.size > 1 else 0.0
        beyond.append(max(-half_mm - low_mm[axis], high_mm[axis] - offsets_mm[-1] - half_mm, 0.0))
    return tuple(float(mm) for mm in beyond)
