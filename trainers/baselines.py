"""Baseline trainers, on the same plans as the CDM trainer; formulas and sources: ``docs/losses.md``."""

from __future__ import annotations

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from cdm_nnunet.losses.dose import region_mse
from cdm_nnunet.losses.rivals import DVHCurveLoss, MomentLoss, SortedDoseLoss
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.trainers.base import DoseTrainer
from cdm_nnunet.trainers.cdm import nnUNetTrainerCDM


class nnUNetTrainerDoseMAE(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on the mean absolute error of the dose only."""


class _PlainNetwork(DoseTrainer):
    """A U-Net whose output is the dose, inside and outside targets."""

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The plans' network without anchor and details; training and prediction both call this."""
        network: nn.Module = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            {**configuration_manager.network_arch_init_kwargs, "fall_off": None, "details": False},
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        return network


class nnUNetTrainerDoseVanilla(_PlainNetwork, nnUNetTrainerDoseMAE):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Vanilla nnU-Net as a regressor: the plain network, trained on the mean absolute error."""


class nnUNetTrainerCDMVanilla(_PlainNetwork, nnUNetTrainerCDM):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """The plain network, trained on MAE + w x CDM: the loss alone, without the anchor."""


class nnUNetTrainerDoseMSE(DoseTrainer):  # noqa: N801  # nnU-Net finds trainers by names of this form
    """Trains on the mean squared error of the dose only."""

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
