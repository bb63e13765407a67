"""Scores of a predicted dose against its reference; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import (
    Goal,
    Metric,
    RoiMatch,
    Template,
    TemplateRoi,
    dvh_distance_gy,
    match_rois,
)
from cdm_nnunet.dvh.course_limits import limits_in_course
from cdm_nnunet.dvh.regime import Regime
from cdm_nnunet.dvh.values import VoxelDoses, defined_values
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.challenge_case import challenge_terms
from cdm_nnunet.evaluation.doses import compare_doses, dose_region_name
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.judging import MissingDose, judge_goal
from cdm_nnunet.evaluation.limits import mask_error, roi_surface
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.plan_metrics import PRESCRIPTION_TOLERANCE_GY, PlanTarget
from cdm_nnunet.evaluation.record import CaseResult
from cdm_nnunet.evaluation.roi_record import GoalResult, MetricResult, RoiResult
from cdm_nnunet.evaluation.rois import CaseRois, RoiVoxels


@dataclass(frozen=True)
class ScoredRois:
    """Results of a template's goals for a case, without the rest of the dose.

    Attributes:
        missing: ROIs of the template that are absent, with the reason.
        undefined: Metrics that are not defined for a present ROI, as ``ROI METRIC``, with the reason.
        rois: ROIs of the template that are present, by its names.
    """

    missing: Mapping[str, str]
    undefined: Mapping[str, str]
    rois: Mapping[str, RoiResult]


def score_case(pair: DosePair, template: Template, *, gamma: Sequence[GammaRule] = ()) -> CaseResult:
    """Evaluate one case.

    Args:
        pair: The doses and ROI masks of the case.
        template: Template; its goals with the use ``evaluation`` select the metrics.
        gamma: Gamma criteria to compute; they take most of the time.

    Raises:
        InputError: If the dose region is empty, or a present target lacks the prescription that a metric needs.
    """
    voxels = CaseRois(pair)
    scored = score_rois(pair, template, voxels)
    dose_mae_gy, dose = compare_doses(pair, gamma=gamma)
    return CaseResult(
        case=pair.case,
        patient=pair.patient or pair.case,
        prescription_gy=pair.course.prescription_gy,
        fractions=pair.course.fractions,
        notes=course_notes(pair, template),
        dose_mae_gy=dose_mae_gy,
        dose=dose,
        challenges=challenge_terms(pair, voxels),
        missing=scored.missing,
        undefined=scored.undefined,
        rois=scored.rois,
    )


def course_notes(pair: DosePair, template: Template) -> tuple[str, ...]:
    """Unknown facts of a case's course of treatment that limit its verdicts, in sentences."""
    return () if template.regime is None else tuple(template.regime.unknown(pair.course))


def score_rois(pair: DosePair, template: Template, voxels: CaseRois | None = None) -> ScoredRois:
    """The metrics and goals of a case.

    Args:
        pair: The doses and ROI masks of the case.
        template: Template; its goals with the use ``evaluation`` select the metrics.
        voxels: The ROIs of the pair, if already cut out.

    Raises:
        InputError: If a present target lacks the prescription that a metric needs.
    """
    rois: dict[str, RoiResult] = {}
    missing: dict[str, str] = {}
    undefined: dict[str, str] = {}
    matched = match_rois(template, pair.catalogue)
    goals: dict[str, list[Goal]] = {}
    for goal in template.goals_for("evaluation"):
        goals.setdefault(goal.roi, []).append(goal)
    voxels = CaseRois(pair) if voxels is None else voxels
    for name, roi_goals in goals.items():
        match = matched.get(name)
        found = None if match is None else voxels.get(match.source)
        if match is None:
            missing[name] = "not in the data set"
        elif found is None:
            missing[name] = "no voxel on the dose grid" if match.source in pair.contoured else "not contoured"
        else:
            rois[name], reasons = _score_roi(pair, voxels, template, name, match, found, roi_goals)
            undefined |= {f"{name} {metric}": reason for metric, reason in reasons.items()}
    return ScoredRois(missing, undefined, rois)


