"""Start a training from the weights of another dose model, last layers included.

nnU-Net's own function leaves out the last layers, because another segmentation task has other classes. A dose is
a dose: fine-tuning with another loss starts from the whole network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import read_checkpoint
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import unlike_weights
from cdm_nnunet.nnunet.plans import DosePlans

_MEND = "plan this data set by the plans of that model ('cdm-nnunet plan --plans-from', with -p NAME)"
_MARK = "asks_the_trainer"


def load_weights(network: torch.nn.Module, file: Path, plans: DosePlans) -> None:
    """Copy all weights of a checkpoint into a network.

    Args:
        network: As a trainer holds it: may be wrapped for DDP or compiled.
        file: A checkpoint of a dose trainer.
        plans: Those of the new training.

    Raises:
        InputError: If the file is no checkpoint of a dose model, or its catalogue, dose scale or network is another.
    """
    checkpoint = read_checkpoint(file)
    weights, other = checkpoint.weights, checkpoint.plans
    if "cdm" not in other:
        raise InputError(f"{file} (-pretrained_weights) is of a model that predicts no dose")
    DosePlans(other)
    if other["cdm"]["catalogue"] != plans.plans["cdm"]["catalogue"]:
        raise InputError(
            f"{file} (-pretrained_weights) is of a model with another ROI catalogue: its weights do not fit"
        )
    theirs_gy, ours_gy = float(other["cdm"]["dose_scale_gy"]), plans.dose_scale_gy
    if theirs_gy != ours_gy:
        raise InputError(
            f"{file} (-pretrained_weights) is of a model with another dose scale ({theirs_gy} Gy, here {ours_gy} Gy): "
            f"its weights do not fit; {_MEND}"
        )
    inner = bare(network)
    if unlike := unlike_weights(inner, weights):
        raise InputError(f"{file} (-pretrained_weights) is of another network: {unlike}; {_MEND}")
    inner.load_state_dict(weights)


def let_trainers_load_weights() -> None:
    """Make nnU-Net's command leave ``-pretrained_weights`` to a trainer that can load them; twice changes nothing."""
    if not getattr(run_training.maybe_load_checkpoint, _MARK, False):
        run_training.maybe_load_checkpoint = _asking_the_trainer(run_training.maybe_load_checkpoint)


def _asking_the_trainer(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def maybe_load_checkpoint(
        nnunet_trainer: Any, continue_training: bool, validation_only: bool, pretrained_weights_file: str | None = None
    ) -> None:
        if not hasattr(nnunet_trainer, "resume") or validation_only:
            stock(nnunet_trainer, continue_training, validation_only, pretrained_weights_file)
        elif continue_training:
            nnunet_trainer.resume()
        elif pretrained_weights_file is not None:
            if not nnunet_trainer.was_initialized:
                nnunet_trainer.initialize()
            nnunet_trainer.load_pretrained_weights(pretrained_weights_file)

    setattr(maybe_load_checkpoint, _MARK, True)
    return maybe_load_checkpoint
