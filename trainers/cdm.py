"""The CDM trainer: MAE and clinical DVH metrics."""

from __future__ import annotations

from cdm_nnunet.losses.captured import CapturedCDMLoss
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.terms import Smoothing, Terms
from cdm_nnunet.trainers.base import DoseTrainer


class nnUNetTrainerCDM(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on MAE + w x CDM, from the first step on unless ``CDM_LOSS_START`` says otherwise."""

    dvh_weight = 0.5

    def build_dvh_loss(self, terms: Terms) -> CDMLoss | CapturedCDMLoss:
        """The CDM loss with the settings' options; with fixed shapes it is compiled if nnU-Net compiles."""
        loss = CDMLoss(
            terms,
            self.dose_plans.dose_scale_gy,
            Smoothing(self.settings.window_percent, self.settings.sigmoid_width_gy),
            v_form=self.settings.v_form,
            partial_rois=self.settings.partial_rois,
        )
        if self.settings.loss_shapes == "free":
            return loss
        return CapturedCDMLoss(loss, compiled=self._do_i_compile())
