"""Scores over all cases; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import NamedTuple, TypeVar, get_args

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dvh import MetricUnit, Verdict
from cdm_nnunet.evaluation.record import Band, CaseResult, DoseResult, GammaResult
from cdm_nnunet.evaluation.roi_record import Certainty, GoalResult
from cdm_nnunet.evaluation.score_record import (
    BandScore,
    Difference,
    DoseScores,
    GammaScore,
    GoalCounts,
    KindParts,
    Mean,
    MetricDifference,
    Parts,
    Scores,
)
from cdm_nnunet.evaluation.uncertainty import coverage

SCORED_UNITS = ("Gy", "%")  # volumes in cc and HI are listed by metric, not pooled: they can't be compared with Gy
SCORED_KINDS = {"ptv_score": "target", "oar_score": "oar"}
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)
_Name = TypeVar("_Name", bound=str)


class _Term(NamedTuple):
    kind: str
    roi: str
    metric: str
    unit: MetricUnit
    difference: float


def pooled_scores(cases: Sequence[CaseResult], nominal_percent: float | None = None) -> Scores:
    """Scores over all cases, as ``docs/evaluation.md`` lists them.

    Args:
        cases: At least one.
        nominal_percent: Nominal coverage of the metrics' intervals; None without intervals.

    Returns:
        The scores. A mean without terms is None.
    """
    terms = [
        _Term(roi.kind, name, key, metric.unit, metric.difference)
        for case in cases
        for name, roi in case.rois.items()
        for key, metric in roi.metrics.items()
    ]
    target, oar = (_parts([term for term in terms if term.kind == kind]) for kind in SCORED_KINDS.values())
    return Scores(
        dose_mae_gy=fmean(case.dose_mae_gy for case in cases),
        challenges={
            challenge.name: challenge.over(case.challenges.get(challenge.name) for case in cases)
            for challenge in CHALLENGES
        },
        ptv_score=target.pooled.mean_absolute,
        oar_score=oar.pooled.mean_absolute,
        parts=Parts(target=target, oar=oar),
        dose=_doses([case.dose for case in cases if case.dose is not None]),
        dvh_distance_gy=_dvh_distances(cases),
        indices=_indices(cases),
        goals=_verdicts(cases),
        coverage=None if nominal_percent is None else coverage(cases, nominal_percent),
    )


def _summary(terms: Sequence[_Term]) -> Difference:
    return _differences([term.difference for term in terms])


def _differences(differences: Sequence[float]) -> Difference:
    if not differences:
        return Difference(mean_absolute=None, mean_signed=None, n=0)
    return Difference(mean_absolute=fmean(map(abs, differences)), mean_signed=fmean(differences), n=len(differences))


def _parts(terms: Sequence[_Term]) -> KindParts:
    pooled = [term for term in terms if term.unit in SCORED_UNITS]
    return KindParts(
        pooled=_summary(pooled),
        dose_gy=_summary([term for term in terms if term.unit == "Gy"]),
        volume_percent=_summary([term for term in terms if term.unit == "%"]),
        by_metric={
            metric: MetricDifference(unit=unit, **asdict(_summary([term for term in terms if term.metric == metric])))
            for metric, unit in dict.fromkeys((term.metric, term.unit) for term in terms)
        },
        by_roi={
            roi: _summary([term for term in pooled if term.roi == roi])
            for roi in dict.fromkeys(term.roi for term in pooled)
        },
    )


def _doses(doses: Sequence[DoseResult]) -> DoseScores | None:
    """Means over cases; bands, levels and criteria are the same in all cases."""
    if not doses:
        return None
    first = doses[0]
    return DoseScores(
        body_mae_gy=_mean([dose.body_mae_gy for dose in doses]),
        bands=tuple(_band(band, [dose.bands[i] for dose in doses]) for i, band in enumerate(first.bands)),
        isodose_dice={level: _mean([dose.isodose_dice[level] for dose in doses]) for level in first.isodose_dice},
        gamma=tuple(_gamma(rule, [dose.gamma[i] for dose in doses]) for i, rule in enumerate(first.gamma)),
    )


def _band(band: Band, of_cases: Sequence[Band]) -> BandScore:
    error = _mean([one.mae_gy for one in of_cases])
    return BandScore(from_percent=band.from_percent, to_percent=band.to_percent, mae_gy=error.mean, n=error.n)


def _gamma(rule: GammaResult, of_cases: Sequence[GammaResult]) -> GammaScore:
    passed = _mean([one.pass_percent for one in of_cases])
    return GammaScore(
        dose_percent=rule.dose_percent,
        distance_mm=rule.distance_mm,
        local=rule.local,
        threshold_percent=rule.threshold_percent,
        normalisation=rule.normalisation,
        mean_percent=passed.mean,
        n=passed.n,
    )


def _dvh_distances(cases: Iterable[CaseResult]) -> dict[str, Mean]:
    found: dict[str, list[float | None]] = {}
    for case in cases:
        for name, roi in case.rois.items():
            found.setdefault(name, []).append(roi.dvh_distance_gy)
    return {name: _mean(distances) for name, distances in found.items()}


def _indices(cases: Iterable[CaseResult]) -> dict[str, Difference]:
    found: dict[str, list[float]] = {}
    for case in cases:
        for roi in case.rois.values():
            for name, index in roi.indices.items():
                differences = found.setdefault(name, [])
                if index.reference is not None and index.predicted is not None:
                    differences.append(index.predicted - index.reference)
    return {name: _differences(differences) for name, differences in found.items()}


def _mean(values: Sequence[float | None]) -> Mean:
    known = [value for value in values if value is not None]
    return Mean(mean=fmean(known) if known else None, n=len(known))


def _verdicts(cases: Iterable[CaseResult]) -> dict[str, GoalCounts]:
    table: dict[str, list[GoalResult]] = {}
    for case in cases:
        for name, roi in case.rois.items():
            for result in roi.goals:
                table.setdefault(f"{name} {result.metric}", []).append(result)
    return {name: _goal_row(results) for name, results in table.items()}


def _goal_row(every: Sequence[GoalResult]) -> GoalCounts:
    results = [result for result in every if result.is_evaluable]
    certainties = [result.certainty for result in results if result.certainty is not None]
    return GoalCounts(
        n=len(results),
        not_evaluable=len(every) - len(results),
        agree=sum(result.reference == result.predicted for result in results),
        reference_fails=sum(result.reference_fails for result in results),
        reference=_counts([result.reference for result in results], VERDICTS),
        predicted=_counts([result.predicted for result in results], VERDICTS),
        certainty=_counts(certainties, CERTAINTIES) if certainties else None,
    )


def _counts(found: Sequence[str], names: Sequence[_Name]) -> dict[_Name, int]:
    return {name: found.count(name) for name in names}
