"""A case in one line of the list of cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.rank_record import PlanRank
from cdm_nnunet.evaluation.record import CaseResult


def case_row(case: CaseResult, ranks: Mapping[str, PlanRank]) -> dict[str, Any]:
    """Scores of a single case, its verdicts, and the dose metric with the largest error.

    Args:
        case: The case.
        ranks: Its rank among other plans, by ``ROI METRIC``.

    Returns:
        Plain values by ``name``, ``mae`` (Gy), ``ptv_score``, ``oar_score``, ``changed`` and ``n`` (verdicts that the
        prediction changes, and all), ``newFails``, ``unusual`` and ``ranked`` (goals in which the reference plan
        is unusual, and all ranked goals), ``missing`` (ROIs) and ``worst`` (``roi``, ``metric`` and
        ``difference`` in Gy; None if there is no dose metric).
    """
    unusual = [rank.is_unusual for rank in ranks.values() if rank.is_unusual is not None]
    scores = pooled_scores([case])
    goals = [goal for roi in case.rois.values() for goal in roi.goals]
    changed = [goal for goal in goals if goal.agree is False]
    return {
        "name": case.case,
        "mae": case.dose_mae_gy,
        "ptv_score": scores.ptv_score,
        "oar_score": scores.oar_score,
        "worst": _worst_in_gy(case),
        "changed": len(changed),
        "newFails": sum(goal.predicted == "fail" for goal in changed),
        "unusual": sum(unusual),
        "ranked": len(unusual),
        "missing": len(case.missing),
        "n": sum(goal.agree is not None for goal in goals),
    }


def _worst_in_gy(case: CaseResult) -> dict[str, Any] | None:
    terms = [
        (roi, name, metric.predicted - metric.reference)
        for roi, result in case.rois.items()
        for name, metric in result.metrics.items()
        if metric.unit == "Gy"
    ]
    if not terms:
        return None
    roi, name, difference_gy = max(terms, key=lambda term: abs(term[2]))
    return {"roi": roi, "metric": name, "difference": difference_gy}
