"""Do contours lie where the CT is? Without references to images, nothing else tells that a CT ends before them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cdm_nnunet.dicom.grid import VoxelGrid
from cdm_nnunet.dicom.structures import RoiContours, StructureSet
from cdm_nnunet.errors import InputError

MAX_BEYOND_MM = (100.0, 100.0, 10.0)  # x, y, z: a body may be drawn beyond the scanner's field of view, not its slices
NOTED_BEYOND_MM = (15.0, 15.0, 2.0)
_AXES = ("left-right", "front-back", "head-feet")


def extent_notes(structures: StructureSet, names: Collection[str], grid: VoxelGrid) -> list[str]:
    """Compare the contours of ROIs with the box of a CT.

    Args:
        structures: The structure set.
        names: ROIs that count, by their names in it.
        grid: The CT's.

    Raises:
        InputError: If contours go on where there is no CT.
    """
    notes = []
    for name in names:
        roi = structures.roi(name)
        for axis, beyond_mm in enumerate(_beyond_mm(roi, grid) if roi.contours else ()):
            said = f"the contours of ROI '{name}' reach {beyond_mm:.4g} mm beyond the CT ({_AXES[axis]})"
            if beyond_mm > MAX_BEYOND_MM[axis]:
                raise InputError(
                    f"{structures.path}: {said}: images are missing, or the contours belong to another CT or are "
                    "damaged; export both again"
                )
            if beyond_mm > NOTED_BEYOND_MM[axis]:
                notes.append(f"unusual: {said}; there the CT counts as air")
    return notes


def _beyond_mm(roi: RoiContours, grid: VoxelGrid) -> tuple[float, ...]:
    """How far the contours reach out of the grid's voxels along x, y and z; 0 where they don't."""
    points_mm = grid.local_mm(np.concatenate(roi.contours))
    low_mm, high_mm = points_mm.min(0), points_mm.max(0)
    beyond = []
    for axis, offsets_mm in enumerate(grid.offsets_mm):
        half_mm = float(np.diff(offsets_mm).max()) / 2 if offsets_mm.size > 1 else 0.0
        beyond.append(max(-half_mm - low_mm[axis], high_mm[axis] - offsets_mm[-1] - half_mm, 0.0))
    return tuple(float(mm) for mm in beyond)
