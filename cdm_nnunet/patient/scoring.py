"""Metrics and verdicts of a predicted dose that has no reference.

The dose is paired with itself, so that the evaluation's own code gives metrics, verdicts and limits: for the same dose,
ROIs and prescriptions they equal the predicted ones of ``cdm-nnunet evaluate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdm_nnunet.dataset import CaseRecord
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pairing import CaseFiles, load_pair
from cdm_nnunet.evaluation.record import Calibration
from cdm_nnunet.evaluation.roi_record import GoalResult, MetricResult, RoiResult
from cdm_nnunet.evaluation.scores import course_notes, score_rois
from cdm_nnunet.evaluation.uncertainty import roi_with_intervals
from cdm_nnunet.patient.record import IntervalBasis, PatientGoal, PatientMetric, PatientRecord, PatientRoi
from cdm_nnunet.prediction_record import Applicability, Made
from cdm_nnunet.roi import Catalogue

WITHOUT_INTERVALS = (
    "no calibration was given (--calibrate): it is unknown how far the planned dose may be from these values"
)


@dataclass(frozen=True)
class NewDose:
    """A predicted dose of a patient, with known facts.

    Attributes:
        files: The dose (NIfTI) as ``predicted``, and its patient; the dose of each fold as ``members``.
        delivered: Name of the dose's file next to the record, and its SHA-256.
        model: Origin of the dose; None if unknown.
        names: ROIs as named in the patient's structure set, by their names in the catalogue.
        notes: Known unusual properties, in sentences.
        applicability: Whether the model applies to the patient; None if unknown.
    """

    files: CaseFiles
    delivered: tuple[str, str]
    model: Made | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    applicability: Applicability | None = None


def files_of_new(
    case: str, dose: Path, images: tuple[Path, Path], catalogue: Catalogue, known: CaseRecord, members: Sequence[Path]
) -> CaseFiles:
    """A predicted dose without a reference, paired with itself.

    Args:
        case: Name of the case.
        dose: The dose (NIfTI).
        images: CT and ROI masks.
        catalogue: Catalogue of the mask bits.
        known: Known facts of the patient.
        members: Folders with the dose of each fold.
    """
    return CaseFiles(
        case,
        dose,
        dose,
        *images,
        catalogue,
        known.spacing_mm,
        known.rois,
        known.prescriptions_gy,
        tuple(folder / dose.name for folder in members),
        known.source.get("patient", ""),
        known.fractions,
    )


def describe_dose(dose: NewDose, template: Template, calibration: Calibration | None = None) -> PatientRecord:
    """Compute every metric and goal of a template for a predicted dose.

    Args:
        dose: The dose; its members are needed with a calibration.
        template: Template; its goals with the use ``evaluation`` select the metrics.
        calibration: Converts the spread of the members to intervals; None for no intervals.

    Raises:
        InputError: If dose or ROI masks can't be used, or a present target lacks the prescription that a metric needs.
    """
    pair = load_pair(replace(dose.files, reference=dose.files.predicted))
    scored = score_rois(pair, template)
    rois = scored.rois
    if calibration is not None:
        rois = {name: roi_with_intervals(name, roi, calibration) for name, roi in rois.items()}
    name, digest = dose.delivered
    return PatientRecord(
        case=pair.case,
        dose_file=name,
        dose_sha256=digest,
        model=dose.model,
        template=template.name,
        prescriptions_gy={roi: float(gy) for roi, gy in pair.prescriptions_gy.items()},
        fractions=pair.fractions,
        applicability=dose.applicability,
        notes=(*dose.notes, *course_notes(pair, template), *([WITHOUT_INTERVALS] if calibration is None else ())),
        intervals=None if calibration is None else _basis(calibration, len(dose.files.members)),
        missing=scored.missing,
        undefined=scored.undefined,
        rois={roi: _of_roi(result, dose.names) for roi, result in rois.items()},
    )


def _basis(calibration: Calibration, n_members: int) -> IntervalBasis:
    return IntervalBasis(
        nominal_percent=calibration.nominal_percent,
        n_cases=calibration.n_cases,
        n_members=n_members,
        dataset=calibration.dataset,
    )


def _of_roi(result: RoiResult, names: Mapping[str, str]) -> PatientRoi:
    return PatientRoi(
        kind=result.kind,
        name=names.get(result.source, result.source),
        source=result.source,
        matched_by=result.matched_by,
        n_voxels=result.n_voxels,
        volume_cc=result.volume_cc,
        prescription_gy=result.prescription_gy,
        metrics={key: _of_metric(metric) for key, metric in result.metrics.items()},
        goals=tuple(_of_goal(goal) for goal in result.goals),
        cut_by_grid=result.cut_by_grid,
        outside_region_percent=result.outside_region_percent,
        indices={name: index.predicted for name, index in result.indices.items()},
        index_targets=result.index_targets,
    )


def _of_metric(metric: MetricResult) -> PatientMetric:
    return PatientMetric(
        value=metric.predicted,
        unit=metric.unit,
        mask_error=metric.mask_error,
        spread=metric.spread,
        interval=metric.interval,
    )


def _of_goal(goal: GoalResult) -> PatientGoal:
    return PatientGoal(
        metric=goal.metric,
        relation=goal.relation,
        limit=goal.limit,
        variation=goal.variation,
        unit=goal.unit,
        priority=goal.priority,
        verdict=goal.predicted,
        certainty=goal.certainty,
        within_mask_error=goal.within_mask_error,
        is_converted=goal.is_converted,
        reason=goal.reason,
    )
