"""The file that nnU-Net finds through ``nnUNet_extTrainer``: it re-exports the trainers, which live in the package.

nnU-Net forgets the modules of this folder after its search; classes defined here could not be pickled.
"""

from cdm_nnunet.trainers import (
    nnUNetTrainerCDM,
    nnUNetTrainerDoseDVH,
    nnUNetTrainerDoseMAE,
    nnUNetTrainerDoseMoment,
    nnUNetTrainerDoseMSE,
    nnUNetTrainerDoseSorted,
    nnUNetTrainerDoseVanilla,
)

__all__ = [
    "nnUNetTrainerCDM",
    "nnUNetTrainerDoseDVH",
    "nnUNetTrainerDoseMAE",
    "nnUNetTrainerDoseMSE",
    "nnUNetTrainerDoseMoment",
    "nnUNetTrainerDoseSorted",
    "nnUNetTrainerDoseVanilla",
]
