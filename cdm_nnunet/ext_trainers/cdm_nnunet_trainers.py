"""The file that nnU-Net finds through ``nnUNet_extTrainer``: it re-exports the trainers, which live in the package.

nnU-Net forgets the modules of this folder after its search; classes defined here could not be pickled.
"""

from cdm_nnunet import trainers
from cdm_nnunet.trainers import (
    nnUNetTrainerCDM,
    nnUNetTrainerDoseDVH,
    nnUNetTrainerDoseMAE,
    nnUNetTrainerDoseMoment,
    nnUNetTrainerDoseMSE,
    nnUNetTrainerDoseSorted,
    nnUNetTrainerDoseVanilla,
)
from cdm_nnunet.trainers.base import DoseTrainer

__all__ = [
    "nnUNetTrainerCDM",
    "nnUNetTrainerDoseDVH",
    "nnUNetTrainerDoseMAE",
    "nnUNetTrainerDoseMSE",
    "nnUNetTrainerDoseMoment",
    "nnUNetTrainerDoseSorted",
    "nnUNetTrainerDoseVanilla",
]


def __getattr__(name: str) -> type[DoseTrainer]:
    """``NAME_250epochs`` and the like, which are made when they are asked for."""
    return trainers.__getattr__(name)
