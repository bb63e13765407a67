"""Verdicts on goals by the limits of the patient's course; withheld if missing dose would decide.

Definitions: ``docs/conventions.md``, "Verdicts".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Goal, Metric, Verdict
from cdm_nnunet.dvh.course_limits import CourseLimits
from cdm_nnunet.dvh.goal import judge
from cdm_nnunet.evaluation.roi_record import NOT_EVALUABLE, GoalResult, MetricResult, RecordedVerdict

MOSTLY_MISSING_PERCENT = 50.0
Evaluate = Callable[[Metric, NDArray[np.floating]], float | None]


@dataclass(frozen=True, eq=False)
class MissingDose:
    """The part of an ROI outside the dose region, where the dose is unknown and stored as zero.

    Attributes:
        percent: Its share of the ROI, percent.
        inside_gy: Doses of the rest, ascending, of reference and prediction, shape (n,), Gy.
        highest_gy: Highest dose of the whole grid, of reference and prediction.
        n_outside: Number of voxels of the part.
    """

    percent: float
    inside_gy: tuple[NDArray[np.floating], NDArray[np.floating]]
    highest_gy: tuple[float, float]
    n_outside: int

    def decides(
        self, dose: int, verdict: Verdict, verdict_of: Callable[[NDArray[np.floating]], Verdict | None]
    ) -> bool:
        """Whether a verdict depends on the missing dose.

        It does if the doses inside alone give another verdict; and if most of the ROI is outside, also if the highest
        dose of the plan in the missing part would change it.

        Args:
            dose: 0 for the reference, 1 for the prediction.
            verdict: Verdict on the whole ROI, with zero dose outside.
            verdict_of: The verdict on doses in ascending order; None if too few are left for the metric.
        """
        inside_gy = self.inside_gy[dose]
        if inside_gy.size and verdict_of(inside_gy) != verdict:
            return True
        if self.percent <= MOSTLY_MISSING_PERCENT:
            return False
        lifted_gy = np.full(self.n_outside, self.highest_gy[dose], inside_gy.dtype)
        return verdict_of(np.concatenate([inside_gy, lifted_gy])) != verdict


def judge_goal(
    goal: Goal, limits: CourseLimits, metric: MetricResult, evaluate: Evaluate, missing: MissingDose | None
) -> GoalResult:
    """The verdicts of both doses on a goal with a limit.

    Args:
        goal: The goal.
        limits: Its limits in the patient's course.
        metric: Its metric in both doses.
        evaluate: The value of a metric on doses in ascending order; None if it is not defined.
        missing: The part of the ROI outside the dose region; None if there is none.

    Raises:
        ValueError: If the goal has no limit.
    """
    if goal.relation is None:
        raise ValueError(f"goal {goal.roi} {goal.metric} has no limit")
    relation = goal.relation
    reason = limits.misfit
    verdicts: list[RecordedVerdict] = []
    for dose, value in enumerate((metric.reference, metric.predicted)):
        verdict = judge(value, relation, limits.limit, limits.variation)

        def verdict_of(dose_gy: NDArray[np.floating]) -> Verdict | None:
            part = evaluate(goal.metric, dose_gy)
            return None if part is None else judge(part, relation, limits.limit, limits.variation)

        if missing is not None and missing.decides(dose, verdict, verdict_of):
            reason = reason or f"{missing.percent:.3g} % of the ROI lie outside the dose region, where dose is missing"
            verdicts.append(NOT_EVALUABLE)
        else:
            verdicts.append(verdict if limits.misfit is None else NOT_EVALUABLE)
    ends = [bound for bound in (limits.limit, limits.variation) if bound is not None]
    near = metric.mask_error is not None and any(abs(metric.reference - end) < metric.mask_error for end in ends)
    return GoalResult(
        metric=str(goal.metric),
        relation=relation,
        limit=limits.limit,
        variation=limits.variation,
        unit=metric.unit,
        priority=goal.priority,
        reference=verdicts[0],
        predicted=verdicts[1],
        within_mask_error=near,
        is_converted=limits.is_converted,
        reason=reason,
    )
