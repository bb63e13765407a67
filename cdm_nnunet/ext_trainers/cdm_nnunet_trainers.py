"""The file that nnU-Net finds through ``nnUNet_extTrainer``: it re-exports the trainers, which live in the package.

nnU-Net forgets the modules of this folder after its search; classes defined here could not be pickled.
"""

from cdm_nnunet.trainers import nnUNetTrainerCDM, nnUNetTrainerDoseMAE

__all__ = ["nnUNetTrainerCDM", "nnUNetTrainerDoseMAE"]
