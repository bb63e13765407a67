"""A trainer that logs its epochs and keeps the best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import torch

from cdm_nnunet.nnunet.checkpoint import BEST, LATEST
from cdm_nnunet.nnunet.logger import DoseLogger, loader_hint
from cdm_nnunet.trainers.progress import STEPS_FOR_FIRST_ESTIMATE, first_estimate_text, losses_text, remaining_text
from cdm_nnunet.trainers.resumable import ResumableTrainer
from cdm_nnunet.trainers.run_facts import dataset_digest, facts_text, machine_facts, software_facts
from cdm_nnunet.trainers.together import from_all, n_processes
from cdm_nnunet.trainers.tracking import Run, opened_later, trackers_for
from cdm_nnunet.trainers.validation import PatchErrors


class LoggedTrainer(ResumableTrainer):
    """Pools the outputs of steps, logs them in Gy and percent, and saves the checkpoint of the lowest score."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  # nnU-Net reads this signature
    ):
        with opened_later():
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.logger.local_logger = DoseLogger()
        self.save_every = 10
        self._loader_wait_s = 0.0
        self._step_ended_at: float | None = None
        self._first_steps_s: list[float] | None = []
        self._step_began_at = 0.0

    def on_train_start(self) -> None:
        """Log what runs where, and start tracking the curves."""
        super().on_train_start()
        if self.local_rank == 0:
            run = self._run()
            self.print_to_log_file(facts_text(run.facts), add_timestamp=False)
            self.logger.loggers = trackers_for(run, self.print_to_log_file)

    def _run(self) -> Run:
        dataset = self.plans_manager.dataset_name
        training = {
            "dataset": dataset,
            "configuration": self.configuration_name,
            "plans": self.plans_manager.plans_name,
            "trainer": self.__class__.__name__,
            "fold": self.fold,
            "processes": n_processes(),
            "dataset_sha256": dataset_digest(Path(self.preprocessed_dataset_folder_base)),
        }
        return Run(
            folder=Path(self.output_folder),
            name=f"{self.__class__.__name__} {self.configuration_name} fold {self.fold}",
            group=dataset,
            first_epoch=self.current_epoch,
            facts={
                "training": training,
                "settings": self.settings.to_json(),
                "software": software_facts(),
                "machine": machine_facts(self.device),
            },
        )

    def run_training(self) -> None:
        """As :meth:`ResumableTrainer.run_training`; trackers are always closed."""
        try:
            super().run_training()
        finally:
            for tracker in self.logger.loggers:
                tracker.close(is_done=self.current_epoch >= self.num_epochs)
            self.logger.loggers = []

    def _begin_step(self) -> None:
        """Stop here after SIGTERM, and measure the wait for the batch."""
        self._stop_if_asked()
        if self._step_ended_at is not None:
            self._loader_wait_s += perf_counter() - self._step_ended_at

    def _end_step(self) -> None:
        self._step_ended_at = perf_counter()
        self._tell_estimate()

    def _tell_estimate(self) -> None:
        """Log the expected duration after the first steps of this run."""
        if self._first_steps_s is None:
            return
        self._first_steps_s.append(perf_counter() - self._step_began_at)
        self._step_began_at = perf_counter()
        if len(self._first_steps_s) == STEPS_FOR_FIRST_ESTIMATE:
            left = self.num_epochs - self.current_epoch
            self.print_to_log_file(first_estimate_text(self._first_steps_s, self.settings, left))
            self._first_steps_s = None

    def on_train_epoch_start(self) -> None:
        """Start the clock that separates waiting for the loader from computing."""
        super().on_train_epoch_start()
        self._loader_wait_s, self._step_ended_at = 0.0, perf_counter()
        self._step_began_at = perf_counter()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the loss and its parts, of all processes, and the wait."""
        outputs = from_all(train_outputs)
        for key, part in (
            ("train_losses", "loss"),
            ("train_voxel_error", "voxel_error"),
            ("train_dvh_loss", "dvh_loss"),
        ):
            self.logger.log(key, mean_of_samples(outputs, part), self.current_epoch)
        self._step_ended_at = None
        self.logger.log("loader_wait_s", self._loader_wait_s, self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Pool the validation batches of all processes and log them."""
        val_outputs = from_all(val_outputs)
        errors = PatchErrors.pooled([output["errors"] for output in val_outputs])
        earlier = self.logger.get_value("ema_score", step=None)[: self.current_epoch]
        ema = 0.9 * earlier[-1] + 0.1 * errors.score if earlier else errors.score
        logged = {
            "val_losses": mean_of_samples(val_outputs, "loss"),
            "val_cdm": mean_of_samples(val_outputs, "cdm"),
            "val_mae_gy": errors.mae_gy,
            "val_ptv_error": errors.ptv,
            "val_oar_error": errors.oar,
            "val_score": errors.score,
            "ema_score": ema,
        }
        for key, value in logged.items():
            self.logger.log(key, value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Write the log, the picture and the checkpoints; the best has the lowest score."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)

        def last(key: str) -> float:
            return float(self.logger.get_value(key, step=-1))

        seconds = last("epoch_end_timestamps") - last("epoch_start_timestamps")
        keys = ("train_losses", "train_voxel_error", "train_dvh_loss", "val_losses")
        self.print_to_log_file(losses_text({key: last(key) for key in keys}))
        self.print_to_log_file(
            f"validation patches: dose MAE {last('val_mae_gy'):.3f} Gy; metric errors (Gy or % of volume): "
            f"PTV {last('val_ptv_error'):.3f}, OAR {last('val_oar_error'):.3f}; score {last('val_score'):.3f}"
        )
        waiting_share = last("loader_wait_s") / max(seconds, 1e-9)
        self.print_to_log_file(
            f"epoch: {seconds:.1f} s, of which {last('loader_wait_s'):.1f} s waiting for the data loader "
            f"({100 * waiting_share:.0f} %)"
        )
        starts, ends = (self.logger.get_value(f"epoch_{end}_timestamps", step=None) for end in ("start", "end"))
        self.print_to_log_file(remaining_text(starts, ends, self.num_epochs))
        if hint := loader_hint(waiting_share, self.device.type):
            self.print_to_log_file(hint)
        if (self.current_epoch + 1) % self.save_every == 0 and self.current_epoch != self.num_epochs - 1:
            self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        score = last("ema_score")
        if self._best_ema is None or score < self._best_ema:
            self._best_ema = score
            self.print_to_log_file(f"new best score (moving average): {score:.3f}")
            self.save_checkpoint(str(Path(self.output_folder) / BEST))
        if self.local_rank == 0:
            self.logger.plot_progress_png(self.output_folder)
        self.current_epoch += 1


def mean_of_samples(outputs: Sequence[Mapping[str, Any]], key: str) -> float:
    """Mean over the outputs of steps, in which each sample of their batches counts equally.

    Args:
        outputs: Outputs of the steps, each with its number of ``samples``.
        key: Key of the value to average.

    Example:
        >>> mean_of_samples([{"loss": 1.0, "samples": 2}, {"loss": 4.0, "samples": 1}], "loss")
        2.0
    """
    return float(np.average([float(one[key]) for one in outputs], weights=[one["samples"] for one in outputs]))
