"""Base of losses on the doses of ROIs: each ROI's voxels are found once, and both doses sorted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.roi_index import RoiIndex
from cdm_nnunet.losses.sorted_doses import SortedDoses
from cdm_nnunet.losses.terms import Terms


class SortedBatch(NamedTuple):
    """Sorted data of a batch for losses.

    Attributes:
        rois: The voxels of the ROIs; row r * B + b is ROI r in sample b.
        predicted: Their predicted doses, ascending; differentiable.
        reference: Their reference doses, ascending.
        prescription_gy: (B, K), Gy; NaN if an ROI has none.
        voxel_volume_cc: (B,), cc.
        roi_voxels: (B, K), voxels of each ROI in the whole patient; None if the whole patient is given.
    """

    rois: RoiIndex
    predicted: SortedDoses
    reference: SortedDoses
    prescription_gy: Sequence[Sequence[float]]
    voxel_volume_cc: Sequence[float]
    roi_voxels: Sequence[Sequence[int]] | None

    def nothing(self) -> Tensor:
        """The loss of a batch without terms."""
        return self.predicted.voxels_gy.new_zeros((), dtype=torch.float32)


class DvhLoss(nn.Module):
    """A loss on the doses of ROIs; variants define :meth:`compare`.

    Args:
        terms: Its ROIs are compared, and their metrics if the loss is about metrics.
        dose_scale_gy: Dose by which doses are divided, Gy.

    Raises:
        InputError: If ``dose_scale_gy`` is not above zero.
    """

    def __init__(self, terms: Terms, dose_scale_gy: float):
        super().__init__()
        if not 0 < dose_scale_gy < math.inf:
            raise InputError(f"dose_scale_gy must be above zero, not {dose_scale_gy}")
        self.terms = terms
        self.dose_scale_gy = dose_scale_gy

    def compare(self, batch: SortedBatch) -> Tensor:
        """The loss of a batch: a scalar."""
        raise NotImplementedError

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        self,
        predicted_dose_gy: Tensor,
        reference_dose_gy: Tensor,
        words: Tensor,
        prescription_gy: Sequence[Sequence[float]],
        voxel_volume_cc: Sequence[float],
        roi_voxels: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            predicted_dose_gy: (B, 1, Z, Y, X), Gy.
            reference_dose_gy: (B, 1, Z, Y, X), Gy.
            words: ROI words, (B, L, Z, Y, X).
            prescription_gy: (B, K), Gy; NaN if an ROI has none.
            voxel_volume_cc: (B,), cc.
            roi_voxels: (B, K), voxels of each ROI in the whole patient; None if the whole patient is given.

        Returns:
            Scalar, float32.
        """
        with torch.autocast(predicted_dose_gy.device.type, enabled=False):
            index = RoiIndex.of(words, self.terms.bits)
            predicted = SortedDoses.of(predicted_dose_gy, index)
            with torch.no_grad():
                reference = SortedDoses.of(reference_dose_gy, index)
            return self.compare(SortedBatch(index, predicted, reference, prescription_gy, voxel_volume_cc, roi_voxels))
