"""Experiment planning for dose: patch size, batch size, spacing and topology from the data and the GPU budget."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from numpy.typing import NDArray

from cdm_nnunet.dataset import FORMAT_VERSION, READER_NAME, UNITS, RawDataset, StockEntries
from cdm_nnunet.documents import differences, typed
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked, write_json, write_text
from cdm_nnunet.folders import DEFAULT_PLANS, configuration_in, folder
from cdm_nnunet.nnunet.cohort import SECTION as COHORT
from cdm_nnunet.nnunet.configurations import (
    COARSE,
    CONFIGURATIONS,
    FULL,
    PACKED,
    earlier_names,
    known_configurations,
    planned_names,
)
from cdm_nnunet.nnunet.fingerprint import FALL_OFF, SPACINGS, DoseFingerprintExtractor
from cdm_nnunet.nnunet.model import facts_in, model_facts
from cdm_nnunet.nnunet.network import BitDecodeUNet
from cdm_nnunet.nnunet.plan_choices import PlanChoices
from cdm_nnunet.nnunet.plans import LABEL_MANAGER_NAME, PLANNER_NAME, PREPROCESSOR_NAME, DosePlans
from cdm_nnunet.nnunet.preprocessor import DosePreprocessor
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.nnunet.splits import patients_of, settle_splits
from cdm_nnunet.nnunet.transfer import SECTION as PLANS_FROM
from cdm_nnunet.nnunet.transfer import OtherPlans, read_other_plans, settled_dose_scale_gy
from cdm_nnunet.progress import note_beside
from cdm_nnunet.roi import Catalogue

_LOCK = ".plan_lock"


class DosePlanner(ExperimentPlanner):
    """nnU-Net's planner with one dose output, decoded ROI channels, and only configurations suited to dose.

    ``3d_fullres`` has the median voxel size of the data. ``3d_packed`` has the same data, inputs and outputs, with a
    U-Net on cells of 2 x 2 x 2 voxels, an eighth of the work; an axis is not packed if its voxels are twice as long as
    the shortest, or too few. ``3d_coarse`` has larger voxels. Axes are never transposed: (z, y, x) stay head-feet,
    front-back, left-right.

    Args:
        dataset_name_or_id: Data set.
        gpu_memory_target_in_gb: GPU memory that a training may use.
        preprocessor_name: Not used; it is always ours.
        plans_name: Name of the plans.
        overwrite_target_spacing: Voxel size (z, y, x) of ``3d_fullres`` in mm, instead of the median.
        suppress_transpose: Not used; axes are never transposed.
        coarse_spacing_mm: Voxel size of ``3d_coarse``, for every axis that is finer.
        base_features: Features of the finest stage of the U-Net; nnU-Net uses 32.
        batch_size: Maximum batch size; None for the largest that memory and number of cases allow, as in nnU-Net.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = PREPROCESSOR_NAME,
        plans_name: str = DEFAULT_PLANS,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = True,
        coarse_spacing_mm: float = 6.0,
        base_features: int = 32,
        batch_size: int | None = None,
    ):
        del preprocessor_name, suppress_transpose
        super().__init__(
            dataset_name_or_id, gpu_memory_target_in_gb, PREPROCESSOR_NAME, plans_name, overwrite_target_spacing, True
        )
        self.dataset_fingerprint["spacings"] = self.dataset_fingerprint.pop(SPACINGS)  # (nnU-Net's methods read it)
        self.raw = RawDataset(Path(self.raw_dataset_folder))
        self.catalogue: Catalogue = self.raw.catalogue
        self.coarse_spacing_mm = coarse_spacing_mm
        self.UNet_class = BitDecodeUNet
        self.UNet_base_num_features = base_features
        self.batch_size_limit = batch_size
        self.required: Sequence[str] = CONFIGURATIONS  # the others are optional
        self.other: OtherPlans | None = None  # plans of another data set, which determine this one's
        self.chosen_dose_scale_gy: float | None = None
        self._name = FULL  # the configuration being planned
        self._cell: tuple[int, ...] = (1, 1, 1)
        self._spacing: NDArray[np.floating] = np.ones(3)
        self._median_shape: NDArray[np.floating] = np.ones(3)

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """For the record only: :class:`DosePreprocessor` normalises by channel."""
        return ["CTNormalization", "NoNormalization", "NoNormalization"], [False, False, False]

    def static_estimate_VRAM_usage(  # noqa: N802  # nnU-Net's name
        self,
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: Mapping[str, Any],
        arch_kwargs_req_import: Sequence[str],
    ) -> float:
        """Memory of a training step in nnU-Net's unit, including decoded ROI channels and loss."""
        if arch_kwargs["n_stages"] < 2:
            raise self._too_small()
        network = get_network_from_plans(
            arch_class_name,
            {**arch_kwargs, **self._own_arguments()},
            arch_kwargs_req_import,
            input_channels,
            1,
            allow_init=False,
        )
        whole = [cells * voxels for cells, voxels in zip(patch_size, self._cell, strict=True)]
        return float(network.compute_conv_feature_map_size(whole))

    def _own_arguments(self) -> dict[str, Any]:
        packed = {"cell": list(self._cell), "details": True} if max(self._cell) > 1 else {}
        fall_off = (self._spacing / self.dataset_fingerprint[FALL_OFF]).tolist()
        return {"n_rois": len(self.catalogue), "fall_off": fall_off, **packed}

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in nnU-Net, with our network arguments and the limit of the batch size."""
        plan: dict[str, Any] = super().get_plans_for_configuration(*args, **kwargs)
        plan["architecture"]["arch_kwargs"].update(self._own_arguments())
        if self.batch_size_limit is not None:
            plan["batch_size"] = min(plan["batch_size"], self.batch_size_limit)
        plan["batch_dice"] = False  # read by nnU-Net, meaningless for dose
        return plan

    def plan_experiment(self) -> dict[str, Any]:
        """Make and save the plans.

        Returns:
            The plans, as saved to ``nnUNet_preprocessed/DATASET/PLANS.json``.

        Raises:
            InputError: If the plugin's reader is not found by nnU-Net, a configuration does not fit the budget, or
                the dose scale is below the highest prescription.
        """
        if recursive_find_reader_writer_by_name(READER_NAME) is not CDMReaderWriter:
            raise InputError(f"nnU-Net finds another reader named {READER_NAME}; two copies of this package installed?")
        fingerprint, other = self.dataset_fingerprint, self.other
        statistics = fingerprint if other is None else other.plans.plans
        plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(fingerprint["spacings"], 0).tolist(),
            "original_median_shape_after_transp": np.median(fingerprint["shapes_after_crop"], 0).round().tolist(),
            "image_reader_writer": READER_NAME,
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": self._configurations() if other is None else self._configurations_of(other),
            "experiment_planner_used": PLANNER_NAME,
            "label_manager": LABEL_MANAGER_NAME,
            "foreground_intensity_properties_per_channel": statistics["foreground_intensity_properties_per_channel"],
            "cdm": self._section(),
        }
        recursive_fix_for_json_export(plans)
        DosePlans(plans)  # written and read plans must be equal
        _refuse_to_replace(plans, self.raw.dataset_json)
        preprocessed = Path(nnUNet_preprocessed) / self.dataset_name
        write_text(preprocessed / "dataset.json", (self.raw.folder / "dataset.json").read_text(encoding="utf-8"))
        write_json(preprocessed / f"{self.plans_identifier}.json", plans)
        self.plans = plans
        return plans

    def _section(self) -> dict[str, Any]:
        """Our section of the plans."""
        fingerprint, other = self.dataset_fingerprint, self.other
        scale_gy = settled_dose_scale_gy(self.chosen_dose_scale_gy, other, fingerprint["max_prescription_gy"])
        section = {
            "format_version": FORMAT_VERSION,
            "units": dict(UNITS),
            "catalogue": self.catalogue.to_json(),
            "template": self.raw.template.to_json(),
            "dose_scale_gy": scale_gy,
            "gpu_memory_gb": self.UNet_vram_target_GB,
            COHORT: fingerprint[COHORT],
        }
        if other is None:
            return section
        for note in other.notes(self.catalogue, scale_gy):
            note_beside(f"note: {note}")
        return section | {PLANS_FROM: other.name, "gpu_memory_gb": other.plans.plans["cdm"].get("gpu_memory_gb")}

    def _configurations_of(self, other: OtherPlans) -> dict[str, dict[str, Any]]:
        """Configurations of other plans, for the cases of this data set."""
        moved = other.configurations(
            self.plans_identifier, len(self.catalogue), lambda mm: self._median_shape_at(np.asarray(mm)).tolist()
        )
        for plan in moved.values():
            if self.batch_size_limit is not None:
                plan["batch_size"] = min(plan["batch_size"], self.batch_size_limit)
        return moved

    def _configurations(self) -> dict[str, dict[str, Any]]:
        """All configurations for which a U-Net is possible; required ones must be among them."""
        full = np.asarray(self.determine_fullres_target_spacing(), dtype=float)
        spacings = {FULL: full, PACKED: full, COARSE: np.maximum(full, self.coarse_spacing_mm)}
        found, there = {}, earlier_names(self.dataset_name, self.plans_identifier)
        for name, spacing in spacings.items():
            try:
                found[configuration_in(there, name)] = self._configuration(name, spacing)
            except InputError as error:
                if name in self.required:
                    raise
                note_beside(f"left out of the plans: {error}")
        return found

    def _too_small(self) -> InputError:
        mend = {
            FULL: "choose a smaller --spacing, or convert cases of more planes",
            PACKED: f"take {FULL}",
            COARSE: "choose a smaller --coarse-spacing",
        }[self._name]
        return InputError(
            f"{self._name}: at a voxel size of {self._spacing.round(2).tolist()} mm the median case has "
            f"{self._median_shape.tolist()} voxels (z, y, x), too few for a U-Net; {mend}"
        )

    def _median_shape_at(self, spacing: NDArray[np.floating]) -> NDArray[np.floating]:
        known = self.dataset_fingerprint
        pairs = zip(known["spacings"], known["shapes_after_crop"], strict=True)
        shapes = [compute_new_shape(shape, old, spacing) for old, shape in pairs]
        return np.asarray(np.median(shapes, 0))

    def _configuration(self, name: str, spacing: NDArray[np.floating]) -> dict[str, Any]:
        median_shape = self._median_shape_at(spacing)
        smallest = 2 * self.UNet_featuremap_min_edge_length
        self._name, self._spacing, self._median_shape = name, spacing, median_shape
        if median_shape.min() < smallest:
            raise self._too_small()
        can_pack = (spacing < 2 * spacing.min()) & (median_shape >= 2 * smallest)
        cell = self._cell = tuple(2 if name == PACKED and can else 1 for can in can_pack)
        shape = median_shape / cell  # nnU-Net chooses the patch in cells
        n_cells = float(np.prod(shape) * self.dataset_json["numTraining"])
        data = self.generate_data_identifier(FULL if name == PACKED else name)
        plan = self.get_plans_for_configuration(spacing * cell, shape, data, n_cells, {})
        return plan | {
            "spacing": spacing,
            "patch_size": [cells * voxels for cells, voxels in zip(plan["patch_size"], cell, strict=True)],
            "median_image_size_in_voxels": median_shape,
        }


def plan_and_preprocess(
    dataset_id: int,
    choices: PlanChoices | None = None,
    *,
    configurations: Sequence[str] = (FULL,),
    plans_name: str = DEFAULT_PLANS,
    n_processes: int = 2,
) -> dict[str, Any]:
    """Fingerprint, plans and preprocessed data of a data set.

    Args:
        dataset_id: Number of the data set.
        choices: Choices for the plans; None for the defaults.
        configurations: Configurations to preprocess; all are planned.
        plans_name: Name of the plans. A data set may have several; each has its own preprocessed data and models.
        n_processes: Number of processes.

    Returns:
        The plans.

    Raises:
        InputError: If a case can't be used or a choice does not work.
    """
    choices = choices or PlanChoices()
    if not re.fullmatch(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*", plans_name):
        raise InputError(f"a name of plans has letters, digits, '-' and single '_' only, not '{plans_name}'")
    configurations = known_configurations(configurations)
    other = None if choices.plans_from is None else read_other_plans(choices.plans_from)
    if other is not None:
        other.refuse_missing(configurations)
    dataset_name = maybe_convert_to_dataset_name(dataset_id)
    preprocessed = folder("nnUNet_preprocessed") / dataset_name
    preprocessed.mkdir(parents=True, exist_ok=True)
    with _only_one(preprocessed):
        _refuse_damaged_dataset_json(dataset_name)
        _settle_splits(dataset_name)
        DoseFingerprintExtractor(dataset_id, n_processes).run()
        planner = DosePlanner(
            dataset_id,
            choices.gpu_memory_gb,
            plans_name=plans_name,
            overwrite_target_spacing=None if choices.spacing_mm is None else [float(mm) for mm in choices.spacing_mm],
            coarse_spacing_mm=choices.coarse_spacing_mm,
            base_features=choices.base_features,
            batch_size=choices.batch_size,
        )
        planner.required, planner.other, planner.chosen_dose_scale_gy = configurations, other, choices.dose_scale_gy
        plans = planner.plan_experiment()
        _preprocess(dataset_name, planner.plans_identifier, configurations, n_processes)
        return plans


def preprocess(dataset_id: int, plans_name: str, configurations: Sequence[str], n_processes: int = 2) -> list[str]:
    """Preprocess a data set with existing plans.

    Args:
        dataset_id: Number of the data set.
        plans_name: Name of ``nnUNet_preprocessed/DATASET/PLANS.json``.
        configurations: Configurations to preprocess.
        n_processes: Number of processes.

    Returns:
        Preprocessed configurations; those that share their data count once.

    Raises:
        InputError: If the plans are not ours or lack a configuration, or a case can't be used.
    """
    configurations = known_configurations(configurations)
    dataset_name = maybe_convert_to_dataset_name(dataset_id)
    with _only_one(folder("nnUNet_preprocessed") / dataset_name):
        _settle_splits(dataset_name)
        return _preprocess(dataset_name, plans_name, configurations, n_processes)


def _only_one(preprocessed: Path) -> contextlib.AbstractContextManager[None]:
    return locked(
        preprocessed / _LOCK, f"another 'cdm-nnunet plan' is writing to {preprocessed}; wait until it has ended"
    )


def _preprocess(dataset_name: str, plans_name: str, configurations: Sequence[str], n_processes: int) -> list[str]:
    if PACKED in configurations and FULL in configurations:  # they share their data
        configurations = [name for name in configurations if name != PACKED]
    there = planned_names(dataset_name, plans_name)
    names = [configuration_in(there, name) for name in configurations]
    for name in names:
        DosePreprocessor(verbose=False).run(dataset_name, name, plans_name, n_processes)
    return names


def _refuse_damaged_dataset_json(dataset_name: str) -> None:
    raw = RawDataset(folder("nnUNet_raw") / dataset_name)
    typed(raw.dataset_json, StockEntries, raw.folder / "dataset.json", "convert the data again")


def _settle_splits(dataset_name: str) -> None:
    raw = RawDataset(folder("nnUNet_raw") / dataset_name)
    cases = [case for case, record in raw.cases.items() if record.split == "Tr"]
    preprocessed = folder("nnUNet_preprocessed") / dataset_name
    if told := settle_splits(raw.folder, preprocessed, cases, patients_of(raw.dataset_json)):
        note_beside(told)


def _refuse_to_replace(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> None:
    """Refuse to replace plans that models were trained with: resumed trainings and further folds need them."""
    if not nnUNet_results.is_set():
        return
    facts = model_facts(json.loads(json.dumps(plans)), dataset_json)  # (as they are read back: lists, not tuples)
    for model in sorted((Path(nnUNet_results) / plans["dataset_name"]).glob(f"*__{plans['plans_name']}__*")):
        trained = facts_in(model)
        if trained is not None and (unlike := differences(trained, facts)):
            raise InputError(
                f"{model} was trained with the plans '{plans['plans_name']}', which would now be different ({unlike}): "
                "give the new ones another name (-p NAME, also of 'train' and 'predict'), or move that model away"
            )
