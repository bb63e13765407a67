"""Facts of a patch for the loss: prescriptions, voxel volume, sizes of ROIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class PatchFacts:
    """Facts of the patient of a patch. Every tuple has one entry per ROI, in bit order.

    Attributes:
        prescription_gy: Prescription of each ROI, Gy; NaN if it has none.
        roi_voxels: Number of voxels of each ROI in the whole patient, on the network's grid.
        voxel_volume_cc: Volume of a voxel, cc.
    """

    prescription_gy: tuple[float, ...]
    roi_voxels: tuple[int, ...]
    voxel_volume_cc: float

    @classmethod
    def of_case(cls, properties: Mapping[str, Any]) -> PatchFacts:
        """Facts of a preprocessed case, from its properties."""
        own = properties["cdm"]
        return cls(tuple(own["prescription_gy"]), tuple(own["roi_voxels"]), own["voxel_volume_cc"])

    def mirrored(self, permutation: Sequence[int]) -> PatchFacts:
        """Facts after exchanging left and right; all entries of an ROI move together.

        Args:
            permutation: :attr:`Catalogue.mirror_permutation`.

        Example:
            >>> PatchFacts((54.0, 63.0), (10, 20), 0.1).mirrored((1, 0))
            PatchFacts(prescription_gy=(63.0, 54.0), roi_voxels=(20, 10), voxel_volume_cc=0.1)
        """
        per_roi: dict[str, Any] = {
            name: tuple(values[k] for k in permutation)
            for name, values in vars(self).items()
            if isinstance(values, tuple)
        }
        return replace(self, **per_roi)


def loss_arguments(
    facts: Sequence[PatchFacts],
) -> tuple[list[tuple[float, ...]], list[float], list[tuple[int, ...]]]:
    """Facts of a batch as arguments of :meth:`CDMLoss.forward`: prescriptions, voxel volumes, sizes of ROIs."""
    return (
        [one.prescription_gy for one in facts],
        [one.voxel_volume_cc for one in facts],
        [one.roi_voxels for one in facts],
    )
