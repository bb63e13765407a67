"""Loaders of training and validation patches, in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    seed = trainer.settings.seed
    seeds = None if seed < 0 else [seed + i for i in range(n_processes)]
    return NonDetMultiThreadedAugmenter(
        source, None, n_processes, max(3, n_processes // 2), seeds, trainer.device.type == "cuda", wait_time=0.002
    )