class _RoiScorer:
    """The metrics of one present ROI."""

    def __init__(
        self,
        pair: DosePair,
        voxels: RoiVoxels,
        target: PlanTarget,
        prescription_gy: float | None,
        regime: Regime | None,
    ) -> None:
        self._pair = pair
        self._regime = regime
        self._voxels = voxels
        self._target = target
        self._prescription_gy = prescription_gy
        self._surface = roi_surface(pair.reference_dose_gy, voxels.mask, voxels.box)

    def metrics(self, wanted: Sequence[Metric]) -> tuple[dict[str, MetricResult], dict[str, str]]:
        """The metrics by key, and the reasons for those that are not defined in some dose."""
        pair, voxels = self._pair, self._voxels
        of_roi = [metric for metric in wanted if not metric.of_plan]
        by_dose = [self._defined(of_roi, gy) for gy in (voxels.reference_gy, voxels.predicted_gy, *voxels.members_gy)]
        for metric in (metric for metric in wanted if metric.of_plan):
            doses = (pair.reference_dose_gy, pair.predicted_dose_gy, *pair.member_doses_gy)
            for (values, reasons), dose_gy in zip(by_dose, doses, strict=True):
                value = self._target.value(metric, dose_gy)
                if value is None:
                    reasons[metric] = metric.row.undefined
                else:
                    values[metric] = value
        undefined = {metric: reason for _, reasons in reversed(by_dose) for metric, reason in reasons.items()}
        defined = [metric for metric in wanted if metric not in undefined]
        found = self._results(defined, [[values[metric] for metric in defined] for values, _ in by_dose])
        return found, {str(metric): undefined[metric] for metric in wanted if metric in undefined}

    def _results(self, wanted: Sequence[Metric], values: Sequence[Sequence[float]]) -> dict[str, MetricResult]:
        reference, predicted, *members = values
        spreads = np.std(members, axis=0, ddof=1).tolist() if members else [None] * len(wanted)
        return {
            str(metric): MetricResult(
                reference=a, predicted=b, unit=metric.unit, mask_error=self._mask_error(metric, a), spread=spread
            )
            for metric, a, b, spread in zip(wanted, reference, predicted, spreads, strict=True)
        }

    def judge(self, goal: Goal, metric: MetricResult, missing: MissingDose | None) -> GoalResult:
        """The verdicts of both doses on a goal with a limit."""
        limits = limits_in_course(goal, self._regime, self._pair.course, self._prescription_gy)
        return judge_goal(goal, limits, metric, self._value_or_none, None if goal.metric.of_plan else missing)

    def _value_or_none(self, metric: Metric, roi_dose_gy: NDArray[np.floating]) -> float | None:
        """The metric of a part of the ROI; None if it is not defined."""
        values, _ = self._defined([metric], roi_dose_gy)
        return values.get(metric)

    def _defined(
        self, metrics: Sequence[Metric], roi_dose_gy: NDArray[np.floating]
    ) -> tuple[dict[Metric, float], dict[Metric, str]]:
        doses = VoxelDoses.of(roi_dose_gy, self._pair.voxel_volume_cc, self._prescription_gy)
        return defined_values(metrics, doses)

    def _mask_error(self, metric: Metric, value: float) -> float | None:
        doses = VoxelDoses(self._voxels.reference_gy, self._pair.voxel_volume_cc, self._prescription_gy)
        return mask_error(metric, value, self._surface, doses)


def _score_roi(
    pair: DosePair,
    voxels: CaseRois,
    template: Template,
    name: str,
    match: RoiMatch,
    found: RoiVoxels,
    goals: Sequence[Goal],
) -> tuple[RoiResult, dict[str, str]]:
    """The result, and the reasons for undefined metrics."""
    roi = template.roi(name)
    prescription_gy = _prescription_gy(pair, roi, match.source)
    target = PlanTarget(pair, match.source, prescription_gy)
    scorer = _RoiScorer(pair, found, target, prescription_gy, template.regime)
    missing = _missing_dose(pair, voxels, found)
    metrics, reasons = scorer.metrics([goal.metric for goal in goals])
    judged = [goal for goal in goals if goal.has_limit and str(goal.metric) in metrics]
    result = RoiResult(
        kind=roi.kind,
        n_voxels=found.n,
        volume_cc=found.n * pair.voxel_volume_cc,
        prescription_gy=prescription_gy,
        metrics=metrics,
        goals=tuple(scorer.judge(goal, metrics[str(goal.metric)], missing) for goal in judged),
        cut_by_grid=found.cut_by_grid,
        outside_region_percent=_outside_region_percent(pair, voxels, found),
        dvh_distance_gy=dvh_distance_gy(found.reference_gy, found.predicted_gy),
        indices=target.indices(),
        source=match.source,
        matched_by=match.by,
        index_targets=() if prescription_gy is None else target.joined,
    )
    return result, reasons


def _outside_region_percent(pair: DosePair, rois: CaseRois, voxels: RoiVoxels) -> float | None:
    region = dose_region_name(pair.catalogue)
    if region is None:
        return None
    n_outside = np.count_nonzero(voxels.mask & ~rois.mask(region, voxels.box))
    return 100.0 * float(n_outside) / voxels.n


def _missing_dose(pair: DosePair, rois: CaseRois, voxels: RoiVoxels) -> MissingDose | None:
    """The part of an ROI outside a dose region. An external is not one: dose outside it is part of the plan."""
    bit = pair.catalogue.dose_region_bit
    if bit is None:
        return None
    region = rois.mask(pair.catalogue.names[bit], voxels.box)[voxels.mask]
    n_outside = int(np.count_nonzero(~region))
    if not n_outside:
        return None
    doses = (pair.reference_dose_gy, pair.predicted_dose_gy)
    reference_gy, predicted_gy = (np.sort(dose[voxels.box][voxels.mask][region]) for dose in doses)
    highest_gy = (float(doses[0].max()), float(doses[1].max()))
    return MissingDose(100.0 * n_outside / voxels.n, (reference_gy, predicted_gy), highest_gy, n_outside)


def _prescription_gy(pair: DosePair, roi: TemplateRoi, source_name: str) -> float | None:
    if roi.prescription_gy is None:
        return None
    own = pair.prescriptions_gy.get(source_name)
    if roi.prescription_gy == "patient":
        if own is None:
            raise InputError(f"case '{pair.case}': target '{source_name}' is present, but its prescription is unknown")
        return float(own)
    if own is not None and abs(own - roi.prescription_gy) > PRESCRIPTION_TOLERANCE_GY:
        raise InputError(
            f"case '{pair.case}': target '{source_name}' is prescribed {own:g} Gy, the template says "
            f"{roi.prescription_gy:g} Gy; a template for prescriptions that differ says 'patient'"
        )
    return roi.prescription_gy
