"""Record of a new patient: ``CASE.patient.json`` beside a predicted dose. ``docs/new_patient.md`` describes it.

It is no ``CASE.json``: nnU-Net writes ``dataset.json`` and ``plans.json`` into the same folder, which a case of that
name would replace, and ``CASE.prediction.json`` says how the dose was made, not what it means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cdm_nnunet import __version__
from cdm_nnunet.documents import STRICT, plain, read_json
from cdm_nnunet.dvh import MetricUnit
from cdm_nnunet.dvh.matching import By
from cdm_nnunet.evaluation.roi_record import (
    Certainty,
    Count,
    Finite,
    LimitedGoal,
    NonNegative,
    Percent,
    Positive,
    PresentRoi,
    RecordedVerdict,
)
from cdm_nnunet.files import write_json
from cdm_nnunet.prediction_record import Applicability, Made

FORMAT_VERSION: Literal[1] = 1
LABEL: Literal["PREDICTED, NOT FOR TREATMENT"] = "PREDICTED, NOT FOR TREATMENT"
PATIENT_ENDING = ".patient.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientMetric:
    """A DVH metric of the predicted dose.

    Attributes:
        value: In ``unit``.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        mask_error: What half a voxel of the ROI's surface is worth, in ``unit`` (``docs/conventions.md``, "Mask
            error"); None where it is not defined.
        spread: Standard deviation over the folds, in ``unit``; None without a calibration.
        interval: Where the value of the planned dose is expected, in ``unit``; None without a calibration, or where
            it had too few cases for the metric.
    """

    value: Finite
    unit: MetricUnit
    mask_error: NonNegative | None = None
    spread: NonNegative | None = None
    interval: tuple[Finite, Finite] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientGoal(LimitedGoal):
    """A goal with a limit, and how the predicted dose stands to it.

    Attributes:
        verdict: On the predicted dose.
        certainty: The verdict that holds over the whole interval of the metric, or ``uncertain``; None without one.
        within_mask_error: Whether the value is closer to a limit than the metric's mask error.
        is_converted: Whether limits were converted to the fractionation of the course.
        reason: Why there is no verdict; None where there is one.
    """

    verdict: RecordedVerdict
    certainty: Certainty | None = None
    within_mask_error: bool = False
    is_converted: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientRoi(PresentRoi):
    """An ROI that the patient has.

    Attributes:
        name: Its name in the patient's structure set; without one, in the model's catalogue.
        source: Its name in the model's catalogue.
        matched_by: Whether that is the template's name, an alias, or fits an expression.
        metrics: By metric key.
        goals: The goals with a limit.
        cut_by_grid: Whether it touches the border of the dose grid, so that a part may be missing.
        outside_region_percent: Share of it outside the dose region, percent; None without a dose region.
        indices: Plan indices of a target with a prescription, by name; None where one is not defined.
        index_targets: Names in the catalogue of the targets that the plan indices are of together.
    """

    name: str
    source: str
    matched_by: By
    metrics: Mapping[str, PatientMetric]
    goals: tuple[PatientGoal, ...] = ()
    cut_by_grid: bool = False
    outside_region_percent: Percent | None = None
    indices: Mapping[str, NonNegative | None] = field(default_factory=dict)
    index_targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IntervalBasis:
    """What the intervals rest on.

    Attributes:
        nominal_percent: Share of the planned doses' values that the intervals are to hold, percent.
        n_cases: Number of calibration cases.
        n_members: Number of folds whose spread was taken.
        dataset: Data set of the calibration cases.
    """

    nominal_percent: Percent
    n_cases: Count
    n_members: Count
    dataset: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientRecord:
    """The content of ``CASE.patient.json``.

    Attributes:
        format_version: Version of this format.
        label: What the numbers are.
        software_version: Version of this software that wrote it.
        case: Case name.
        dose_file: Name of the predicted dose's file.
        dose_sha256: Its digest.
        model: What made the dose; None where it is not known.
        template: Name of the clinical template.
        prescriptions_gy: Prescription of each target by its name in the catalogue, Gy.
        fractions: Number of fractions; None where it is unknown.
        applicability: Whether the model applies to the patient; None where it is not known.
        notes: What limits the numbers or is unusual about the patient, in sentences.
        intervals: What the intervals rest on; None where no calibration was given.
        missing: ROIs of the template that are absent, with the reason.
        undefined: Metrics that a present ROI can't have, as ``ROI METRIC``, with the reason.
        rois: ROIs of the template that are present, by its names.
    """

    format_version: Literal[1] = FORMAT_VERSION
    label: Literal["PREDICTED, NOT FOR TREATMENT"] = LABEL
    software_version: str = __version__
    case: str
    dose_file: str
    dose_sha256: str
    model: Made | None
    template: str
    prescriptions_gy: Mapping[str, Positive]
    fractions: Annotated[int, Field(ge=1)] | None
    applicability: Applicability | None
    notes: tuple[str, ...]
    intervals: IntervalBasis | None
    missing: Mapping[str, str]
    undefined: Mapping[str, str]
    rois: Mapping[str, PatientRoi]

    def write(self, folder: Path) -> Path:
        """Write ``CASE.patient.json`` into a folder, and return its path."""
        path = folder / (self.case + PATIENT_ENDING)
        write_json(path, plain(self))
        return path

    @classmethod
    def read(cls, path: Path) -> PatientRecord:
        """Read a record.

        Raises:
            InputError: If it is missing or damaged.
        """
        return read_json(path, cls, "predict the case again")

    def noted(self, *notes: str) -> PatientRecord:
        """The record with more notes; one that it has already is not repeated."""
        return dataclasses.replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))
