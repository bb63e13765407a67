"""The label manager of a data set without labels: one output channel, and no way to a segmentation."""

from __future__ import annotations

from typing import Any, NoReturn

from nnunetv2.utilities.label_handling.label_handling import LabelManager

from cdm_nnunet.errors import InputError


class DoseLabelManager(LabelManager):
    """Stands where nnU-Net asks for labels, and refuses to make a segmentation out of a dose."""

    @property
    def num_segmentation_heads(self) -> int:
        """Number of output channels: the dose."""
        return 1

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            "this model predicts a dose: it has no segmentation and no class probabilities. Predict with "
            "'cdm-nnunet predict', or with nnUNetv2_predict without --save_probabilities"
        )

    apply_inference_nonlin = _refuse
    convert_probabilities_to_segmentation = _refuse
    convert_logits_to_segmentation = _refuse
    revert_cropping_on_probabilities = _refuse
