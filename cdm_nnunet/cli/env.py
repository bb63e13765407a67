"""``cdm-nnunet env``: shell exports that make nnU-Net's own commands find data and trainers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import set_environment

SUMMARY = "print shell exports for nnU-Net's folders and trainers"
EXAMPLE = 'eval "$(cdm-nnunet env)" && nnUNetv2_train 501 3d_fullres 0 -tr nnUNetTrainerCDM'


def configure(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: set variables keep their values, others get a default below ./nnunet_data."""


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """The variables and their values."""
    variables = set_environment()
    for name, value in variables.items():
        if not value.isprintable():  # (text output is escaped, and would name another folder)
            raise InputError(f"{name} is {value!r}; choose a folder without control characters")
    return variables


def render(record: Mapping[str, Any]) -> str:
    """Exports for a POSIX shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in record.items())
