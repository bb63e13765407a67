"""The nnU-Net trainers for dose prediction."""

from cdm_nnunet.trainers.baselines import (
    nnUNetTrainerDoseDVH,
    nnUNetTrainerDoseMAE,
    nnUNetTrainerDoseMoment,
    nnUNetTrainerDoseMSE,
    nnUNetTrainerDoseSorted,
    nnUNetTrainerDoseVanilla,
)
from cdm_nnunet.trainers.cdm import nnUNetTrainerCDM

__all__ = [
    "nnUNetTrainerCDM",
    "nnUNetTrainerDoseDVH",
    "nnUNetTrainerDoseMAE",
    "nnUNetTrainerDoseMSE",
    "nnUNetTrainerDoseMoment",
    "nnUNetTrainerDoseSorted",
    "nnUNetTrainerDoseVanilla",
]
