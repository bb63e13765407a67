"""The nnU-Net trainers for dose prediction."""

from cdm_nnunet.trainers.cdm import nnUNetTrainerCDM
from cdm_nnunet.trainers.mae import nnUNetTrainerDoseMAE

__all__ = ["nnUNetTrainerCDM", "nnUNetTrainerDoseMAE"]
