"""A patient of a raw data set for planning: CT, body, targets and organs on one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dataset import CT_CHANNEL, ROI_CHANNEL, RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import Catalogue, mask_of

BODY_FROM_HU = -400.0
_UPRIGHT = 1e-3
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A patient without a dose.

    Attributes:
        case: Name of the case.
        ct_hu: CT, shape (z, y, x), HU.
        roi_bits: Packed ROI masks, same shape.
        catalogue: Catalogue of the bits.
        prescriptions_gy: Prescription of each target of the case by name, Gy.
        grid: Grid of the voxels.

    Raises:
        InputError: If the patient can't be planned: the axes are tilted, or no target has a prescription.
    """

    case: str
    ct_hu: NDArray[Any]
    roi_bits: NDArray[np.unsignedinteger]
    catalogue: Catalogue
    prescriptions_gy: Mapping[str, float]
    grid: Grid

    def __post_init__(self) -> None:
        if not np.allclose(self.grid.axes, np.eye(3), atol=_UPRIGHT):
            raise InputError("its grid is tilted against the patient's axes; beams are planned on upright grids only")
        if not self.prescriptions_gy:
            raise InputError("it has no target with a prescription")
        empty = [name for name in self.prescriptions_gy if not self.mask(name).any()]
        if empty:
            raise InputError(f"target '{empty[0]}' has no voxel")

    def mask(self, name: str) -> Mask:
        """Mask of an ROI of the catalogue, shape (z, y, x)."""
        return mask_of(self.roi_bits, self.catalogue.bit(name))

    @cached_property
    def targets(self) -> Mask:
        """All targets with a prescription together, shape (z, y, x)."""
        return np.asarray(np.logical_or.reduce([self.mask(name) for name in self.prescriptions_gy]))

    @cached_property
    def body(self) -> Mask:
        """Mask of the body, shape (z, y, x): the body contour, or the body in the CT."""
        contour = next((roi.name for roi in self.catalogue.rois if roi.kind == "external"), None)
        found = body_of_ct(self.ct_hu) if contour is None or not self.mask(contour).any() else self.mask(contour)
        return found | self.targets

    @cached_property
    def dose_region(self) -> Mask:
        """Mask of dose in the data set, shape (z, y, x): its dose region, else the body."""
        bit = self.catalogue.dose_region_bit
        return self.body if bit is None else mask_of(self.roi_bits, bit)

    @property
    def highest_target(self) -> str:
        """The target of the highest prescription."""
        return max(self.prescriptions_gy, key=lambda name: self.prescriptions_gy[name])

    def distance_mm(self, mask: Mask) -> NDArray[np.float32]:
        """Distance of each voxel from the nearest one of a mask, shape (z, y, x), mm; 0 inside."""
        distance = ndimage.distance_transform_edt(~mask, sampling=self.grid.spacing_zyx_mm)
        return np.asarray(distance, np.float32)


def read_anatomy(dataset: RawDataset, case: str) -> Anatomy:
    """Read a patient of a raw data set.

    Raises:
        InputError: If a file is missing or damaged, the images do not lie on one grid, or as :class:`Anatomy`.
    """
    record = dataset.record(case)
    ct, roi_bits = (read_image(dataset.image_path(case, channel)) for channel in (CT_CHANNEL, ROI_CHANNEL))
    ct.refuse_other_grid(roi_bits)
    return Anatomy(case, ct.values, roi_bits.values, dataset.catalogue, dict(record.prescriptions_gy), ct.grid)


def body_of_ct(ct_hu: NDArray[Any]) -> Mask:
    """The largest connected part of a CT above -400 HU with its cavities, shape (z, y, x).

    Raises:
        InputError: If no voxel is above.
    """
    parts, n_parts = ndimage.label(ct_hu > BODY_FROM_HU)
    if not n_parts:
        raise InputError(f"no voxel of the CT is above {BODY_FROM_HU:g} HU: it shows no body")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in parts == sizes.argmax()])
