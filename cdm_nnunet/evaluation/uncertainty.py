"""Intervals for DVH metrics from the spread of an ensemble, by split conformal prediction.

Definitions: ``docs/conventions.md``, "Uncertainty".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cdm_nnunet.counting import counted
from cdm_nnunet.dvh import MetricUnit
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.record import Calibration, CaseResult, Evaluation, TermCalibration
from cdm_nnunet.evaluation.roi_record import Certainty, GoalResult, MetricResult, RoiResult
from cdm_nnunet.evaluation.score_record import Coverage, Share

SPREAD_FLOOR: Mapping[MetricUnit, float] = {"Gy": 0.1, "%": 0.1, "cc": 0.1, "": 0.001}
MIN_MEMBERS = 2


def fit_calibration(evaluation: Evaluation, nominal_percent: float = 90.0) -> Calibration:
    """Fit a calibration of intervals on an evaluation with members, on cases that none was trained on.

    Args:
        evaluation: Evaluation with the same number of members and options as the calibrated predictions.
        nominal_percent: Nominal coverage, above 0 and below 100.

    Raises:
        InputError: If the evaluation has no members, or fewer cases than the coverage needs.
    """
    needed = cases_needed(nominal_percent)
    if evaluation.n_members < MIN_MEMBERS:
        raise InputError("the evaluation to calibrate on has no spread; make it with --members")
    if len(evaluation.cases) < needed:
        raise InputError(
            f"intervals of {nominal_percent:g} % need at least {counted(needed, 'case')} to calibrate on, "
            f"and there are {len(evaluation.cases)}; add cases or ask for less coverage"
        )
    scores: dict[str, list[float]] = {}
    for case in evaluation.cases:
        for term, metric in _terms(case):
            if metric.spread is not None:
                scores.setdefault(term, []).append(abs(metric.difference) / _width(metric))
    terms = {
        term: TermCalibration(n=len(found), quantile=conformal_quantile(found, nominal_percent))
        for term, found in scores.items()
    }
    return Calibration(
        nominal_percent=nominal_percent, n_cases=len(evaluation.cases), dataset=evaluation.dataset, terms=terms
    )


def with_intervals(case: CaseResult, calibration: Calibration) -> CaseResult:
    """The case with an interval for every calibrated metric, and the certainty of its goals."""
    return replace(case, rois={name: roi_with_intervals(name, roi, calibration) for name, roi in case.rois.items()})


def roi_with_intervals(name: str, roi: RoiResult, calibration: Calibration) -> RoiResult:
    """An ROI with an interval for every calibrated metric, and the certainty of its goals.

    Args:
        name: Name of the ROI in the template.
        roi: The ROI, with the spread of its metrics.
        calibration: Calibration with the same template.
    """
    metrics = {
        key: _with_interval(metric, calibration.terms.get(f"{name} {key}")) for key, metric in roi.metrics.items()
    }
    goals = tuple(_with_certainty(goal, metrics[goal.metric]) for goal in roi.goals)
    return replace(roi, metrics=metrics, goals=goals)


def _with_interval(metric: MetricResult, calibrated: TermCalibration | None) -> MetricResult:
    if metric.spread is None or calibrated is None or calibrated.quantile is None:
        return metric
    half = calibrated.quantile * _width(metric)
    highest = 100.0 if metric.unit == "%" else math.inf
    return replace(metric, interval=(max(0.0, metric.predicted - half), min(highest, metric.predicted + half)))


def refuse_unfit(calibrated_on: Evaluation, evaluation: Evaluation) -> None:
    """Check that a calibration on one evaluation may be used for another.

    Raises:
        InputError: If templates or the number of members differ, or a case is in both.
    """
    if calibrated_on.template != evaluation.template:
        raise InputError(
            f"the calibration was made with another template ('{calibrated_on.template.name}') than this evaluation "
            f"('{evaluation.template.name}'); make it with the same"
        )
    if calibrated_on.n_members != evaluation.n_members:
        raise InputError(
            f"the calibration was made with {calibrated_on.n_members} members, this evaluation has "
            f"{evaluation.n_members}; use the same models in both"
        )
    known: set[str] = set()
    if calibrated_on.dataset == evaluation.dataset:
        known = {name for case in calibrated_on.cases for name in (case.case, case.patient or case.case)}
    both = [case.case for case in evaluation.cases if {case.case, case.patient or case.case} & known]
    if both:
        raise InputError(
            f"case '{both[0]}' ({len(both)} in all) is among the cases of the calibration, or of a patient who is: its "
            "interval would be too narrow; calibrate on other patients, or choose cases with --case"
        )


def cases_needed(nominal_percent: float) -> int:
    """The fewest cases with which split conformal prediction can guarantee a coverage.

    Raises:
        InputError: If the coverage is not above 0 and below 100 %.

    Example:
        >>> cases_needed(90), cases_needed(95)
        (9, 19)
    """
    if not 0 < nominal_percent < 100:
        raise InputError(f"coverage must lie above 0 and below 100 %, not {nominal_percent:g}")
    return math.ceil(nominal_percent / (100 - nominal_percent) - 1e-9)


def conformal_quantile(scores: Sequence[float], nominal_percent: float) -> float | None:
    """The nonconformity score that a new case exceeds with a probability of at most 100 % - nominal.

    It is the k-th smallest of n with k = ceil((n + 1) nominal / 100); None if k is above n.

    References:
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005); Lei et al., JASA 113 (2018).

    Example:
        >>> conformal_quantile([3.0, 1.0, 2.0, 4.0], 80), conformal_quantile([3.0, 1.0, 2.0], 80)
        (4.0, None)
    """
    k = math.ceil((len(scores) + 1) * nominal_percent / 100 - 1e-9)
    return sorted(scores)[k - 1] if k <= len(scores) else None


def coverage(cases: Sequence[CaseResult], nominal_percent: float) -> Coverage:
    """Observed coverage of the intervals, over all metrics with intervals and by metric."""
    hits: dict[str, list[bool]] = {}
    for case in cases:
        for term, metric in _terms(case):
            if metric.interval is not None:
                low, high = metric.interval
                hits.setdefault(term, []).append(low <= metric.reference <= high)
    pooled = _share([hit for found in hits.values() for hit in found])
    return Coverage(
        nominal_percent=nominal_percent,
        observed_percent=pooled.observed_percent,
        n=pooled.n,
        by_metric={term: _share(found) for term, found in hits.items()},
    )


def _share(hits: Sequence[bool]) -> Share:
    return Share(observed_percent=100.0 * sum(hits) / len(hits) if hits else None, n=len(hits))


def _terms(case: CaseResult) -> Iterator[tuple[str, MetricResult]]:
    for name, roi in case.rois.items():
        for key, metric in roi.metrics.items():
            yield f"{name} {key}", metric


def _width(metric: MetricResult) -> float:
    """The spread of members, with a floor: members that agree, such as on a V95% of 100 %, may all be wrong."""
    return (metric.spread or 0.0) + SPREAD_FLOOR[metric.unit]


def _with_certainty(result: GoalResult, metric: MetricResult) -> GoalResult:
    return replace(result, certainty=certainty_of(result, metric))


def certainty_of(result: GoalResult, metric: MetricResult) -> Certainty | None:
    """The verdict that holds over the whole interval of a goal's metric; None without one, or if no verdict applies."""
    if metric.interval is None or not result.is_evaluable:
        return None
    low, high = map(result.judge, metric.interval)
    return low if low == high else "uncertain"
