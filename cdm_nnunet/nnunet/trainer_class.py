"""Trainers by name, as nnU-Net finds them."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
import warnings

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import OUR_TRAINERS, TRAINER_VARIABLE, find_our_trainers

_NOT_FOUND = "Could not find requested"  # nnU-Net's words


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Class of a trainer: nnU-Net's, ours, or from a folder in ``nnUNet_extTrainer``.

    Raises:
        InputError: If it is not found, or a searched file can't be loaded.
    """
    find_our_trainers()
    if ours := _ours(name):
        return ours
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # (it prints where it looks)
        warnings.simplefilter("ignore", FutureWarning)  # warning of timm, which one of nnU-Net's trainers imports
        for _ in range(2):  # (the first search may load lazy modules, too)
            _load_lazy_modules()
            try:
                found: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
            except Exception as error:  # noqa: BLE001  # any exception of any loaded file
                cause = error
            else:
                return found
    if isinstance(cause, RuntimeError) and str(cause).startswith(_NOT_FOUND):
        raise InputError(f"no trainer named '{name}' is installed") from cause
    frame = traceback.extract_tb(cause.__traceback__)[-1]
    raise InputError(
        f"the search for the trainer '{name}' ended in {type(cause).__name__}: {cause} ({frame.filename}, line "
        f"{frame.lineno})"
    ) from cause


def _ours(name: str) -> type[nnUNetTrainer] | None:
    """One of our trainers, without nnU-Net's search, which loads all its trainers; None if a user's may be meant."""
    if os.environ[TRAINER_VARIABLE] != OUR_TRAINERS or not name.startswith("nnUNetTrainer"):
        return None
    return getattr(importlib.import_module("cdm_nnunet.trainers"), name, None)  # (they are built on this package)


def _load_lazy_modules() -> None:
    """Read the file attribute of each module, as nnU-Net's search does: some then load other modules.

    The search iterates over the loaded modules, and fails if their number changes.
    """
    before = 0
    while before < len(sys.modules):
        before = len(sys.modules)
        for module in list(sys.modules.values()):
            with contextlib.suppress(Exception):  # (third-party modules may fail in any way)
                getattr(module, "__file__", None) or getattr(module, "__path__", None)
