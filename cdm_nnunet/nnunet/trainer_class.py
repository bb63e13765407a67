"""Trainers by name, as nnU-Net finds them."""

from __future__ import annotations

import contextlib
import io
import warnings

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import find_our_trainers


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """The class of a trainer: one of nnU-Net's, of ours, or of a folder that ``nnUNet_extTrainer`` names.

    Raises:
        InputError: If there is none.
    """
    find_our_trainers()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # (it tells where it looks)
        warnings.simplefilter("ignore", FutureWarning)  # of timm, which one of nnU-Net's trainers imports
        try:
            found: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
        except RuntimeError as error:
            raise InputError(f"no trainer named '{name}' is installed") from error
    return found
