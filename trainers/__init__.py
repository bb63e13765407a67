"""The nnU-Net trainers for dose prediction.

``NAME_250epochs`` is the trainer ``NAME`` with another number of epochs, for each number, as in nnU-Net.
"""

import functools
import re

from cdm_nnunet.trainers.base import DoseTrainer
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


def __getattr__(name: str) -> type[DoseTrainer]:
    match = re.fullmatch(r"(\w+)_([1-9]\d*)epochs", name)
    if match is None or match[1] not in __all__:
        raise AttributeError(f"there is no trainer '{name}'")
    return _with_epochs(match[1], int(match[2]))


@functools.cache
def _with_epochs(name: str, n_epochs: int) -> type[DoseTrainer]:
    trainer: type[DoseTrainer] = globals()[name]
    content = {"n_epochs": n_epochs, "__module__": __name__, "__doc__": f"{name} with {n_epochs} epochs."}
    return type(f"{name}_{n_epochs}epochs", (trainer,), content)
