"""The baselines, on the same plans as the method; formulas and sources: ``docs/losses.md``."""

from __future__ import annotations

from cdm_nnunet.losses.dose import region_mse
from cdm_nnunet.losses.metrics import Terms
from cdm_nnunet.losses.rivals import DVHCurveLoss, MomentLoss, SortedDoseLoss
from cdm_nnunet.trainers.base import DoseTrainer


class nnUNetTrainerDoseMAE(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Vanilla nnU-Net as a regressor: trains on the mean absolute error of the dose alone."""


class nnUNetTrainerDoseMSE(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on the mean squared error of the dose alone."""

    voxel_error = staticmethod(region_mse)


class nnUNetTrainerDoseDVH(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on MAE + w x DVH-curve loss."""

    dvh_weight = 10.0

    def build_dvh_loss(self, terms: Terms) -> DVHCurveLoss:
        """Soft cumulative DVHs."""
        return DVHCurveLoss(terms, self.dose_plans.dose_scale_gy)


class nnUNetTrainerDoseMoment(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on MAE + w x moment loss."""

    dvh_weight = 0.05

    def build_dvh_loss(self, terms: Terms) -> MomentLoss:
        """Moments of each ROI."""
        return MomentLoss(terms, self.dose_plans.dose_scale_gy)


class nnUNetTrainerDoseSorted(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on MAE + w x value-based loss."""

    dvh_weight = 0.5

    def build_dvh_loss(self, terms: Terms) -> SortedDoseLoss:
        """Sorted doses of each ROI."""
        return SortedDoseLoss(terms, self.dose_plans.dose_scale_gy)
