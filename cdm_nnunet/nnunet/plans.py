"""The ``cdm`` section of nnU-Net's plans: entries for training and prediction beyond nnU-Net's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cdm_nnunet.dataset import READER_NAME, cdm_section
from cdm_nnunet.documents import typed
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, dataset_number
from cdm_nnunet.nnunet.plans_entries import PlansEntries
from cdm_nnunet.roi import Catalogue

PREPROCESSOR_NAME = "DosePreprocessor"
LABEL_MANAGER_NAME = "DoseLabelManager"
_LABEL_MANAGERS = (LABEL_MANAGER_NAME, "LabelManager")  # the latter in a model's folder: see model_plans
PLANNER_NAME = "DosePlanner"

_PREPROCESSING_VERSION = 3  # increase it when the same raw data and plans give other preprocessed data

# Channels of preprocessed data; the ROI words follow from FIRST_WORD on.
CT, PRESCRIPTION, FIRST_WORD = 0, 1, 2

# With axes (z, y, x) in LPS orientation, which planning never transposes.
HEAD_FEET_AXIS, FRONT_BACK_AXIS, LEFT_RIGHT_AXIS = 0, 1, 2


@dataclass(frozen=True)
class DosePlans:
    """The ``cdm`` section of plans, with the stock entries that it depends on checked.

    Attributes:
        plans: The whole plans, as nnU-Net stores them.
    """

    plans: Mapping[str, Any]

    def __post_init__(self) -> None:
        where = f"plans '{self.plans.get('plans_name')}'"
        again = f"run: {plan_command(self.plans)}"
        if "cdm" not in self.plans:
            raise InputError(
                f"{where} were not made by this software (planner '{self.plans.get('experiment_planner_used')}'): with "
                f"them nnU-Net would treat ROI bits as an image and dose as labels; {again}"
            )
        cdm_section(self.plans, where)
        typed(self.plans, PlansEntries, where, again)
        expected = {
            "image_reader_writer": (READER_NAME,),
            "label_manager": _LABEL_MANAGERS,
            "transpose_forward": ([0, 1, 2],),
        }
        for key, values in expected.items():
            if self.plans.get(key) not in values:
                raise InputError(f"{where} have {key} = {self.plans.get(key)}, expected {values[0]}; {again}")
        for name, configuration in self.plans["configurations"].items():
            if configuration.get("preprocessor_name") != PREPROCESSOR_NAME:
                raise InputError(f"configuration '{name}' of {where} is not for dose prediction; {again}")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The ROI catalogue."""
        return Catalogue.from_json(self.plans["cdm"]["catalogue"])

    @cached_property
    def template(self) -> Template:
        """The clinical template."""
        return Template.from_json(self.plans["cdm"]["template"], f"plans '{self.plans.get('plans_name')}': template")

    @property
    def dose_scale_gy(self) -> float:
        """Dose that corresponds to a network output of 1, Gy."""
        return float(self.plans["cdm"]["dose_scale_gy"])

    @property
    def n_channels(self) -> int:
        """Channels of preprocessed data: CT, prescription and the ROI words."""
        return FIRST_WORD + self.catalogue.n_words

    @property
    def ct_statistics(self) -> Mapping[str, float]:
        """Intensity statistics of the CT inside the dose region, as nnU-Net's CT normalisation uses them."""
        statistics: Mapping[str, float] = self.plans["foreground_intensity_properties_per_channel"]["0"]
        return statistics

    @property
    def padding(self) -> tuple[float, ...]:
        """Value outside the image for each preprocessed channel: air, no prescription, no ROI."""
        air = (self.ct_statistics["percentile_00_5"] - self.ct_statistics["mean"]) / max(
            self.ct_statistics["std"], 1e-8
        )
        return (air, *[0.0] * (self.n_channels - 1))

    def digest(self, configuration: str) -> str:
        """Digest of everything that preprocessed data of a configuration depend on.

        Data with another digest were made with other plans and must not be trained on.
        """
        settings = self.plans["configurations"][configuration]
        basis = {
            "catalogue": self.plans["cdm"]["catalogue"],
            "dose_scale_gy": self.dose_scale_gy,
            "ct_statistics": dict(self.ct_statistics),
            "spacing": settings["spacing"],
            "format_version": self.plans["cdm"]["format_version"],
            "preprocessing": _PREPROCESSING_VERSION,
        }
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]


def model_plans(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Plans for the folder of a trained model.

    nnUNetv2_predict asks for the label manager before it imports the trainer, and with it this package. So these plans
    name nnU-Net's own, which does nothing here; after the import, our plans use ours, whatever they name.
    """
    return {**plans, "label_manager": _LABEL_MANAGERS[1]}


def plan_command(plans: Mapping[str, Any]) -> str:
    """The command that makes plans of this data set and name."""
    number, name = dataset_number(str(plans.get("dataset_name", ""))) or "ID", plans.get("plans_name")
    return f"cdm-nnunet plan -d {number}" + ("" if name in (None, DEFAULT_PLANS) else f" -p {name}")
