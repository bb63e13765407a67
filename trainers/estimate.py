"""Estimate the duration of a training from a few real batches and steps on this machine; nothing is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args

from cdm_nnunet.trainers.run import Training

_REPEATS = 20
_LIMIT_S = 30.0  # for each measured quantity
_WARM_UP = 3
_RESULTS = "nnUNet_results"


def estimate(training: Training) -> dict[str, Any]:
    """Measure the loader, the step, and both together as in a training.

    Every loss is on, as at the end of a training. The weights change, but nothing is written into the results.

    Args:
        training: The training.

    Returns:
        ``patches_per_second`` (the loader alone), ``step_s`` (a step whose batch is ready),
        ``waiting_share`` (share of the time that the device waits for the loader in training), ``epoch_s``, ``epochs``,
        ``days`` (training without the final validation), ``loader_processes``, ``batch_size``, ``patch_size`` and
        ``device``.

    Raises:
        InputError: As :meth:`Training.prepare`.
    """
    device = training.prepare()
    with elsewhere():
        number = int(training.fold) if training.fold.isdigit() else training.fold
        trainer = get_trainer_from_args(
            str(training.dataset_id), training.configuration, number, training.trainer, training.plans, device=device
        )
        trainer.initialize()
        trainer.set_deep_supervision_enabled(True)
        trainer.current_epoch = trainer.num_epochs - 1
        training_data, validation_data = trainer.get_dataloaders()
        try:
            return _measure(trainer, training_data, validation_data)
        finally:
            for loader in (training_data, validation_data):
                if hasattr(loader, "_finish"):
                    loader._finish()


def _measure(trainer: Any, training: Any, validation: Any) -> dict[str, Any]:
    trainer.network.train()
    n_processes = getattr(training, "num_processes", 0)
    waited_s = 0.0

    def take() -> Any:
        nonlocal waited_s
        start = perf_counter()
        batch = next(training)
        waited_s += perf_counter() - start
        return batch

    def take_what_is_ready() -> Any:
        """Discard batches that were prepared in advance: they would make the loader look faster than it is."""
        return [next(training) for _ in range(max(3, n_processes // 2) + n_processes)][-1]

    batch = take_what_is_ready()
    batch_s, _ = _seconds(take)
    for _ in range(_WARM_UP):
        trainer.train_step(batch)
    step_s, _ = _seconds(lambda: trainer.train_step(batch))
    take_what_is_ready()
    waited_s = 0.0
    together_s, n_steps = _seconds(lambda: trainer.train_step(take()))
    waiting_share = waited_s / (n_steps * together_s)
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(next(validation))
        validation_s, _ = _seconds(lambda: trainer.validation_step(next(validation)))
    epoch_s = trainer.num_iterations_per_epoch * together_s + trainer.num_val_iterations_per_epoch * validation_s
    return {
        "device": trainer.device.type,
        "loader_processes": n_processes,
        "batch_size": trainer.batch_size,
        "patch_size": [int(n) for n in trainer.configuration_manager.patch_size],
        "patches_per_second": trainer.batch_size / batch_s,
        "step_s": step_s,
        "waiting_share": waiting_share,
        "epoch_s": epoch_s,
        "epochs": trainer.num_epochs,
        "days": trainer.num_epochs * epoch_s / 86400,
    }


def _seconds(action: Callable[[], Any]) -> tuple[float, int]:
    """Mean time of an action, and its number of repetitions. A step ends when its loss has arrived from the device."""
    start = perf_counter()
    n = 0
    while n < _REPEATS and perf_counter() - start < _LIMIT_S:
        action()
        n += 1
    return (perf_counter() - start) / n, n


@contextmanager
def elsewhere() -> Iterator[None]:
    """Make a trainer write its log to a temporary folder."""
    before = os.environ[_RESULTS]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_RESULTS] = folder
        try:
            yield
        finally:
            os.environ[_RESULTS] = before
