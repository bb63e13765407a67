"""Base class of the dose trainers: regression in place of segmentation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import interpolate

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import configuration_in
from cdm_nnunet.losses.bits import roi_mask
from cdm_nnunet.losses.dose import DeepSupervisedLoss, region_mae
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.nnunet.checkpoint import BEST, LATEST
from cdm_nnunet.nnunet.compute import autocast, prepare_network, to_device
from cdm_nnunet.nnunet.facts import loss_arguments
from cdm_nnunet.nnunet.logger import DoseLogger, loader_hint
from cdm_nnunet.nnunet.plans import FIRST_WORD, DosePlans, model_plans, plan_command
from cdm_nnunet.nnunet.pretrained import let_trainers_load_weights, load_weights
from cdm_nnunet.nnunet.splits import SPLITS_FILE, Folds, patients_of
from cdm_nnunet.trainers.final_validation import validate_whole_cases
from cdm_nnunet.trainers.loaders import patch_loaders
from cdm_nnunet.trainers.progress import (
    STEPS_FOR_FIRST_ESTIMATE,
    first_estimate_text,
    loss_schedule_text,
    losses_text,
    remaining_text,
)
from cdm_nnunet.trainers.resumable import ResumableTrainer
from cdm_nnunet.trainers.settings import TrainingSettings, other_variables
from cdm_nnunet.trainers.validation import PatchErrors, patch_errors

let_trainers_load_weights()  # (here, not where the plugin is registered: it imports nnU-Net's training command)

_GRADIENT_NORM = 12
_UNSUPPORTED = {"--npz": "a dose has no class probabilities"}


class DoseTrainer(ResumableTrainer):
    """nnU-Net trainer that regresses dose. Variants set ``voxel_error``, or add a loss by :meth:`build_dvh_loss`.

    Attributes:
        voxel_error: The voxel-wise error, in units of the dose scale.
        dvh_weight: Weight of the DVH loss where ``CDM_LOSS_WEIGHT`` is not set.

    Raises:
        InputError: If the plans are not ours, an option makes no sense for dose, or a setting is out of range.
    """

    voxel_error = staticmethod(region_mae)
    dvh_weight = 0.0

    n_epochs: int | None = None  # of a variant that is named after them

    dataset_class: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  # nnU-Net reads this signature
    ):
        for option, reason in _UNSUPPORTED.items():
            if option in sys.argv:
                raise InputError(f"{option}: {reason}; leave the option out")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("no CUDA device is available (no GPU, or no driver for it); train with -device cpu")
        self.settings = TrainingSettings.from_environment().with_epochs(self.n_epochs)
        self.dose_plans = DosePlans(plans)
        configuration = configuration_in(plans["configurations"], configuration)
        if configuration not in plans["configurations"]:
            known = ", ".join(plans["configurations"])
            raise InputError(f"unknown configuration '{configuration}'; the plans '{plans['plans_name']}' have {known}")
        if dataset_json.get("cdm", {}).get("catalogue") != plans["cdm"]["catalogue"]:
            raise InputError("dataset.json and plans have different ROI catalogues; run 'cdm-nnunet plan' again")
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.digest = self.dose_plans.digest(configuration)
        self.logger.local_logger = DoseLogger()
        self.evaluation_terms = Terms.of(self.dose_plans.template, self.dose_plans.catalogue, "evaluation")
        self.oversample_foreground_percent = 0.5
        # goes into checkpoints: nnU-Net's own predictor must never flip an input without swapping paired ROIs' bits
        self.inference_allowed_mirroring_axes = None
        self.save_every = 10
        self._loader_wait_s = 0.0
        self._step_ended_at: float | None = None
        self._first_steps_s: list[float] | None = []
        self._step_began_at = 0.0
        self._use(self.settings)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build network, optimizer and loss.

        Raises:
            InputError: If the configuration was not preprocessed, or the fold can't be trained on.
        """
        if not Path(self.preprocessed_dataset_folder).is_dir():
            raise InputError(
                f"{self.preprocessed_dataset_folder} is missing; run: {plan_command(self.plans_manager.plans)} -c "
                f"{self.configuration_name}"
            )
        training, validation = self.do_split()
        left_out = self._preprocessed_cases() - {*training, *validation}
        told = f"; {len(left_out)} cases are on neither side" if left_out else ""
        self.print_to_log_file(f"fold {self.fold}: {len(training)} cases to train, {len(validation)} to validate{told}")
        super().initialize()
        self.network = prepare_network(self.network, self.device)
        dvh_loss = self.build_dvh_loss(Terms.of(self.dose_plans.template, self.dose_plans.catalogue, "loss"))
        self.dvh_loss = None if dvh_loss is None else dvh_loss.to(self.device)

    def build_dvh_loss(self, terms: Terms) -> torch.nn.Module | None:
        """The loss to add to the voxel-wise error, called as :meth:`CDMLoss.forward` is; None for nothing.

        Args:
            terms: The metrics of the template's goals with the use ``loss``.
        """
        return None

    def load_pretrained_weights(self, file: str) -> None:
        """Start from the weights of another dose model, its last layers included.

        Raises:
            InputError: If the file is no checkpoint, or its model has other inputs, another dose scale or network.
        """
        load_weights(self.network, Path(file), self.dose_plans)
        self.print_to_log_file(f"weights of {file}")

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """AdamW: the gradient of an absolute error has the same size near and far from the answer."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> DeepSupervisedLoss:
        scales = self._get_deep_supervision_scales() or [[1, 1, 1]]
        weights = [1 / 2**i for i in range(len(scales))]
        if len(weights) > 1:  # as in nnU-Net: the coarsest output has no weight, unless DDP needs every parameter
            weights[-1] = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
        return DeepSupervisedLoss(weights, self.voxel_error)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of the fold.

        Raises:
            InputError: If the split is not sound (:meth:`Folds.fold`), or has no such fold.
        """
        if self.fold == "all":
            training, validation = super().do_split()
            return list(training), list(validation)
        folds = Folds.read(Path(self.preprocessed_dataset_folder_base) / SPLITS_FILE)
        fold = folds.fold(self.fold, self._preprocessed_cases(), patients_of(self.dataset_json))
        return fold.train, fold.val

    def _preprocessed_cases(self) -> set[str]:
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        return set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of training and validation patches.

        Raises:
            InputError: If preprocessed data are not ours or stale.
        """
        return patch_loaders(self)

    def print_plans(self) -> None:
        """The configuration and the settings in a few lines; nnU-Net's version prints the whole template."""
        shown = ("spacing", "patch_size", "batch_size", "median_image_size_in_voxels")
        chosen = ", ".join(f"{key} {self.configuration_manager.configuration[key]}" for key in shown)
        self.print_to_log_file(f"{self.configuration_name}: {chosen}", add_timestamp=False)
        self.print_to_log_file(
            f"{len(self.dose_plans.catalogue)} ROIs, template '{self.dose_plans.template.name}', {self.settings}",
            add_timestamp=False,
        )
        if schedule := loss_schedule_text(self.settings, self.dvh_weight):
            self.print_to_log_file(schedule, add_timestamp=False)
        for name in other_variables():
            self.print_to_log_file(f"{name} is no setting of this software and changes nothing", add_timestamp=False)

    def on_train_start(self) -> None:
        """Build what is missing, start the loaders, and leave the plans in the model's folder."""
        super().on_train_start()
        if self.local_rank == 0:
            write_json(Path(self.output_folder_base) / "plans.json", model_plans(self.plans_manager.plans))

    def plot_network_architecture(self) -> None:
        """Nothing: nnU-Net's drawing needs a package that no longer works, and logs its failure."""

    # --- steps --------------------------------------------------------------------------------------------------------

    def additional_loss(self, doses_gy: Sequence[Tensor], reference_gy: Tensor, words: Tensor, batch: Any) -> Any:
        """The weighted DVH loss, or None while its weight is zero.

        Args:
            doses_gy: Predicted dose at each scale, finest first, (B, 1, Z, Y, X), Gy, zero outside the dose region;
                only the first is used unless ``CDM_DEEP_SUPERVISION`` says otherwise.
            reference_gy: Same shape, Gy.
            words: ROI words, (B, L, Z, Y, X).
            batch: As :class:`DoseDataLoader` makes it.

        Returns:
            Scalar, or None for nothing.
        """
        weight = self.settings.dvh_weight(self.current_epoch, self.dvh_weight)
        if self.dvh_loss is None or weight == 0:
            return None
        facts = loss_arguments(batch["facts"])
        return weight * sum(
            share * self.dvh_loss(dose_gy, reference_gy, words, *facts)
            for share, dose_gy in zip(self._dvh_shares(), doses_gy, strict=False)
            if share > 0
        )

    def _dvh_shares(self) -> tuple[float, ...]:
        return self.loss.weights if self.settings.deep_supervision == "all" else (1.0,)

    def dose_region(self, words: Tensor) -> Tensor:
        """1 inside the dose region of the plans' catalogue, 0 outside: (B, L, Z, Y, X) -> (B, 1, Z, Y, X)."""
        bit = self.dose_plans.catalogue.dose_region_bit
        if bit is None:
            return torch.ones_like(words[:, :1])
        return roi_mask(words, bit)[:, None].float()

    def _forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Network and losses of a batch: predicted and reference dose in Gy, region, words, voxel-wise and DVH loss."""
        data = to_device(batch["data"], self.device)
        reference_gy = batch["target"].to(self.device, non_blocking=True)
        scale_gy = self.dose_plans.dose_scale_gy
        with autocast(self.device):
            outputs = self.network(data)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        words = data[:, FIRST_WORD:]
        region = self.dose_region(words)
        size = reference_gy.shape[2:]
        doses_gy = [
            (output.float() if output.shape[2:] == size else interpolate(output.float(), size)) * region * scale_gy
            for output in outputs[: len(self._dvh_shares())]
        ]
        error = self.loss(outputs, reference_gy / scale_gy, region)
        additional = self.additional_loss(doses_gy, reference_gy, words, batch)
        return doses_gy[0], reference_gy, region, words, error, additional

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of the optimizer."""
        self._stop.check()
        if self._step_ended_at is not None:
            self._loader_wait_s += perf_counter() - self._step_ended_at
        self.optimizer.zero_grad(set_to_none=True)
        *_, error, additional = self._forward(batch)
        loss = error if additional is None else error + additional
        if self.grad_scaler is not None:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), _GRADIENT_NORM)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), _GRADIENT_NORM)
            self.optimizer.step()
        value = loss.detach().cpu().numpy()
        if not np.isfinite(value) and self.grad_scaler is None:
            raise RuntimeError(f"the loss is {value} in epoch {self.current_epoch}: the training has diverged")
        self._step_ended_at = perf_counter()
        self._tell_estimate()
        parts = {"voxel_error": error, "dvh_loss": additional}
        return {
            "loss": value,
            **{name: float("nan") if part is None else float(part.detach()) for name, part in parts.items()},
        }

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

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and metric errors of a validation batch."""
        self._stop.check()
        dose_gy, reference_gy, region, words, error, additional = self._forward(batch)
        errors = patch_errors(dose_gy.clamp(min=0), reference_gy, region, words, self.evaluation_terms, batch["facts"])
        return {
            "loss": float(error if additional is None else error + additional),
            "cdm": float("nan") if additional is None else float(additional),
            "errors": errors,
        }

    # --- epochs -------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Start the clock that tells waiting for the loader from computing."""
        super().on_train_epoch_start()
        self._loader_wait_s, self._step_ended_at = 0.0, perf_counter()
        self._step_began_at = perf_counter()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the loss, its parts and the wait."""
        super().on_train_epoch_end(train_outputs)
        for key, part in (("train_voxel_error", "voxel_error"), ("train_dvh_loss", "dvh_loss")):
            self.logger.log(key, float(np.mean([output[part] for output in train_outputs])), self.current_epoch)
        self._step_ended_at = None
        self.logger.log("loader_wait_s", self._loader_wait_s, self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Pool the validation batches of all processes and log them."""
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, val_outputs)
            val_outputs = [output for outputs in gathered for output in outputs]
        errors = PatchErrors.pooled([output["errors"] for output in val_outputs])
        earlier = self.logger.get_value("ema_score", step=None)[: self.current_epoch]
        ema = 0.9 * earlier[-1] + 0.1 * errors.score if earlier else errors.score
        cdm = [output["cdm"] for output in val_outputs]
        logged = {
            "val_losses": float(np.mean([output["loss"] for output in val_outputs])),
            "val_cdm": float(np.mean(cdm)),
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
            f"epoch: {seconds:.1f} s, of it waiting for the data loader {last('loader_wait_s'):.1f} s "
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

    # --- final validation ---------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the validation cases of the fold whole, write their doses and a summary.

        The summary's metrics are those of the network's grid; ``cdm-nnunet evaluate`` gives them on the patients' own.

        Raises:
            InputError: If probabilities are asked for.
        """
        if save_probabilities:
            raise InputError(f"--npz: {_UNSUPPORTED['--npz']}; run the validation again with --val and without --npz")
        self.set_deep_supervision_enabled(False)
        validate_whole_cases(self)
        self.set_deep_supervision_enabled(True)
