"""Record of a new patient: ``CASE.patient.json`` beside a predicted dose. ``docs/new_patient.md`` describes it.

Its name is not ``CASE.json``: nnU-Net writes ``dataset.json`` and ``plans.json`` into the same folder, and a case of
that name would overwrite them. ``CASE.prediction.json`` states how the dose was made; this record evaluates it.
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
        value: Its value, in ``unit``.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        mask_error: Change of the metric if the ROI's surface moves by half a voxel, in ``unit``
            (``docs/conventions.md``, "Mask error"); None if it is not defined.
        spread: Standard deviation over the folds, in ``unit``; None without a calibration.
        interval: Interval in which the value of the planned dose is expected, in ``unit``; None without a calibration,
            or if it had too few cases for the metric.
    """

    value: Finite
    unit: MetricUnit
    mask_error: NonNegative | None = None
    spread: NonNegative | None = None
    interval: tuple[Finite, Finite] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatientGoal(LimitedGoal):
    """A goal with a limit, and the verdict on the predicted dose.

    Attributes:
        verdict: Verdict on the predicted dose.
        certainty: The verdict that holds over the whole interval of the metric, or ``uncertain``; None without an
            interval.
        within_mask_error: Whether the value lies closer to a limit than the metric's mask error.
        is_converted: Whether limits were converted to the fractionation of the course.
        reason: Why there is no verdict; None if there is one.
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
        matched_by: How that name matches the template: as its name, an alias, or a regular expression.
        metrics: DVH metrics by key.
        goals: The goals with a limit.
        cut_by_grid: Whether it touches the border of the dose grid, so that a part may be missing.
        outside_region_percent: Percentage of its voxels outside the dose region; None without a dose region.
        indices: Plan indices of a target with a prescription, by name; None for one that is not defined.
        index_targets: Names in the catalogue of the targets that the plan indices take together.
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
    """Basis of the intervals.

    Attributes:
        nominal_percent: Nominal coverage: percentage of values of planned doses that should lie in their intervals.
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
        label: States that the numbers are a prediction.
        software_version: Version of this software that wrote it.
        case: Case name.
        dose_file: Name of the predicted dose's file.
        dose_sha256: Its digest.
        model: The model that made the dose; None if unknown.
        template: Name of the clinical template.
        prescriptions_gy: Prescription of each target by its name in the catalogue, Gy.
        fractions: Number of fractions; None if unknown.
        applicability: Whether the model applies to the patient; None if unknown.
        notes: Limitations of the numbers and unusual properties of the patient, in sentences.
        intervals: Basis of the intervals; None without a calibration.
        missing: ROIs of the template that are absent, with the reason.
        undefined: Metrics that are not defined for a present ROI, as ``ROI METRIC``, with the reason.
        rois: ROIs of the template that are present, by the template's names.
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
        """The record with added notes, without repeating any."""
        return dataclasses.replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))
