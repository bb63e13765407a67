"""Resumable training: it can be stopped at any time, and resumes from its newest complete checkpoint and settings."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, NoReturn

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from cdm_nnunet.counting import counted
from cdm_nnunet.documents import differences
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import FINAL, LATEST, Checkpoint, read_checkpoint, write_checkpoint
from cdm_nnunet.nnunet.compute import bare
from cdm_nnunet.nnunet.model import facts_of, mark, model_facts, refuse_other_folds
from cdm_nnunet.trainers.checkpoints import fold_claimed, newest_whole
from cdm_nnunet.trainers.loaders import seed_generators
from cdm_nnunet.trainers.settings import CHANGE_SETTINGS, RESTART, TrainingSettings, is_allowed
from cdm_nnunet.trainers.stopping import Stopped, StopRequest
from cdm_nnunet.trainers.together import any_of_all, are_several, by_the_first, wait_for_all


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with checkpoints that are complete or absent, and settings that belong to the model.

    Attributes:
        settings: Settings of the training; of a continued training, those at its start.
    """

    network: torch.nn.Module
    settings: TrainingSettings
    _best_ema: float | None
    _goes_on = False  # from a checkpoint
    _stop: StopRequest

    def _use(self, settings: TrainingSettings) -> None:
        self._stop = StopRequest(outlives_parent=are_several())
        self.settings = settings
        self.num_epochs = settings.num_epochs
        self.num_iterations_per_epoch = settings.num_iterations
        self.num_val_iterations_per_epoch = settings.num_val_iterations
        self.initial_lr = settings.learning_rate
        if settings.seed >= 0:
            seed_generators(settings.seed)

    def resume(self) -> None:
        """Continue from this fold's intact checkpoint with the most epochs, if there is one.

        Raises:
            InputError: If none is intact, or the training was started with other plans or settings.
        """
        found = newest_whole(Path(self.output_folder))
        if found is None:
            self.print_to_log_file(f"no checkpoint in {self.output_folder} yet: the training starts")
            return
        checkpoint, damaged = found
        for fault in damaged:
            self.print_to_log_file(f"ignored: {fault}")
        if checkpoint.settings is not None:
            self._use(TrainingSettings.resumed(checkpoint.settings))
        if checkpoint.path.name == FINAL and checkpoint.epoch < self.num_epochs and not is_allowed(CHANGE_SETTINGS):
            raise InputError(
                f"{checkpoint.path} ended a training of {counted(checkpoint.epoch, 'epoch')}, "
                f"and {self.num_epochs} are requested: "
                f"set CDM_NUM_EPOCHS={checkpoint.epoch}, or train on (--change-settings, or {CHANGE_SETTINGS}=1)"
            )
        self._restore(checkpoint)
        self.print_to_log_file(f"continuing from {checkpoint.path.name}, epoch {checkpoint.epoch} of {self.num_epochs}")
        if checkpoint.epoch >= self.num_epochs and checkpoint.path.name != FINAL:  # killed before it was written
            self._save_final()

    def _save_final(self) -> None:
        if self.local_rank == 0 and not self.disable_checkpointing:
            self._write(Path(self.output_folder) / FINAL, self.current_epoch)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Restore network, optimizer and log from a checkpoint of this model and fold.

        Raises:
            InputError: If it is damaged, or belongs to another model or fold.
        """
        self._restore(read_checkpoint(Path(filename_or_checkpoint)))

    def _restore(self, checkpoint: Checkpoint) -> None:
        if not self.was_initialized:
            self.initialize()
        self._refuse_other_training(checkpoint)
        content = checkpoint.content
        try:
            bare(self.network).load_state_dict(checkpoint.weights)
            self.optimizer.load_state_dict(content["optimizer_state"])
            if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
                self.grad_scaler.load_state_dict(content["grad_scaler_state"])
            self._best_ema = content["_best_ema"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{checkpoint.path} does not fit this training: {reason}") from None
        self.current_epoch = checkpoint.epoch
        self.logger.load_checkpoint(content["logging"])
        self._goes_on = True

    def _refuse_other_training(self, checkpoint: Checkpoint) -> None:
        own = (self.__class__.__name__, self.configuration_name, str(self.fold))
        other = (checkpoint.trainer_name, checkpoint.configuration, checkpoint.fold)
        for name, here, there in zip(("trainer", "configuration", "fold"), own, other, strict=True):
            if here != there:
                raise InputError(f"{checkpoint.path} is of {name} {there}, not of {here}; was it copied there by hand?")
        trained, now = facts_of(checkpoint), model_facts(self.plans_manager.plans, self.dataset_json)
        if unlike := differences(trained, now):
            raise InputError(
                f"{checkpoint.path} was trained with other plans ({unlike}): plan as before to continue, or give the "
                "new plans another name ('cdm-nnunet plan -p NAME') and train with -p NAME"
            )

    def save_checkpoint(self, filename: str) -> None:
        """Write a complete checkpoint, or keep the earlier one.

        Raises:
            OSError: If it can't be written.
        """
        if self.local_rank == 0 and not self.disable_checkpointing:
            self._write(Path(filename), self.current_epoch + 1)

    def _write(self, path: Path, epochs_done: int) -> None:
        content = self._content(epochs_done)
        write_checkpoint(path, content, mark(content["network_weights"], self.plans_manager.plans, self.dataset_json))

    def _content(self, epochs_done: int) -> dict[str, Any]:
        """Contents of a checkpoint: nnU-Net's entries, and the settings of the training.

        Args:
            epochs_done: Number of finished epochs; a continued training starts with the next one.
        """
        scaler = self.grad_scaler
        return {
            "network_weights": bare(self.network).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": None if scaler is None else scaler.state_dict(),
            "logging": {key: values[:epochs_done] for key, values in self.logger.get_checkpoint().items()},
            "_best_ema": self._best_ema,
            "current_epoch": epochs_done,
            "init_args": self.my_init_kwargs,
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "cdm": {"settings": self.settings.to_json()},
        }

    def run_training(self) -> None:
        """Train the remaining epochs. SIGTERM writes a checkpoint from which ``--c`` continues.

        Raises:
            InputError: If the training would overwrite another, or another process trains this fold.
            SystemExit: After SIGTERM, with status 143.
        """
        if self.current_epoch >= self.num_epochs:
            self.print_to_log_file(f"all {self.num_epochs} epochs are done; only the validation is done again")
            return
        if self._goes_on and self.disable_checkpointing:
            raise InputError("--disable_checkpointing and --c: nothing of the training would be saved; leave one out")
        refuse_other_folds(Path(self.output_folder_base), self.plans_manager.plans, self.dataset_json)
        claim = fold_claimed(Path(self.output_folder), begins=not self._goes_on, restart=is_allowed(RESTART))
        with by_the_first(claim), self._stop.on_sigterm():
            try:
                super().run_training()
            except Stopped:
                self._stop_early()

    def _stop_if_asked(self) -> None:
        """Raise :class:`Stopped` if any process received SIGTERM: in all processes after the same step."""
        if any_of_all(self._stop.asked, self.device):
            raise Stopped

    def _stop_early(self) -> NoReturn:
        if self.local_rank == 0 and not self.disable_checkpointing:
            path = Path(self.output_folder) / LATEST
            self._write(path, self.current_epoch)
            self.print_to_log_file(
                f"stopped by SIGTERM in epoch {self.current_epoch}; {path} is written: continue with --c"
            )
        wait_for_all()  # (when the first process ends, the others are soon killed)
        for loader in (self.dataloader_train, self.dataloader_val):
            getattr(loader, "_finish", lambda: None)()
        raise SystemExit(128 + signal.SIGTERM)
