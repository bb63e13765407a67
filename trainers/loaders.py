"""Loaders of training and validation patches, in processes of their own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from cdm_nnunet.nnunet.loader import DoseDataLoader, refuse_foreign_case
from cdm_nnunet.nnunet.plans import DosePlans


@dataclass(frozen=True)
class Patches:
    """How patches of a data set are drawn.

    Attributes:
        plans: The plans that the cases were preprocessed with.
        digest: :meth:`DosePlans.digest` of the configuration.
        batch_size: Samples in a batch.
        patch_size: Size of a patch (z, y, x).
        label_manager: Of the plans.
    """

    plans: DosePlans
    digest: str
    batch_size: int
    patch_size: Sequence[int]
    label_manager: Any

    def refuse_foreign_cases(self, dataset: Any) -> None:
        """Check all preprocessed cases of a data set.

        Raises:
            InputError: If one is not ours or stale.
        """
        for case in dataset.identifiers:
            data, _, _, properties = dataset.load_case(case)
            refuse_foreign_case(case, properties, self.digest, data.shape[0], self.plans)

    def of(self, dataset: Any, target_share: float, *, augment: bool) -> DoseDataLoader:
        """A loader of a data set; arguments as of :class:`DoseDataLoader`."""
        return DoseDataLoader(
            dataset,
            self.plans,
            self.digest,
            self.batch_size,
            self.patch_size,
            self.label_manager,
            target_share,
            augment,
        )


def running(source: DoseDataLoader, n_processes: int, seeds: Sequence[int] | None, *, pinned: bool) -> Any:
    """A loader in processes of its own.

    Args:
        source: The loader.
        n_processes: How many; 0 for this process.
        seeds: One for each process; None for none.
        pinned: Whether batches lie in memory from which a GPU copies fast.
    """
    if n_processes == 0:
        return SingleThreadedAugmenter(source, None)
    return NonDetMultiThreadedAugmenter(
        source, None, n_processes, max(3, n_processes // 2), seeds, pinned, wait_time=0.002
    )


def seed_generators(seed: int) -> None:
    """Seed all generators that nnU-Net, torch and we draw from in this process."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the generator that nnU-Net draws from
    torch.manual_seed(seed)
