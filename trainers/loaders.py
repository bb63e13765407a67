"""Loaders of training and validation patches, in separate processes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from cdm_nnunet.nnunet.loader import DoseDataLoader


def running(source: DoseDataLoader, n_processes: int, seeds: Sequence[int] | None, *, pinned: bool) -> Any:
    """A loader in separate processes.

    Args:
        source: The loader.
        n_processes: Number of processes; 0 for this process.
        seeds: One for each process; None for none.
        pinned: Whether batches are in pinned memory, from which a GPU copies fast.
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
