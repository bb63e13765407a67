"""Start a training from the weights of another dose model, including the last layers.

nnU-Net's own function omits the last layers, because another segmentation task has other classes. For dose, the output
is the same, so fine-tuning starts from the whole network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training

from cdm_nnunet.errors import InputError
from cdm_nnunet.models.shipped import find_model
from cdm_nnunet.nnunet.checkpoint import Checkpoint, read_checkpoint
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import unlike_weights
from cdm_nnunet.nnunet.packaged import read_package
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.roi_inputs import MatchedRois, with_matched_rois

_MEND = "plan this data set by the plans of that model ('cdm-nnunet plan --plans-from MODEL -p NAME')"
_MARK = "asks_the_trainer"


def find_pretrained(name: str | Path) -> Path:
    """The file of a checkpoint, or the folder or ZIP file of a model package.

    Args:
        name: A path, or the name of a shipped model.

    Raises:
        InputError: If there is no such file or model.
    """
    path = Path(name)
    if path.is_file() and path.suffix != ".zip":
        return path
    if path.suffix == ".pth":
        raise InputError(f"no file {path} (-pretrained_weights)")
    return find_model(name)


def load_weights(network: torch.nn.Module, source: str | Path, plans: DosePlans) -> list[str]:
    """Copy all weights of another model into a network.

    Args:
        network: Network of a trainer; may be wrapped for DDP or compiled.
        source: As :func:`find_pretrained`; a package of one fold.
        plans: Plans of the new training. If its catalogue differs, the inputs are matched by ROI name.

    Returns:
        Lines for the log.

    Raises:
        InputError: If it is not a dose model, has several folds, or has another dose scale or network.
    """
    file = find_pretrained(source)
    checkpoint = _checkpoint(file)
    weights, other = checkpoint.weights, checkpoint.plans
    if "cdm" not in other:
        raise InputError(f"{file} (-pretrained_weights) is of a model that predicts no dose")
    theirs, lines = DosePlans(other), [f"weights of {file}"]
    theirs_gy, ours_gy = theirs.dose_scale_gy, plans.dose_scale_gy
    if theirs_gy != ours_gy:
        raise InputError(
            f"{file} (-pretrained_weights) is of a model with another dose scale ({theirs_gy} Gy, here {ours_gy} Gy): "
            f"its weights do not fit; {_MEND}"
        )
    inner = bare(network)
    if theirs.catalogue != plans.catalogue:
        weights = with_matched_rois(weights, inner, theirs.catalogue, plans.catalogue)
        lines.append(MatchedRois.of(theirs.catalogue, plans.catalogue).text())
    if unlike := unlike_weights(inner, weights):
        raise InputError(f"{file} (-pretrained_weights) is of another network: {unlike}; {_MEND}")
    inner.load_state_dict(weights)
    return lines


def _checkpoint(file: Path) -> Checkpoint:
    if file.is_file() and file.suffix != ".zip":
        return read_checkpoint(file)
    folds = read_package(file).checkpoints
    if len(folds) != 1:
        raise InputError(
            f"{file} (-pretrained_weights) has {len(folds)} folds, and a training starts from one: export one of them "
            "('cdm-nnunet model export -f 0')"
        )
    return folds[0]


def let_trainers_load_weights() -> None:
    """Make nnU-Net's command leave ``-pretrained_weights`` to a trainer that can load them; idempotent."""
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
