"""Base class of the dose trainers: regression instead of segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor
from torch.nn.functional import interpolate

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import configuration_in
from cdm_nnunet.losses.bits import roi_mask
from cdm_nnunet.losses.dose import DeepSupervisedLoss, region_mae
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.nnunet.compute import autocast, prepare_network, to_device
from cdm_nnunet.nnunet.facts import PatchFacts, loss_arguments
from cdm_nnunet.nnunet.loader import DoseDataLoader, Patches
from cdm_nnunet.nnunet.plans import FIRST_WORD, DosePlans, model_plans, plan_command
from cdm_nnunet.nnunet.prediction_record import Training, origin_of
from cdm_nnunet.nnunet.predictor import DosePredictor
from cdm_nnunet.nnunet.pretrained import let_trainers_load_weights, load_weights
from cdm_nnunet.nnunet.splits import SPLITS_FILE, Folds, patients_of
from cdm_nnunet.trainers.final_validation import WholeCaseValidation
from cdm_nnunet.trainers.loaders import running, seed_generators
from cdm_nnunet.trainers.logged import LoggedTrainer
from cdm_nnunet.trainers.progress import loss_schedule_text
from cdm_nnunet.trainers.settings import TrainingSettings, other_variables
from cdm_nnunet.trainers.step import StepResult
from cdm_nnunet.trainers.together import from_all, loss_factor, n_processes, refuse_torchrun, wait_for_all
from cdm_nnunet.trainers.validation import PatchErrors, patch_errors

let_trainers_load_weights()  # (here, not at registration, because it imports nnU-Net's training command)

_GRADIENT_NORM = 12
_CASES_BETWEEN_MEETINGS = 10  # of a process: it waits for the others at most as long as torch allows (10 minutes)


class DoseTrainer(LoggedTrainer):
    """nnU-Net trainer that regresses dose. Variants set ``voxel_error``, or add a loss by :meth:`build_dvh_loss`.

    Attributes:
        voxel_error: The voxel-wise error, in units of the dose scale.
        dvh_weight: Weight of the DVH loss if ``CDM_LOSS_WEIGHT`` is not set.

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
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("no CUDA device is available (no GPU, or no driver for it); train with -device cpu")
        refuse_torchrun()
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
        self.evaluation_terms = Terms.of(self.dose_plans.template, self.dose_plans.catalogue, "evaluation")
        self.oversample_foreground_percent = 0.5
        # goes into checkpoints: nnU-Net's own predictor must never flip an input without swapping paired ROIs' bits
        self.inference_allowed_mirroring_axes = None
        self._use(self.settings)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build network, optimizer and loss.

        Raises:
            InputError: If the configuration was not preprocessed, or the fold is unusable.
        """
        if not Path(self.preprocessed_dataset_folder).is_dir():
            raise InputError(
                f"{self.preprocessed_dataset_folder} is missing; run: {plan_command(self.plans_manager.plans)} -c "
                f"{self.configuration_name}"
            )
        training, validation = self.do_split()
        left_out = self._preprocessed_cases() - {*training, *validation}
        told = f"; {counted(len(left_out), 'case')} in neither part" if left_out else ""
        counts = f"{counted(len(training), 'case')} to train, {len(validation)} to validate"
        self.print_to_log_file(f"fold {self.fold}: {counts}{told}")
        super().initialize()
        self.network = prepare_network(self.network, self.device)
        dvh_loss = self.build_dvh_loss(Terms.of(self.dose_plans.template, self.dose_plans.catalogue, "loss"))
        self.dvh_loss = None if dvh_loss is None else dvh_loss.to(self.device)

    def build_dvh_loss(self, terms: Terms) -> torch.nn.Module | None:
        """The loss to add to the voxel-wise error, with the arguments of :meth:`CDMLoss.forward`; None for no loss.

        Args:
            terms: The metrics of the template's goals with the use ``loss``.
        """
        return None

    def load_pretrained_weights(self, file: str) -> None:
        """Start from the weights of another dose model, including the last layers; ROI inputs are matched by name.

        Raises:
            InputError: If there is no such checkpoint or model package, or it has another dose scale or network.
        """
        for line in load_weights(self.network, file, self.dose_plans):
            self.print_to_log_file(line)

    def _set_batch_size_and_oversample(self) -> None:
        if (n_samples := self.configuration_manager.batch_size) < n_processes():
            raise InputError(f"a batch of {n_samples} can't be shared by {n_processes()} GPUs: use at most {n_samples}")
        super()._set_batch_size_and_oversample()

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
            InputError: If the split is invalid (:meth:`Folds.fold`), or has no such fold.
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
        training, validation = self.get_tr_and_val_datasets()
        patches = Patches(
            plans=self.dose_plans,
            digest=self.digest,
            batch_size=self.batch_size,
            patch_size=self.configuration_manager.patch_size,
            label_manager=self.label_manager,
        )
        for dataset in (training, validation):
            patches.refuse_foreign_cases(dataset)
        n = get_allowed_n_proc_DA()
        if drawn_here := self._seeds(1):
            seed_generators(drawn_here[0])
        loaders = (
            self._loader(
                DoseDataLoader(training, patches, target_share=self.oversample_foreground_percent, augment=True), n
            ),
            self._loader(DoseDataLoader(validation, patches, target_share=1.0, augment=False), (n + 1) // 2),
        )
        for one in loaders:
            next(one)  # starts the worker processes before the device is in use
        return loaders

    def _loader(self, source: DoseDataLoader, n_processes: int) -> Any:
        return running(source, n_processes, self._seeds(n_processes), pinned=self.device.type == "cuda")

    def _seeds(self, n: int) -> list[int] | None:
        return self.settings.seeds(n, self.current_epoch, self.local_rank)

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
            self.print_to_log_file(f"{name} is not a setting of this software and changes nothing", add_timestamp=False)

    def on_train_start(self) -> None:
        """Initialise if needed, start the loaders, and write the plans to the model's folder."""
        super().on_train_start()
        wait_for_all()  # (nnU-Net has each process write the plans)
        if self.local_rank == 0:
            write_json(Path(self.output_folder_base) / "plans.json", model_plans(self.plans_manager.plans))

    def plot_network_architecture(self) -> None:
        """Do nothing: nnU-Net's drawing needs a package that no longer works, and logs its failure."""

    # --- steps --------------------------------------------------------------------------------------------------------

    def additional_loss(
        self, doses_gy: Sequence[Tensor], reference_gy: Tensor, words: Tensor, facts: Sequence[PatchFacts]
    ) -> Tensor | None:
        """The weighted DVH loss, or None while its weight is zero.

        Args:
            doses_gy: Predicted dose at each scale, finest first, (B, 1, Z, Y, X), Gy, zero outside the dose region;
                only the first is used unless ``CDM_DEEP_SUPERVISION`` says otherwise.
            reference_gy: Same shape, Gy.
            words: ROI words, (B, L, Z, Y, X).
            facts: Facts of the B samples.

        Returns:
            Scalar, or None without a DVH loss.
        """
        weight = self.settings.dvh_weight(self.current_epoch, self.dvh_weight)
        if self.dvh_loss is None or weight == 0:
            return None
        arguments = loss_arguments(facts)
        loss: Tensor = weight * sum(
            share * self.dvh_loss(dose_gy, reference_gy, words, *arguments)
            for share, dose_gy in zip(self._dvh_shares(), doses_gy, strict=False)
            if share > 0
        )
        return loss

    def _dvh_shares(self) -> tuple[float, ...]:
        return self.loss.weights if self.settings.deep_supervision == "all" else (1.0,)

    def dose_region(self, words: Tensor) -> Tensor:
        """1 inside the dose region of the plans' catalogue, 0 outside: (B, L, Z, Y, X) -> (B, 1, Z, Y, X)."""
        bit = self.dose_plans.catalogue.dose_region_bit
        if bit is None:
            return torch.ones_like(words[:, :1])
        return roi_mask(words, bit)[:, None].float()

    def _forward(self, batch: dict[str, Any]) -> StepResult:
        """Network and losses of a batch."""
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
        dvh_loss = self.additional_loss(doses_gy, reference_gy, words, batch["facts"])
        return StepResult(doses_gy[0], reference_gy, region, words, error, dvh_loss)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of the optimizer."""
        self._begin_step()
        self.optimizer.zero_grad(set_to_none=True)
        step = self._forward(batch)
        loss = step.loss * loss_factor(self.batch_size, self.configuration_manager.batch_size)
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
        value, voxel_error = float(step.loss.detach()), float(step.voxel_error.detach())
        # (a scaler skips steps whose half-precision outputs overflow; then both are affected)
        if not math.isfinite(value) and (self.grad_scaler is None or math.isfinite(voxel_error)):
            raise RuntimeError(f"the loss is {value} in epoch {self.current_epoch}: the training has diverged")
        self._end_step()
        return {
            "loss": value,
            "samples": len(batch["facts"]),
            "voxel_error": voxel_error,
            "dvh_loss": float("nan") if step.dvh_loss is None else float(step.dvh_loss.detach()),
        }

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and metric errors of a validation batch."""
        self._stop_if_asked()
        step = self._forward(batch)
        return {
            "loss": float(step.loss),
            "samples": len(batch["facts"]),
            "cdm": float("nan") if step.dvh_loss is None else float(step.dvh_loss),
            "errors": patch_errors(
                step.dose_gy.clamp(min=0), step.reference_gy, step.region, step.words, self.evaluation_terms,
                batch["facts"],
            ),
        }  # fmt: skip

    # --- final validation ---------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict whole validation cases of the fold, write their doses and a summary.

        The metrics of the summary are on the network's grid; ``cdm-nnunet evaluate`` gives them on the patients' grids.
        """
        if save_probabilities:  # (after days of training, the other cases should not be lost)
            self.print_to_log_file("--npz is left out: a dose has no class probabilities")
        self.set_deep_supervision_enabled(False)
        _, cases = self.do_split()
        validation = self._whole_case_validation(cases)
        errors: dict[str, PatchErrors] = {}
        for first in range(0, len(cases), _CASES_BETWEEN_MEETINGS * n_processes()):
            together = sorted(cases)[first : first + _CASES_BETWEEN_MEETINGS * n_processes()]
            mine = together[self.local_rank :: n_processes()]
            errors |= dict(from_all([(case, validation.of(case)) for case in mine]))
        if self.local_rank == 0:
            for line in validation.write_summary(dict(sorted(errors.items())), self.plans_manager.dataset_name):
                self.print_to_log_file(line)
        self.set_deep_supervision_enabled(True)

    def _whole_case_validation(self, cases: Sequence[str]) -> WholeCaseValidation:
        predictor = DosePredictor(device=self.device, perform_everything_on_device=True, allow_tqdm=False)
        predictor.manual_initialization(
            self.network, self.plans_manager, self.configuration_manager, None, self.dataset_json,
            self.__class__.__name__, None,
        )  # fmt: skip
        training = Training(self.configuration_name, {str(self.fold): dict(self.settings.to_json())})
        return WholeCaseValidation(
            predictor,
            self.dataset_class(self.preprocessed_dataset_folder, sorted(cases)),
            Path(self.output_folder) / "validation",
            origin_of(predictor, training),
            self.dose_region,
            self.evaluation_terms,
        )
