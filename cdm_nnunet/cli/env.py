"""``cdm-nnunet env``: shell exports that make nnU-Net's own commands find data and trainers."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.folders import set_default_folders

SUMMARY = "print shell exports for nnU-Net's folders and trainers"
EXAMPLE = 'eval "$(cdm-nnunet env)" && nnUNetv2_train 501 3d_fullres 0 -tr nnUNetTrainerCDM'

_TRAINER_VARIABLE = "nnUNet_extTrainer"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments: variables that are set keep their value, others get a default below ./nnunet_data."""


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The variables and their values."""
    return set_environment()


def render(record: Mapping[str, Any]) -> str:
    """Exports for a POSIX shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in record.items())


def set_environment() -> dict[str, str]:
    """Give the three folders their defaults where unset, and add our trainers to those that nnU-Net looks for.

    Returns:
        The four variables, as they now stand in the environment.
    """
    folders = set_default_folders()
    ours = str(Path(__file__).parents[1] / "ext_trainers")
    listed = [path for path in os.environ.get(_TRAINER_VARIABLE, "").split(os.pathsep) if path]
    if ours not in listed:
        listed.append(ours)
    os.environ[_TRAINER_VARIABLE] = os.pathsep.join(listed)
    return {**folders, _TRAINER_VARIABLE: os.environ[_TRAINER_VARIABLE]}
