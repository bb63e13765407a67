"""The nnU-Net trainers for dose prediction: every class ``nnUNetTrainer...`` of a module in this package.

``NAME_250epochs`` is the trainer ``NAME`` with that number of epochs, as in nnU-Net. The modules import torch
and nnU-Net: they are loaded when a trainer is asked for.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdm_nnunet.trainers.base import DoseTrainer


def find_trainers() -> dict[str, type[DoseTrainer]]:
    """All trainers by name; a new one is one new module."""
    from cdm_nnunet.trainers.base import DoseTrainer

    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {
        trainer.__name__: trainer
        for trainer in classes
        if issubclass(trainer, DoseTrainer) and trainer.__name__.startswith("nnUNetTrainer")
    }


def __getattr__(name: str) -> type[DoseTrainer]:
    if not name.startswith("nnUNetTrainer"):
        raise AttributeError(f"there is no trainer '{name}'")
    known = find_trainers()
    if name in known:
        return known[name]
    match = re.fullmatch(r"(\w+)_([1-9]\d*)epochs", name)
    if match is None or match[1] not in known:
        raise AttributeError(f"there is no trainer '{name}'")
    return _with_epochs(match[1], int(match[2]))


@functools.cache
def _with_epochs(name: str, n_epochs: int) -> type[DoseTrainer]:
    content = {"n_epochs": n_epochs, "__module__": __name__, "__doc__": f"{name} with {n_epochs} epochs."}
    return type(f"{name}_{n_epochs}epochs", (find_trainers()[name],), content)
