"""The voxels of a case's ROIs, cut out of the volumes once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.roi import mask_of

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class RoiVoxels:
    """An ROI with voxels.

    Attributes:
        box: Bounding box.
        mask: The ROI within its box.
        reference_gy: Its reference doses, ascending, shape (n,), Gy.
        predicted_gy: Its predicted doses, ascending, shape (n,), Gy.
        members_gy: Its doses in each member of the ensemble, likewise.
        cut_by_grid: Whether it reaches the first or last plane of the grid.
    """

    box: Box
    mask: NDArray[np.bool_]
    reference_gy: NDArray[np.floating]
    predicted_gy: NDArray[np.floating]
    members_gy: tuple[NDArray[np.floating], ...]
    cut_by_grid: bool

    @property
    def n(self) -> int:
        """Number of voxels."""
        return int(self.reference_gy.size)


class CaseRois:
    """The ROIs of a case by name in the catalogue; each is cut out and sorted once, when first used."""

    def __init__(self, pair: DosePair) -> None:
        self._pair = pair
        self._boxes = roi_boxes(pair.roi_bits, len(pair.catalogue))
        self._found: dict[str, RoiVoxels] = {}

    def get(self, name: str) -> RoiVoxels | None:
        """The ROI; None if it has no voxel."""
        bit = self._pair.catalogue.bit(name)
        box = self._boxes[bit]
        if box is None:
            return None
        if name not in self._found:
            mask = self.mask(name, box)
            doses = (self._pair.reference_dose_gy, self._pair.predicted_dose_gy, *self._pair.member_doses_gy)
            reference, predicted, *members = (np.sort(dose[box][mask]) for dose in doses)
            sides = zip(box, self._pair.roi_bits.shape, strict=True)
            cut = any(side.start == 0 or side.stop == n for side, n in sides)
            self._found[name] = RoiVoxels(box, mask, reference, predicted, tuple(members), cut)
        return self._found[name]

    def mask(self, name: str, box: Box) -> NDArray[np.bool_]:
        """Mask of an ROI within a box."""
        return mask_of(self._pair.roi_bits[box], self._pair.catalogue.bit(name))


def roi_boxes(roi_bits: NDArray[np.unsignedinteger], n_rois: int) -> list[Box | None]:
    """Bounding box of each ROI, found in two passes over the volume; None for an empty ROI.

    Args:
        roi_bits: Packed masks, shape (Z, Y, X).
        n_rois: Number of ROIs.
    """
    zy, yx = np.bitwise_or.reduce(roi_bits, axis=2), np.bitwise_or.reduce(roi_bits, axis=0)
    profiles = (np.bitwise_or.reduce(zy, axis=1), np.bitwise_or.reduce(zy, axis=0), np.bitwise_or.reduce(yx, axis=0))
    boxes: list[Box | None] = []
    for bit in range(n_rois):
        held = [np.flatnonzero(mask_of(profile, bit)) for profile in profiles]
        z, y, x = (slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0) for at in held)
        boxes.append((z, y, x) if held[0].size else None)
    return boxes
