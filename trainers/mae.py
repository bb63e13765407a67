"""The baseline: vanilla nnU-Net as a regressor of dose."""

from __future__ import annotations

from cdm_nnunet.trainers.base import DoseTrainer


class nnUNetTrainerDoseMAE(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on the mean absolute error of the dose alone."""
