"""Label manager of dose data sets: one output channel; segmentation helpers raise."""

from __future__ import annotations

from typing import Any, NoReturn

from nnunetv2.utilities.label_handling.label_handling import LabelManager

from cdm_nnunet.errors import InputError


class DoseLabelManager(LabelManager):
    """nnU-Net's label manager for doses; its segmentation helpers raise.

    Args:
        label_dict: As in nnU-Net.
        regions_class_order: As in nnU-Net.
        force_use_labels: Not used: there are none.
        inference_nonlin: Not used: a dose has no probabilities.
    """

    def __init__(
        self,
        label_dict: dict[str, Any],
        regions_class_order: list[int] | None,
        force_use_labels: bool = True,
        inference_nonlin: Any = None,
    ):
        super().__init__(label_dict, regions_class_order, True, self._refuse)

    @property
    def has_regions(self) -> bool:
        """Used by segmentation trainers for their loss, and by nnU-Net's evaluation.

        Raises:
            InputError: Always.
        """
        self._refuse()

    @property
    def num_segmentation_heads(self) -> int:
        """Number of output channels: the dose."""
        return 1

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            "these plans are for dose, which has no labels, no segmentation and no class probabilities. Train with "
            "'cdm-nnunet train'; predict with 'cdm-nnunet predict', or with nnUNetv2_predict without "
            "--save_probabilities; evaluate with 'cdm-nnunet evaluate'"
        )

    apply_inference_nonlin = _refuse
    convert_probabilities_to_segmentation = _refuse
    convert_logits_to_segmentation = _refuse
    revert_cropping_on_probabilities = _refuse
