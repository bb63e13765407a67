"""Configure a data set with the plans of another one, so that the other's models can be fine-tuned here.

Spacing, patch size, network, CT statistics and dose scale are the other's: a model's weights are valid only with these.
Catalogue, template and the ranges of the patients are the data set's own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_nnunet.documents import differences, read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, configuration_in, folder
from cdm_nnunet.models.package import Package
from cdm_nnunet.models.shipped import find_model
from cdm_nnunet.nnunet.model import model_facts
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.roi_inputs import MatchedRois
from cdm_nnunet.ranges import PRESCRIPTION_GY
from cdm_nnunet.roi import Catalogue

SECTION = "plans_from"  # of the section ``cdm`` of plans
_ROUNDING = 1e-6  # prescription maps have single precision


@dataclass(frozen=True)
class OtherPlans:
    """Plans of another data set.

    Attributes:
        name: ``DATASET:PLANS``.
        plans: The plans.
    """

    name: str
    plans: DosePlans

    def configurations(
        self, plans_name: str, n_rois: int, median_shape: Callable[[Sequence[float]], list[float]]
    ) -> dict[str, dict[str, Any]]:
        """The configurations, adapted to another data set.

        Args:
            plans_name: Name of the new plans.
            n_rois: Number of ROIs of the data set.
            median_shape: Returns the median shape of its cases, in voxels, at a spacing (z, y, x) in mm.
        """
        moved = copy.deepcopy(dict(self.plans.plans["configurations"]))
        for name, configuration in moved.items():
            data = configuration["data_identifier"].removeprefix(f"{self.plans.plans['plans_name']}_")
            configuration["data_identifier"] = f"{plans_name}_{data if data in moved else name}"
            configuration["median_image_size_in_voxels"] = median_shape(configuration["spacing"])
            configuration["architecture"]["arch_kwargs"]["n_rois"] = n_rois
        return moved

    def refuse_missing(self, required: Sequence[str]) -> None:
        """Check that the requested configurations exist.

        Raises:
            InputError: If one is missing.
        """
        there = self.plans.plans["configurations"]
        for name in required:
            if configuration_in(there, name) not in there:
                raise InputError(f"the plans {self.name} have no configuration '{name}'; there are {', '.join(there)}")

    def notes(self, catalogue: Catalogue, dose_scale_gy: float) -> Iterator[str]:
        """Remarks for fine-tuning from models of these plans, one sentence each."""
        theirs = self.plans.catalogue
        if theirs != catalogue:
            more = "; a training may take more memory than planned" if len(catalogue) > len(theirs) else ""
            yield (
                f"{self.name} has an ROI catalogue that differs from this data set's; its models' weights "
                f"(-pretrained_weights) are matched: {MatchedRois.of(theirs, catalogue).text()}{more}"
            )
        if self.plans.dose_scale_gy != dose_scale_gy:
            yield (
                f"{self.name} has a dose scale of {self.plans.dose_scale_gy:g} Gy, not {dose_scale_gy:g} Gy: weights "
                "of its models do not fit here (-pretrained_weights is refused)"
            )


def read_other_plans(text: str) -> OtherPlans:
    """Find plans by name in nnU-Net's preprocessed folder, else in the models of the data set; or in a model package.

    Args:
        text: ``ID`` or ``DATASET``, with ``:PLANS`` unless they have the default name; or a folder, a ZIP file or the
            name of a shipped model.

    Raises:
        InputError: If they are missing, damaged or not ours, or models disagree.
    """
    dataset, _, plans_name = text.partition(":")
    if not re.fullmatch(r"\d{1,3}|Dataset\d{3}_[A-Za-z0-9_-]+", dataset) or not re.fullmatch(r"[\w-]*", plans_name):
        return _plans_of_package(text)
    plans_name = plans_name or DEFAULT_PLANS
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    found = sorted(folder("nnUNet_preprocessed").glob(f"{pattern}/{plans_name}.json"))
    found = found or sorted(folder("nnUNet_results").glob(f"{pattern}/*__{plans_name}__*/plans.json"))
    if not found:
        raise InputError(
            f"--plans-from {text}: no {pattern}/{plans_name}.json in {folder('nnUNet_preprocessed')}, and no model "
            f"with such plans in {folder('nnUNet_results')}"
        )
    contents = [read_json(path, dict[str, Any], "plan that data set again") for path in found]
    _refuse_unlike(text, found, contents)
    plans = DosePlans(contents[0])
    return OtherPlans(f"{plans.plans['dataset_name']}:{plans_name}", plans)


def _plans_of_package(text: str) -> OtherPlans:
    try:
        package = Package.read(find_model(text))
    except InputError as error:
        raise InputError(
            f"--plans-from takes ID_OR_NAME[:PLANS], such as 501 or Dataset501_Name:Small, or a model: {error}"
        ) from None
    plans = DosePlans(package.plans)
    return OtherPlans(f"{plans.plans['dataset_name']}:{plans.plans['plans_name']}", plans)


def _refuse_unlike(text: str, found: Sequence[Path], contents: Sequence[dict[str, Any]]) -> None:
    first, *others = (model_facts(content, {}) for content in contents)
    for path, other in zip(found[1:], others, strict=True):
        if unlike := differences(first, other):
            raise InputError(
                f"--plans-from {text} is ambiguous: {found[0]} and {path} differ ({unlike}); move one away"
            )


def settled_dose_scale_gy(chosen_gy: float | None, other: OtherPlans | None, highest_gy: float) -> float:
    """Dose that corresponds to a network output of 1.

    Args:
        chosen_gy: The user's choice; None takes that of the other plans, or without these the highest prescription.
        other: Plans that determine it without a choice.
        highest_gy: The highest prescription of the training cases.

    Raises:
        InputError: If it is below the highest prescription, or not a plausible prescription.
    """
    if chosen_gy is not None:
        if not PRESCRIPTION_GY.is_possible(chosen_gy):
            low, high = PRESCRIPTION_GY.possible
            raise InputError(f"--dose-scale must be {low:g} to {high:g} Gy, not {chosen_gy:g}")
        if chosen_gy < highest_gy * (1 - _ROUNDING):
            raise InputError(
                f"--dose-scale {chosen_gy:g} is below the highest prescription of the training cases, {highest_gy:g} Gy"
            )
        return chosen_gy
    if other is None:
        return highest_gy
    if other.plans.dose_scale_gy < highest_gy * (1 - _ROUNDING):
        raise InputError(
            f"the plans {other.name} have a dose scale of {other.plans.dose_scale_gy:g} Gy, below the highest "
            f"prescription of this data set, {highest_gy:g} Gy: plan and train {other.name.split(':')[0]} with "
            f"--dose-scale {highest_gy:g} or more (-p NAME), or give --dose-scale here, without its models' weights"
        )
    return other.plans.dose_scale_gy
