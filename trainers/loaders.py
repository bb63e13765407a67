"""Loaders of training and validation patches, in processes of their own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from cdm_nnunet.nnunet.loader import DoseDataLoader, refuse_foreign_case

if TYPE_CHECKING:
    from cdm_nnunet.trainers.base import DoseTrainer


def patch_loaders(trainer: DoseTrainer) -> tuple[Any, Any]:
    """Start the loaders of a trainer's training and validation patches.

    Raises:
        InputError: If preprocessed data are not ours or stale.
    """
    training, validation = trainer.get_tr_and_val_datasets()
    for dataset in (training, validation):
        for case in dataset.identifiers:
            data, _, _, properties = dataset.load_case(case)
            refuse_foreign_case(case, properties, trainer.digest, data.shape[0], trainer.dose_plans)
    n = get_allowed_n_proc_DA()
    if drawn_here := _seeds(trainer, 1):
        seed_generators(drawn_here[0])
    loaders = (
        _loader(trainer, training, trainer.oversample_foreground_percent, True, n),
        _loader(trainer, validation, 1.0, False, (n + 1) // 2),
    )
    for one in loaders:
        next(one)  # starts the worker processes before the device is busy
    return loaders


def _loader(trainer: DoseTrainer, dataset: Any, target_share: float, augment: bool, n_processes: int) -> Any:
    source = DoseDataLoader(
        dataset,
        trainer.dose_plans,
        trainer.digest,
        trainer.batch_size,
        trainer.configuration_manager.patch_size,
        trainer.label_manager,
        target_share,
        augment,
    )
    if n_processes == 0:
        return SingleThreadedAugmenter(source, None)
    seeds, pinned = _seeds(trainer, n_processes), trainer.device.type == "cuda"
    return NonDetMultiThreadedAugmenter(
        source, None, n_processes, max(3, n_processes // 2), seeds, pinned, wait_time=0.002
    )


def _seeds(trainer: DoseTrainer, n: int) -> list[int] | None:
    return trainer.settings.seeds(n, trainer.current_epoch, trainer.local_rank)


def seed_generators(seed: int) -> None:
    """Seed all generators that nnU-Net, torch and we draw from in this process."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the generator that nnU-Net draws from
    torch.manual_seed(seed)
