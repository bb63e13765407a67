"""The result record: what an evaluation found, as frozen data with one JSON form that all tables and reports render.

``docs/evaluation.md`` describes the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field

from cdm_nnunet import __version__
from cdm_nnunet.challenges import CHALLENGES, Terms
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.gamma import Normalisation
from cdm_nnunet.evaluation.roi_record import Count, Finite, NonNegative, Percent, Positive, RoiResult
from cdm_nnunet.prediction_record import Made

FORMAT_VERSION = 3
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Band:
    """The dose error between two isodoses of the reference; the highest has no upper end, an empty one no error."""

    from_percent: NonNegative
    to_percent: NonNegative | None
    n_voxels: Count
    mae_gy: NonNegative | None
    mean_signed_gy: Finite | None


@dataclass(frozen=True)
class GammaResult:
    """A gamma pass rate of a case.

    Attributes:
        dose_percent: Dose criterion, percent.
        distance_mm: Distance criterion, mm.
        local: Whether its percentage is of the dose in the voxel, not of the case's dose scale.
        threshold_percent: From which percentage of the normalisation dose on voxels are judged.
        normalisation: What 100 % is: the case's dose scale (``prescription``), or the ``maximum`` reference dose.
        n_voxels: Number of voxels that were judged.
        pass_percent: Share of them with gamma at most 1; None where there was none to judge.
    """

    dose_percent: Positive
    distance_mm: Positive
    local: bool
    threshold_percent: Positive
    normalisation: Normalisation
    n_voxels: Count
    pass_percent: Percent | None


@dataclass(frozen=True)
class DoseResult:
    """How the two doses of a case differ, apart from ROIs.

    Attributes:
        scale_gy: What percentages refer to: the case's highest prescription, else the highest reference dose, Gy.
        body_mae_gy: Mean absolute difference where the reference reaches 5 Gy in the body; None for nowhere.
        body_n_voxels: Number of these voxels.
        bands: Dose error by isodose band of the reference.
        isodose_dice: Dice of the isodose volumes by level in percent of the scale, as text; None where both are empty.
        gamma: Pass rates, where they were asked for.
    """

    scale_gy: NonNegative
    body_mae_gy: NonNegative | None
    body_n_voxels: Count
    bands: tuple[Band, ...]
    isodose_dice: Mapping[str, Annotated[float, Field(ge=0, le=1)] | None]
    gamma: tuple[GammaResult, ...] = ()


@dataclass(frozen=True)
class CaseResult:
    """The result of one case.

    Attributes:
        case: Case name.
        dose_mae_gy: Mean absolute difference in the dose region, Gy (``docs/conventions.md``, "Dose region").
        rois: ROIs of the template that are present.
        missing: ROIs of the template that are not, with the reason; they enter no score.
        dose: The doses apart from ROIs.
        challenges: What the case adds to the scores of each public challenge that it is of the data of, by its name; in
            JSON, each known challenge has a key of its own.
        undefined: Metrics that a present ROI can't have, as ``"ROI METRIC"``, with the reason; they enter no score,
            and their goals are neither met nor missed.
        patient: The patient, as the conversion knew it; several cases may be of one.
        prescription_gy: Highest prescription of the plan, Gy; None where there is none.
        fractions: Number of fractions; None where it is unknown.
        notes: What limits the verdicts of the case, in sentences.
    """

    case: str
    dose_mae_gy: NonNegative
    rois: Mapping[str, RoiResult]
    missing: Mapping[str, str] = field(default_factory=dict)
    dose: DoseResult | None = None
    challenges: Mapping[str, Terms] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""
    prescription_gy: Positive | None = None
    fractions: Annotated[int, Field(ge=1)] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON form in the record."""
        return {
            "patient": self.patient,
            "prescription_gy": self.prescription_gy,
            "fractions": self.fractions,
            "notes": list(self.notes),
            "dose_mae_gy": self.dose_mae_gy,
            "dose": None if self.dose is None else _plain(asdict(self.dose)),
            **{challenge.name: self.challenges.get(challenge.name) for challenge in CHALLENGES},
            "missing": dict(self.missing),
            "undefined": dict(self.undefined),
            "rois": {name: roi.to_json() for name, roi in self.rois.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a set of predictions.

    Attributes:
        dataset: Name of the data set.
        template: The clinical template.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_dataset_cases: Number of cases of the data set, evaluated or not.
        cases: The evaluated cases, in order of names.
        scores: As :func:`cdm_nnunet.evaluation.pooling.pooled_scores` gives them.
        n_members: Number of members whose spread was taken; 0 without.
        calibration: What intervals rest on, as :meth:`cdm_nnunet.evaluation.uncertainty.Calibration.to_json` says it.
        software_version: Version of this software that made it.
        model: What the predictions were made with, by their records; None where it is not known.
        notes: What is not known of the predictions, in sentences.
        left_out: Cases that have a prediction and could not be scored, with the reason; no mean counts them.
    """

    dataset: str
    template: Template
    dose_region: str | None
    n_dataset_cases: int
    cases: tuple[CaseResult, ...]
    scores: Mapping[str, Any]
    n_members: int = 0
    calibration: Mapping[str, Any] | None = None
    software_version: str = __version__
    model: Made | None = None
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "software": {"cdm_nnunet": self.software_version},
            "dataset": self.dataset,
            "template": self.template.name,
            "template_definition": self.template.to_json(),
            "dose_region": self.dose_region,
            "n_cases": len(self.cases),
            "n_dataset_cases": self.n_dataset_cases,
            "n_members": self.n_members,
            "model": None if self.model is None else asdict(self.model),
            "notes": list(self.notes),
            "left_out": dict(self.left_out),
            "calibration": self.calibration,
            "scores": dict(self.scores),
            "cases": {case.case: case.to_json() for case in self.cases},
        }


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}
