"""A training from its data to its last epoch, by nnU-Net's own ``run_training``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training as stock
from nnunetv2.utilities.file_path_utilities import get_output_folder

from cdm_nnunet import trainers
from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, configuration_in, find_dataset, folder
from cdm_nnunet.nnunet.pretrained import find_pretrained
from cdm_nnunet.nnunet.trainer_class import trainer_class
from cdm_nnunet.parallel import usable_cores
from cdm_nnunet.trainers.base import DoseTrainer
from cdm_nnunet.trainers.settings import CHANGE_SETTINGS, RESTART
from cdm_nnunet.trainers.together import refuse_torchrun, several_processes


@dataclass(frozen=True)
class Training:
    """Trainer, data and device of a training.

    Attributes:
        dataset_id: Number of the data set.
        configuration: Such as ``3d_fullres``.
        fold: Its number, or ``all``.
        trainer: Name of the trainer.
        plans: Name of the plans.
        device: ``cuda`` or ``cpu``.
        n_gpus: Number of GPUs.
    """

    dataset_id: int
    configuration: str
    fold: str
    trainer: str = "nnUNetTrainerCDM"
    plans: str = DEFAULT_PLANS
    device: str = "cuda"
    n_gpus: int = 1

    def __post_init__(self) -> None:
        if self.fold != "all" and not self.fold.isdigit():
            raise InputError(f"the fold is a number or 'all', not '{self.fold}'")
        if self.n_gpus < 1:
            raise InputError(f"-num_gpus must be at least 1, not {self.n_gpus}")
        if self.n_gpus > 1 and self.device != "cuda":
            raise InputError("-num_gpus: only GPUs can train together; leave it out with -device cpu")

    def prepare(self) -> torch.device:
        """Check data, device and trainer, and set the number of threads.

        Raises:
            InputError: If the data set was not planned, the device is not available, or the trainer is not for dose.
        """
        refuse_torchrun()
        self._read(f"{self.plans}.json")
        self._read("dataset.json")
        folder("nnUNet_results")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("no CUDA device is available; train with -device cpu (and -c 3d_coarse plans) or on a GPU")
        if self.n_gpus > max(torch.cuda.device_count(), 1):
            raise InputError(f"-num_gpus {self.n_gpus}: this machine has {torch.cuda.device_count()}")
        torch.set_num_threads(usable_cores() if self.device == "cpu" else 1)
        _refuse_other_trainers(self.trainer)
        return torch.device(self.device)

    def as_planned(self) -> Training:
        """The same training, with the plans' name of its configuration."""
        there = self._read(f"{self.plans}.json").get("configurations", {})
        return replace(self, configuration=configuration_in(there, self.configuration))

    def _read(self, name: str) -> dict[str, Any]:
        named = "" if self.plans == DEFAULT_PLANS else f" -p {self.plans}"
        mend = f"run: cdm-nnunet plan -d {self.dataset_id}{named} -c {self.configuration}"
        return read_json(find_dataset(self.dataset_id, "nnUNet_preprocessed") / name, dict[str, Any], mend)


@dataclass(frozen=True)
class Start:
    """Start of a training; by default at its first epoch, in an empty folder.

    Attributes:
        pretrained: Another model whose weights to start from: a checkpoint, a model package, or a shipped one's name.
        continues: Continue from the newest intact checkpoint.
        changes_settings: Continue with settings that differ from those at the start.
        restarts: Start although a training exists; its checkpoints are moved to another folder.
        validates: Only run the final validation of a finished training.
        with_best: Validate the best checkpoint instead of the last one.
    """

    pretrained: str | Path | None = None
    continues: bool = False
    changes_settings: bool = False
    restarts: bool = False
    validates: bool = False
    with_best: bool = False


def train(training: Training, start: Start) -> Path:
    """Train, or continue, or validate.

    Args:
        training: The training.
        start: Start of the training.

    Returns:
        The model's folder.

    Raises:
        InputError: As :meth:`Training.prepare`, or if the weights or checkpoint to start from do not exist.
    """
    pretrained = None if start.pretrained is None else str(find_pretrained(start.pretrained))
    device = training.prepare()
    training = training.as_planned()
    _quiet_advice()
    for variable, asked in ((RESTART, start.restarts), (CHANGE_SETTINGS, start.changes_settings)):
        if asked:  # (by the environment, because the processes of several GPUs inherit no arguments)
            os.environ[variable] = "1"
    model = Path(
        get_output_folder(
            training.dataset_id, training.trainer, training.plans, training.configuration, fold=training.fold
        )
    )
    print(  # noqa: T201  # (to stderr: the command line sends it there)
        f"training {training.trainer} on {model.parents[1].name}, {training.configuration}, fold {training.fold}, "
        f"into {model}"
    )
    if start.validates and not (model / "checkpoint_final.pth").is_file():
        raise InputError(f"--val validates a finished training, and {model} has no checkpoint_final.pth")
    with several_processes() if training.n_gpus > 1 else nullcontext():
        stock.run_training(
            str(training.dataset_id),
            training.configuration,
            training.fold,
            training.trainer,
            training.plans,
            pretrained,
            training.n_gpus,
            continue_training=start.continues,
            only_run_validation=start.validates,
            val_with_best=start.with_best,
            device=device,
        )
    return model


def _quiet_advice() -> None:
    """Suppress nnU-Net's advice to use other plans, which are for segmentation."""

    def quiet(*words: object, **options: Any) -> None:
        if "old nnU-Net default plans" not in " ".join(map(str, words)):
            print(*words, **options)  # noqa: T201  # it replaces nnU-Net's

    stock.print = quiet  # (found before the built-in print)


def _refuse_other_trainers(name: str) -> None:
    known = ", ".join(sorted(trainers.find_trainers()))
    try:
        trainer = trainer_class(name)
    except InputError as error:
        raise InputError(f"no trainer named '{name}'; there are {known}") from error
    if not issubclass(trainer, DoseTrainer):
        raise InputError(f"trainer '{name}' is for segmentation; for dose there are {known}")
