"""Published DVH losses for comparison with the CDM loss, on the same sorted doses: no masks, no bins x voxels tensor.

Formulas, defaults and sources: ``docs/losses.md``. All average over the ROIs that are present in the batch; a part of
an ROI inside the patch counts as an ROI.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cdm_nnunet.errors import InputError
from cdm_nnunet.losses.dvh_loss import DvhLoss, SortedBatch
from cdm_nnunet.losses.metrics import geud_gy
from cdm_nnunet.losses.terms import Terms

_CHUNK = 4_000_000  # values in memory at once, bins x voxels


class SortedDoseLoss(DvhLoss):
    """Base of losses that compare two doses ROI by ROI; on its own, the value-based loss.

    Value-based: mean |d_(i) - d*_(i)| over the i-th lowest doses of the ROI, which is the area between both DVHs.
    Arguments are those of :class:`DvhLoss`; metrics and weights of the terms are not used.
    """

    def __init__(self, terms: Terms, dose_scale_gy: float):
        super().__init__(terms, dose_scale_gy)
        self.is_target = tuple(any(t.is_target for t in terms.terms if t.bit == bit) for bit in terms.bits)

    def roi_loss(self, predicted_gy: Tensor, reference_gy: Tensor, is_target: bool) -> Tensor:
        """Loss of one ROI.

        Args:
            predicted_gy: Predicted doses of its voxels, ascending, shape (n,).
            reference_gy: Reference doses, ascending, shape (n,).
            is_target: Whether the ROI is a target.
        """
        return (predicted_gy - reference_gy).abs().mean() / self.dose_scale_gy

    def compare(self, batch: SortedBatch) -> Tensor:
        """The mean over all ROIs of a batch."""
        counts = batch.rois.counts
        n_samples = len(counts) // len(self.is_target)
        predicted_gy = batch.predicted.voxels_gy.split(counts)
        losses = [
            self.roi_loss(predicted_gy[row], batch.reference.roi_gy(row), self.is_target[row // n_samples])
            for row, count in enumerate(counts)
            if count
        ]
        return torch.stack(losses).mean() if losses else batch.nothing()


class MomentLoss(SortedDoseLoss):
    """Mean squared difference of moments M_a = ((1/n) sum d^a)^(1/a), which are gEUDs.

    After G. Jhanwar et al., Phys Med Biol 67:185012 (2022): a = 1, 2, 10 for OARs and 2, 4, 6 for targets. Doses are in
    units of the dose scale, and scaled by their maximum before they are raised to a power.
    """

    TARGET_POWERS = (2.0, 4.0, 6.0)
    OAR_POWERS = (1.0, 2.0, 10.0)

    def roi_loss(self, predicted_gy: Tensor, reference_gy: Tensor, is_target: bool) -> Tensor:
        """The mean over the moments of an ROI."""
        powers = self.TARGET_POWERS if is_target else self.OAR_POWERS
        differences = [geud_gy(predicted_gy, a) - geud_gy(reference_gy, a) for a in powers]
        return ((torch.stack(differences) / self.dose_scale_gy) ** 2).mean().to(predicted_gy.dtype)


class DVHCurveLoss(SortedDoseLoss):
    """Mean squared difference of soft cumulative DVHs.

    After D. Nguyen et al., Med Phys 47:837 (2020): v(t) = (1/n) sum sigmoid(m (d_i - t) / b) at t = 0, b, 2 b, ... with
    the bin width b and m = 1. The last t is the first above 1.1 x the dose scale.

    Args:
        terms: As for :class:`SortedDoseLoss`.
        dose_scale_gy: As for :class:`SortedDoseLoss`; here it only limits the dose axis.
        bin_width_gy: b.
    """

    def __init__(self, terms: Terms, dose_scale_gy: float, bin_width_gy: float = 1.0):
        super().__init__(terms, dose_scale_gy)
        if not bin_width_gy > 0:
            raise InputError(f"bin_width_gy must be above zero, not {bin_width_gy}")
        self.bin_width_gy = bin_width_gy
        n_bins = int(1.1 * dose_scale_gy / bin_width_gy) + 2
        self.bins_gy = tuple(bin_width_gy * k for k in range(n_bins))

    def roi_loss(self, predicted_gy: Tensor, reference_gy: Tensor, is_target: bool) -> Tensor:
        """The mean over the dose axis."""
        bins_gy = predicted_gy.new_tensor(self.bins_gy)
        predicted: Tensor = _SoftDvh.apply(predicted_gy, bins_gy, self.bin_width_gy)
        reference: Tensor = _SoftDvh.apply(reference_gy, bins_gy, self.bin_width_gy)
        return ((predicted - reference) ** 2).mean()


class _SoftDvh(torch.autograd.Function):
    """(n,) doses, (T,) bins -> (T,) soft cumulative DVH, a few bins at a time in both directions."""

    @staticmethod
    def forward(ctx, dose_gy: Tensor, bins_gy: Tensor, width_gy: float) -> Tensor:  # type: ignore[no-untyped-def]  # torch's
        ctx.save_for_backward(dose_gy, bins_gy)
        ctx.width_gy = width_gy
        chunks = bins_gy.split(max(1, _CHUNK // len(dose_gy)))
        return torch.cat([torch.sigmoid((dose_gy - chunk[:, None]) / width_gy).mean(1) for chunk in chunks])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]  # torch's
        dose_gy, bins_gy = ctx.saved_tensors
        result = torch.zeros_like(dose_gy)
        size = max(1, _CHUNK // len(dose_gy))
        for chunk, weight in zip(bins_gy.split(size), gradient.split(size), strict=True):
            step = torch.sigmoid((dose_gy - chunk[:, None]) / ctx.width_gy)
            result += weight @ (step * (1 - step))
        return result / (ctx.width_gy * len(dose_gy)), None, None
