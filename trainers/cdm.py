"""The trainer of the method: MAE and clinical DVH metrics."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.metrics import Terms
from cdm_nnunet.trainers.base import DoseTrainer


class nnUNetTrainerCDM(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on MAE + w x CDM; w is zero at first and then rises, see :class:`TrainingSettings`."""

    def initialize(self) -> None:
        """Build network, optimizer and losses."""
        super().initialize()
        terms = Terms.of(self.dose_plans.template, self.dose_plans.catalogue, "loss")
        self.cdm_loss = CDMLoss(terms, self.dose_plans.dose_scale_gy).to(self.device)

    def additional_loss(
        self, dose_gy: Tensor, reference_gy: Tensor, words: Tensor, batch: dict[str, Any]
    ) -> Tensor | None:
        """The weighted CDM loss, or None while its weight is zero."""
        weight = self.settings.cdm_weight(self.current_epoch)
        if weight == 0:
            return None
        loss: Tensor = self.cdm_loss(
            dose_gy, reference_gy, words, batch["prescription_gy"], batch["voxel_volume_cc"], batch["roi_voxels"]
        )
        return weight * loss
