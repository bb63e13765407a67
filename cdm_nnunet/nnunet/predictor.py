"""Sliding-window prediction of a dose."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from torch import Tensor

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.augmentation import mirror_left_right
from cdm_nnunet.nnunet.checkpoint import FINAL
from cdm_nnunet.nnunet.compute import autocast, bare, lock_of, pad_to_patch, prepare_network, to_device
from cdm_nnunet.nnunet.export import dose_on_patient_grid
from cdm_nnunet.nnunet.inputs import find_cases, refuse_bare_array, refuse_other_catalogues, refuse_output_over_data
from cdm_nnunet.nnunet.items import Item, preprocess_array, preprocess_files
from cdm_nnunet.nnunet.model import TrainedModel, read_model, refuse_other_plans
from cdm_nnunet.nnunet.plans import LEFT_RIGHT_AXIS, DosePlans
from cdm_nnunet.nnunet.prediction_record import Training, origin_of, unfinished
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.parallel import active_engine, ordered
from cdm_nnunet.prediction_record import Origin, PredictionRecord
from cdm_nnunet.progress import note_beside, progress

_FEW = 2  # up to this many cases are preprocessed in this process: starting others takes longer


class CasesRefusedError(InputError):
    """Some cases were refused; the others were predicted.

    Attributes:
        reasons: Reasons by case.
    """

    def __init__(self, reasons: Mapping[str, str], n_cases: int):
        self.reasons = dict(reasons)
        told = "; ".join(f"case '{case}': {reason}" for case, reason in self.reasons.items())
        super().__init__(
            told if n_cases == 1 else f"refused {len(reasons)} of {n_cases} cases, predicted the others: {told}"
        )


class DosePredictor(nnUNetPredictor):
    """nnU-Net's predictor for dose.

    Differences for dose: windows are summed in float32, padding is air, mirrored predictions have the bits
    of paired ROIs swapped, and the result is written as float32 Gy. Errors of one case carry the case's name.
    """

    network: torch.nn.Module
    tells_notes = True  # (on stderr; they are in the records of the doses too)
    allows_outside = False  # whether patients outside the training data are predicted
    _dose_plans: DosePlans | None = None
    _trained: tuple[object, Training] | None = None  # (the loaded weights and their training)

    def __init__(self, *args: Any, **kwargs: Any):
        with contextlib.redirect_stdout(None):  # (nnU-Net warns that results can't stay on a GPU)
            super().__init__(*args, **kwargs)

    @property
    def dose_plans(self) -> DosePlans:
        """Our part of the plans."""
        if self._dose_plans is None or self._dose_plans.plans is not self.plans_manager.plans:
            self._dose_plans = DosePlans(self.plans_manager.plans)
        return self._dose_plans

    @property
    def origin(self) -> Origin:
        """What the doses depend on besides the case."""
        return origin_of(self, self._training)

    @property
    def _training(self) -> Training | None:
        weights, training = self._trained or (None, None)
        return training if weights is self.list_of_parameters else None

    @property
    def package(self) -> str | None:
        """Name of the model package, if the weights come from one."""
        training = self._training
        return None if training is None else training.package

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[int | str] | None,
        checkpoint_name: str = FINAL,
    ) -> None:
        """Load a trained model with the plans of its training; arguments as in nnU-Net.

        Raises:
            InputError: If a checkpoint is missing or damaged, the folds are of different models, or the plans in the
                folder are not those of the training.
        """
        if use_folds is None:
            use_folds = self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        self.use_model(read_model(Path(model_training_output_dir), use_folds, checkpoint_name))

    def use_model(self, model: TrainedModel) -> None:
        """Use a trained model, with the plans of its training.

        Raises:
            InputError: If its weights do not fit its plans.
        """
        manager = PlansManager(model.plans)
        weights = [checkpoint.weights for checkpoint in model.checkpoints]
        self.manual_initialization(
            model.network(manager), manager, manager.get_configuration(model.configuration), weights,
            model.dataset_json, model.trainer_name, None,
        )  # fmt: skip
        self._trained = (self.list_of_parameters, Training.of(model))

    def predict_from_files(
        self,
        list_of_lists_or_source_folder: str | list[list[str]],
        output_folder_or_list_of_truncated_output_files: str | list[str] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        num_processes_preprocessing: int = 2,
        num_processes_segmentation_export: int = 0,
        folder_with_segs_from_prev_stage: str | None = None,
        num_parts: int = 1,
        part_id: int = 0,
    ) -> Any:
        """Predict all cases of a folder; arguments as in nnU-Net.

        Raises:
            InputError: If the folder has no case, a case lacks a channel, the meaning of the ROI bits is unknown or not
                the model's, the output folder contains data, or probabilities are requested.
        """
        if save_probabilities:
            raise InputError("--save_probabilities: a dose model has no class probabilities; leave the option out")
        if isinstance(list_of_lists_or_source_folder, str):
            list_of_lists_or_source_folder = find_cases(Path(list_of_lists_or_source_folder))
        refuse_other_plans(self.list_of_parameters, self.plans_manager.plans, self.dataset_json)
        refuse_other_catalogues(list_of_lists_or_source_folder, self.dose_plans.catalogue)
        if isinstance(output_folder_or_list_of_truncated_output_files, str):
            refuse_output_over_data(
                list_of_lists_or_source_folder, Path(output_folder_or_list_of_truncated_output_files)
            )
        if not overwrite and output_folder_or_list_of_truncated_output_files is not None:
            cases, outputs = unfinished(
                list_of_lists_or_source_folder[part_id::num_parts],
                output_folder_or_list_of_truncated_output_files,
                self.origin,
            )
            if not cases:
                return []
            list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files = cases, outputs
            num_parts, part_id = 1, 0
        return super().predict_from_files(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            False,
            True,
            num_processes_preprocessing,
            num_processes_segmentation_export,
            folder_with_segs_from_prev_stage,
            num_parts,
            part_id,
        )

    def predict_from_files_sequential(
        self,
        list_of_lists_or_source_folder: str | list[list[str]],
        output_folder_or_list_of_truncated_output_files: str | list[str] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        folder_with_segs_from_prev_stage: str | None = None,
    ) -> Any:
        """As :meth:`predict_from_files`, in one process."""
        return self.predict_from_files(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            save_probabilities,
            overwrite,
            num_processes_preprocessing=0,
            folder_with_segs_from_prev_stage=folder_with_segs_from_prev_stage,
        )

    def _manage_input_and_output_lists(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.redirect_stdout(None):  # (nnU-Net counts the cases three times)
            return super()._manage_input_and_output_lists(*args, **kwargs)

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterator[Item]:
        outputs: Sequence[str | None] = output_filenames_truncated or [None] * len(input_list_of_lists)
        jobs = [
            (files, output, self.plans_manager, self.configuration_manager)
            for files, output in zip(input_list_of_lists, outputs, strict=True)
        ]
        if num_processes == 0 or (len(jobs) <= _FEW and active_engine() is None):
            return map(preprocess_files, jobs)
        return ordered(preprocess_files, jobs, num_processes)

    def predict_from_data_iterator(
        self,
        data_iterator: Iterator[Item],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = 0,
    ) -> list[NDArray[np.float32] | None]:
        """Predict and export preprocessed cases.

        Args:
            data_iterator: Items with ``data``, ``data_properties`` and ``ofile``, as in nnU-Net.
            save_probabilities: Must be False.
            num_processes_segmentation_export: Not used: exporting a dose takes less time than passing it to a process.

        Returns:
            For each item the dose in Gy, (Z, Y, X), float32, or None if it was written to a file.

        Raises:
            CasesRefusedError: At the end, if cases are implausible, or the model gives no finite dose for them.
        """
        if save_probabilities:
            raise InputError("a dose model has no class probabilities")
        origin = self.origin
        results: list[NDArray[np.float32] | None] = []
        refused: dict[str, str] = {}
        for item in progress(data_iterator, desc="predict", disable=not self.allow_tqdm):
            case = Path(item["ofile"] or item.get("case", "?")).name
            try:
                if "refusal" in item:
                    raise InputError(item["refusal"])
                applicability = (
                    None if (found := item.get("applicability")) is None else found.permitted(self.allows_outside)
                )
                output = self.predict_logits_from_preprocessed_data(item["data"])
                dose_gy = dose_on_patient_grid(output.numpy(), item["data_properties"], self.dose_plans)
            except InputError as error:
                refused[case] = str(error)
                continue
            note_beside(*(f"case '{case}': {note}" for note in item.get("notes", ()) if self.tells_notes))
            if item["ofile"] is None:
                results.append(dose_gy)
                continue
            file = item["ofile"] + FILE_ENDING
            record = PredictionRecord(
                case=case,
                prescriptions_gy=item.get("prescriptions_gy"),
                notes=list(item.get("notes", ())),
                origin=origin,
                inputs_sha256=item.get("inputs_sha256"),
                model=self.package,
                applicability=applicability,
            )
            with record.beside(Path(file)):
                CDMReaderWriter().write_seg(dose_gy, file, item["data_properties"])
            results.append(None)
        compute_gaussian.cache_clear()
        if refused:
            raise CasesRefusedError(refused, len(refused) + len(results))
        return results

    def predict_single_npy_array(
        self,
        input_image: NDArray[np.float32],
        image_properties: dict[str, Any],
        segmentation_previous_stage: None = None,
        output_file_truncated: str | None = None,
        save_or_return_probabilities: bool = False,
    ) -> NDArray[np.float32] | None:
        """Predict one case in memory, with the same checks as for files.

        Args:
            input_image: Result of :meth:`CDMReaderWriter.read_images`, (2 + L, Z, Y, X).
            image_properties: Its geometry as returned by that method (``spacing``, ``sitk_stuff``), and ``catalogue``
                from the ``dataset.json`` with which the bits were made.
            segmentation_previous_stage: Must be None.
            output_file_truncated: File for the dose without its extension; None returns it.
            save_or_return_probabilities: Must be False.

        Returns:
            The dose in Gy, (Z, Y, X), float32; None if it was written to a file.

        Raises:
            InputError: If geometry or catalogue are missing or not the model's, or the case is implausible.
        """
        items = self.get_data_iterator_from_raw_npy_data(
            input_image, segmentation_previous_stage, image_properties, output_file_truncated
        )
        (dose_gy,) = self.predict_from_data_iterator(items, save_or_return_probabilities)
        return dose_gy

    def get_data_iterator_from_raw_npy_data(
        self,
        image_or_list_of_images: NDArray[np.float32] | list[NDArray[np.float32]],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: None,
        properties_or_list_of_properties: dict[str, Any] | list[dict[str, Any]],
        truncated_ofname: str | list[str] | None,
        num_processes: int = 1,
    ) -> Iterator[Item]:
        """Preprocess cases in memory, in this process; as :meth:`predict_single_npy_array`.

        Raises:
            InputError: If geometry or catalogue of a case are missing or not the model's.
        """
        del segs_from_prev_stage_or_list_of_segs_from_prev_stage, num_processes
        images = image_or_list_of_images if isinstance(image_or_list_of_images, list) else [image_or_list_of_images]
        known = properties_or_list_of_properties
        properties = known if isinstance(known, list) else [known]
        outputs = [truncated_ofname] * len(images) if truncated_ofname is None else truncated_ofname
        outputs = [outputs] if isinstance(outputs, str) else outputs
        jobs = [
            (f"array {k}", image, {**of_image}, output, self.plans_manager, self.configuration_manager)
            for k, (image, of_image, output) in enumerate(zip(images, properties, outputs, strict=True))
        ]
        for job in jobs:
            refuse_bare_array(job[1], job[2], self.dose_plans)
        return map(preprocess_array, jobs)

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Mean output over the folds; only one thread at a time, because the folds share one network.

        Args:
            data: Preprocessed channels, (2 + L, Z, Y, X).

        Returns:
            float32 on the CPU, (1, Z, Y, X), in units of the dose scale.
        """
        refuse_other_plans(self.list_of_parameters, self.plans_manager.plans, self.dataset_json)
        total = None
        with lock_of(bare(self.network)):
            for parameters in self.list_of_parameters:
                bare(self.network).load_state_dict(parameters)
                output = self.predict_sliding_window_return_logits(data).cpu()
                total = output if total is None else total + output
        if total is None:
            raise InputError("no fold of the model was loaded")
        return total / len(self.list_of_parameters)

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Output of the loaded network for the whole image.

        Args:
            input_image: Preprocessed channels, (2 + L, Z, Y, X).

        Returns:
            float32, (1, Z, Y, X), in units of the dose scale.
        """
        plans = self.dose_plans
        if input_image.ndim != 4 or input_image.shape[0] != plans.n_channels:
            raise InputError(
                f"the input has shape {tuple(input_image.shape)}; the plans ask for {plans.n_channels} channels (CT, "
                f"prescription, {plans.catalogue.n_words} ROI words) and three axes"
            )
        with lock_of(bare(self.network)):
            return self._windows(input_image)

    def _windows(self, input_image: Tensor) -> Tensor:
        self.network = prepare_network(self.network, self.device)
        self.network.eval()
        padded, inside = pad_to_patch(input_image, self.configuration_manager.patch_size, self.dose_plans.padding)
        slicers = self._internal_get_sliding_window_slicers(padded.shape[1:])
        # everything on the device if it fits, otherwise sums on the CPU: only the time differs
        try:
            output = self._internal_predict_sliding_window_return_logits(
                padded, slicers, self.perform_everything_on_device
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            output = self._internal_predict_sliding_window_return_logits(padded, slicers, False)
        return output[(slice(None), *inside)]

    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Sequence[tuple[slice, ...]], do_on_device: bool = True
    ) -> Tensor:
        sums_on = self.device if do_on_device else torch.device("cpu")
        data = data.to(sums_on)
        weight = (
            compute_gaussian(
                tuple(self.configuration_manager.patch_size), sigma_scale=1 / 8, dtype=torch.float32, device=sums_on
            )
            if self.use_gaussian
            else torch.ones(tuple(self.configuration_manager.patch_size), device=sums_on)
        )
        total = torch.zeros((1, *data.shape[1:]), dtype=torch.float32, device=sums_on)
        weight_sum = torch.zeros(data.shape[1:], dtype=torch.float32, device=sums_on)
        for slicer in progress(
            slicers, desc="windows", unit="window", leave=False, disable=not (self.allow_tqdm and len(slicers) > 8)
        ):
            window = to_device(data[slicer][None], self.device)
            total[slicer] += self._internal_maybe_mirror_and_predict(window)[0].to(sums_on) * weight
            weight_sum[slicer[1:]] += weight
        return total / weight_sum

    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        with autocast(self.device):
            output: Tensor = self.network(x).float()
            permutation = self.dose_plans.catalogue.mirror_permutation
            if self.use_mirroring and permutation is not None:
                mirrored = to_device(mirror_left_right(x, permutation), self.device)
                output = (output + self.network(mirrored).float().flip(LEFT_RIGHT_AXIS + 2)) / 2
        return output
