"""Scores over all cases; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, get_args

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dvh import Verdict
from cdm_nnunet.evaluation.record import CaseResult, DoseResult
from cdm_nnunet.evaluation.roi_record import GoalResult
from cdm_nnunet.evaluation.uncertainty import coverage

SCORED_UNITS = ("Gy", "%")  # volumes in cc and HI are listed by metric, not pooled: their size says nothing beside Gy
SCORED_KINDS = {"ptv_score": "target", "oar_score": "oar"}
VERDICTS: tuple[str, ...] = get_args(Verdict)


class _Term(NamedTuple):
    kind: str
    roi: str
    metric: str
    unit: str
    difference: float


def pooled_scores(cases: Sequence[CaseResult], nominal_percent: float | None = None) -> dict[str, Any]:
    """Scores over all cases, as ``docs/evaluation.md`` lists them.

    Args:
        cases: At least one.
        nominal_percent: Coverage that the intervals of the metrics were made for; None where they have none.

    Returns:
        The content of ``scores``. A mean without a term is None.
    """
    terms = [
        _Term(roi.kind, name, key, metric.unit, metric.difference)
        for case in cases
        for name, roi in case.rois.items()
        for key, metric in roi.metrics.items()
    ]
    parts = {kind: _parts([term for term in terms if term.kind == kind]) for kind in SCORED_KINDS.values()}
    return {
        "dose_mae_gy": fmean(case.dose_mae_gy for case in cases),
        **{
            challenge.name: challenge.over(case.challenges.get(challenge.name) for case in cases)
            for challenge in CHALLENGES
        },
        **{score: parts[kind]["pooled"]["mean_absolute"] for score, kind in SCORED_KINDS.items()},
        "parts": parts,
        "dose": _doses([case.dose for case in cases if case.dose is not None]),
        "dvh_distance_gy": _dvh_distances(cases),
        "indices": _indices(cases),
        "goals": _verdicts(cases),
        "coverage": None if nominal_percent is None else coverage(cases, nominal_percent),
    }


def _summary(terms: Sequence[_Term]) -> dict[str, Any]:
    return _differences([term.difference for term in terms])


def _differences(differences: Sequence[float]) -> dict[str, Any]:
    if not differences:
        return {"mean_absolute": None, "mean_signed": None, "n": 0}
    return {"mean_absolute": fmean(map(abs, differences)), "mean_signed": fmean(differences), "n": len(differences)}


def _parts(terms: Sequence[_Term]) -> dict[str, Any]:
    metrics = dict.fromkeys((term.metric, term.unit) for term in terms)
    pooled = [term for term in terms if term.unit in SCORED_UNITS]
    rois = dict.fromkeys(term.roi for term in pooled)
    return {
        "pooled": _summary(pooled),
        "dose_gy": _summary([term for term in terms if term.unit == "Gy"]),
        "volume_percent": _summary([term for term in terms if term.unit == "%"]),
        "by_metric": {
            metric: {"unit": unit, **_summary([term for term in terms if term.metric == metric])}
            for metric, unit in metrics
        },
        "by_roi": {roi: _summary([term for term in pooled if term.roi == roi]) for roi in rois},
    }


def _doses(doses: Sequence[DoseResult]) -> dict[str, Any] | None:
    """Means over cases; bands, levels and criteria are the same in all cases."""
    if not doses:
        return None
    first = doses[0]
    return {
        "body_mae_gy": _mean([dose.body_mae_gy for dose in doses]),
        "bands": [
            {"from_percent": band.from_percent, "to_percent": band.to_percent, "mae_gy": mean["mean"], "n": mean["n"]}
            for i, band in enumerate(first.bands)
            for mean in [_mean([dose.bands[i].mae_gy for dose in doses])]
        ],
        "isodose_dice": {level: _mean([dose.isodose_dice[level] for dose in doses]) for level in first.isodose_dice},
        "gamma": [
            {
                "dose_percent": gamma.dose_percent,
                "distance_mm": gamma.distance_mm,
                "local": gamma.local,
                "threshold_percent": gamma.threshold_percent,
                "normalisation": gamma.normalisation,
                "mean_percent": mean["mean"],
                "n": mean["n"],
            }
            for i, gamma in enumerate(first.gamma)
            for mean in [_mean([dose.gamma[i].pass_percent for dose in doses])]
        ],
    }


def _dvh_distances(cases: Iterable[CaseResult]) -> dict[str, Any]:
    found: dict[str, list[float | None]] = {}
    for case in cases:
        for name, roi in case.rois.items():
            found.setdefault(name, []).append(roi.dvh_distance_gy)
    return {name: _mean(distances) for name, distances in found.items()}


def _indices(cases: Iterable[CaseResult]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for case in cases:
        for roi in case.rois.values():
            for name, index in roi.indices.items():
                differences = found.setdefault(name, [])
                if index.reference is not None and index.predicted is not None:
                    differences.append(index.predicted - index.reference)
    return {name: _differences(differences) for name, differences in found.items()}


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"mean": fmean(known) if known else None, "n": len(known)}


def _verdicts(cases: Iterable[CaseResult]) -> dict[str, dict[str, Any]]:
    table: dict[str, list[GoalResult]] = {}
    for case in cases:
        for name, roi in case.rois.items():
            for result in roi.goals:
                table.setdefault(f"{name} {result.metric}", []).append(result)
    return {name: _goal_row(results) for name, results in table.items()}


def _goal_row(every: Sequence[GoalResult]) -> dict[str, Any]:
    results = [result for result in every if result.is_evaluable]
    certainties = [result.certainty for result in results if result.certainty is not None]
    return {
        "n": len(results),
        "not_evaluable": len(every) - len(results),
        "agree": sum(result.reference == result.predicted for result in results),
        "reference_fails": sum(result.reference_fails for result in results),
        "reference": _counts([result.reference for result in results], VERDICTS),
        "predicted": _counts([result.predicted for result in results], VERDICTS),
        "certainty": _counts(certainties, (*VERDICTS, "uncertain")) if certainties else None,
    }


def _counts(found: Sequence[str], names: Iterable[str]) -> dict[str, int]:
    return {name: found.count(name) for name in names}
