"""The clinical DVH metric (CDM) loss.

After R. Gao, M. Staring, F. Dankers, "Clinical DVH metrics as a loss function for 3D dose prediction in head and neck
radiotherapy", arXiv 2603.29670 (2026): differentiable D- and V-metrics, chosen by a clinical template, added to the
voxel-wise MAE. The formulas here are this project's own; ``docs/conventions.md``, "CDM loss", states them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.dvh_loss import DvhLoss, SortedBatch
from cdm_nnunet.losses.metrics import metric_values
from cdm_nnunet.losses.sorted_doses import SortedDoses
from cdm_nnunet.losses.terms import PartialRois, Present, Smoothing, Terms, VForm

WHOLE_FROM = 0.95  # an ROI with this share inside counts as whole: rotation moves a few voxels


class CDMLoss(DvhLoss):
    """Mean absolute difference between the DVH metrics of two doses.

    For sample b and term t (metric M_t of an ROI): |M_t(predicted) - M_t(reference)|, D-metrics and gEUD divided by
    ``dose_scale_gy``, V-metrics as a fraction of the ROI's volume (in percent or in cc), HI unchanged. The loss is the
    mean over the present terms, weighted by the template's weight and, if the patch cuts an ROI, according to
    ``partial_rois``. A sample without any ROI contributes nothing.

    Args:
        terms: The metrics.
        dose_scale_gy: Dose by which doses are divided, Gy.
        smoothing: Smoothing that makes the metrics differentiable.
        v_form: Form of V-metrics: by a ``sigmoid`` step at the threshold; by the ``dose`` at the reference's
            volume, see :func:`_dose_at_reference_volume`; or the mean of ``both``.
        partial_rois: Weight of an ROI that the patch cuts: ``weighted`` by the share inside, nothing (only ``whole``
            ROIs count), or ``all`` the same.

    Raises:
        InputError: If ``dose_scale_gy`` is not above zero, or an option is unknown.
    """

    def __init__(
        self,
        terms: Terms,
        dose_scale_gy: float,
        smoothing: Smoothing | None = None,
        *,
        v_form: VForm = "sigmoid",
        partial_rois: PartialRois = "weighted",
    ):
        super().__init__(terms, dose_scale_gy)
        for name, value, known in (("v_form", v_form, VForm), ("partial_rois", partial_rois, PartialRois)):
            if value not in get_args(known):
                raise InputError(f"{name} is one of {', '.join(get_args(known))}, not '{value}'")
        self.smoothing = smoothing or Smoothing()
        self.v_form = v_form
        self.partial_rois = partial_rois

    def compare(self, batch: SortedBatch) -> Tensor:
        """The weighted mean over the present terms."""
        present, weights = [], []
        for part in self.terms.present(batch.rois, batch.prescription_gy, batch.voxel_volume_cc):
            if weight := self._weight(part, None if batch.roi_voxels is None else batch.roi_voxels[part.sample]):
                present.append(part)
                weights.append(weight)
        if not present:
            return batch.nothing()
        errors = self._errors(batch.predicted, batch.reference, present)
        return (errors * errors.new_tensor(weights)).sum() / max(sum(weights), 1e-6)

    def _weight(self, part: Present, roi_voxels: Sequence[int] | None) -> float:
        weight = self.terms.terms[part.term].weight
        if roi_voxels is None or self.partial_rois == "all":
            return weight
        share = min(part.n_voxels / max(roi_voxels[self.terms.terms[part.term].bit], 1), 1.0)
        return weight * (float(share >= WHOLE_FROM) if self.partial_rois == "whole" else share)

    def _errors(self, predicted: SortedDoses, reference: SortedDoses, present: Sequence[Present]) -> Tensor:
        """|M(predicted) - M(reference)| of each present term, without a unit."""
        unit = {"Gy": 1 / self.dose_scale_gy, "%": 0.01, "": 1.0}
        units = [
            1 / (part.n_voxels * part.voxel_volume_cc) if part.metric.unit == "cc" else unit[part.metric.unit]
            for part in present
        ]
        by_dose = [i for i, part in enumerate(present) if part.metric.is_volume and self.v_form != "sigmoid"]
        by_value = [i for i in range(len(present)) if self.v_form != "dose" or i not in by_dose]
        errors = predicted.voxels_gy.new_zeros(len(present))
        for chosen in (by_value, by_dose):
            if not chosen:
                continue
            parts = [present[i] for i in chosen]
            if chosen is by_dose:
                found = _dose_at_reference_volume(predicted, reference, parts, self.smoothing) / self.dose_scale_gy
            else:
                values = metric_values(predicted, parts, self.smoothing)
                with torch.no_grad():
                    aims = metric_values(reference, parts, self.smoothing)
                found = (values - aims).abs() * values.new_tensor([units[i] for i in chosen])
            share = [0.5 if self.v_form == "both" and present[i].metric.is_volume else 1.0 for i in chosen]
            where = torch.tensor(chosen, device=found.device)
            errors = errors.index_add(0, where, found * found.new_tensor(share))
        return errors


def _dose_at_reference_volume(
    predicted: SortedDoses, reference: SortedDoses, parts: Sequence[Present], smoothing: Smoothing
) -> Tensor:
    """A V-metric as a dose, Gy: the dose error at the reference's volume for the threshold.

    With v, the exact share of the reference's voxels at or above the threshold x, and Q, the (windowed) quantile
    function: |Q_predicted(1 - v) - Q_reference(1 - v)|; the reference's is x, to the distance between two voxels'
    doses. Its gradient does not fade with the distance from the threshold. If v is 1, every prediction at x
    or above is right, so the term is max(0, x - Q_predicted(0)); if v is 0, it is
    max(0, Q_predicted(1) - x).
    """
    rows, thresholds_gy = [part.row for part in parts], [part.threshold_gy for part in parts]
    with torch.no_grad():
        volumes = reference.volume_fractions(rows, thresholds_gy, 0.0)
    ranks = [(1.0 - volume) * (predicted.counts[row] - 1) for row, volume in zip(rows, volumes.tolist(), strict=True)]
    window = smoothing.window_percent / 100
    predicted_gy = predicted.order_statistics(rows, ranks, window)
    with torch.no_grad():
        reference_gy = reference.order_statistics(rows, ranks, window)
    return error_at_volume(
        volumes.to(predicted_gy.dtype), predicted_gy.new_tensor(thresholds_gy), predicted_gy, reference_gy
    )


def error_at_volume(volumes: Tensor, threshold_gy: Tensor, predicted_gy: Tensor, reference_gy: Tensor) -> Tensor:
    """The error of :func:`_dose_at_reference_volume` from its parts.

    Args:
        volumes: The reference's share of voxels at or above the threshold, shape (n,).
        threshold_gy: Shape (n,), Gy.
        predicted_gy: Predicted dose at that volume, shape (n,), Gy.
        reference_gy: Reference dose at that volume, shape (n,), Gy.
    """
    one_sided = torch.where(volumes == 1, threshold_gy - predicted_gy, predicted_gy - threshold_gy).clamp(min=0)
    return torch.where((volumes == 0) | (volumes == 1), one_sided, (predicted_gy - reference_gy).abs())
