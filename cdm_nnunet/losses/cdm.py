"""The clinical DVH metric (CDM) loss.

After R. Gao, M. Staring, F. Dankers, "Clinical DVH metrics as a loss function for 3D dose prediction in head and neck
radiotherapy", arXiv 2603.29670 (2026): differentiable D- and V-metrics, chosen by a clinical template, beside the
voxel-wise MAE. The formulas here are this project's own; ``docs/conventions.md``, "CDM loss", states them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.metrics import Smoothing, Terms, dvh_metrics


class CDMLoss(nn.Module):
    """Mean absolute difference between the DVH metrics of two doses.

    For sample b and term t (metric M_t of an ROI): |M_t(predicted) - M_t(reference)|, D-metrics divided by
    ``dose_scale_gy``, V-metrics as a fraction. The loss is the mean over the terms that are present, weighted with the
    template's weight times the share of the ROI that lies inside the patch. A sample without any ROI contributes
    nothing.

    Args:
        terms: Which metrics.
        dose_scale_gy: What D-metrics are divided by, Gy.
        smoothing: How the metrics are made differentiable.

    Raises:
        InputError: If ``dose_scale_gy`` is not above zero.
    """

    def __init__(self, terms: Terms, dose_scale_gy: float, smoothing: Smoothing | None = None):
        super().__init__()
        if not 0 < dose_scale_gy < math.inf:
            raise InputError(f"dose_scale_gy must be above zero, not {dose_scale_gy}")
        self.terms = terms
        self.smoothing = smoothing or Smoothing()
        unit = [0.01 if term.metric.is_volume else 1 / dose_scale_gy for term in terms.terms]
        self.register_buffer("_unit", torch.tensor(unit), persistent=False)
        self.register_buffer("_weight", torch.tensor([term.weight for term in terms.terms]), persistent=False)
        self._unit: Tensor
        self._weight: Tensor

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
            prescription_gy: (B, K), Gy; NaN where an ROI has none.
            voxel_volume_cc: (B,), cc.
            roi_voxels: (B, K), voxels of each ROI in the whole patient; None if the whole patient is given.

        Returns:
            Scalar, float32.
        """
        device_type = predicted_dose_gy.device.type
        total = predicted_dose_gy.new_zeros((), dtype=torch.float32)
        weight_sum = torch.zeros_like(total)
        with torch.autocast(device_type, enabled=False):
            for b in range(len(predicted_dose_gy)):
                arguments = (words[b], self.terms, prescription_gy[b], voxel_volume_cc[b], self.smoothing)
                predicted, n_voxels = dvh_metrics(predicted_dose_gy[b, 0].float(), *arguments)
                with torch.no_grad():
                    reference, _ = dvh_metrics(reference_dose_gy[b, 0].float(), *arguments)
                weight = self._weight.to(predicted.device) * (n_voxels > 0)
                if roi_voxels is not None:
                    whole = n_voxels.new_tensor([roi_voxels[b][term.bit] for term in self.terms.terms])
                    weight = weight * (n_voxels / whole.clamp(min=1)).clamp(max=1.0)
                total = total + ((predicted - reference).abs() * self._unit.to(predicted.device) * weight).sum()
                weight_sum = weight_sum + weight.sum()
        return total / weight_sum.clamp(min=1e-6)
