"""The limits of a goal in one course of treatment."""

from __future__ import annotations

from dataclasses import dataclass

from cdm_nnunet.dvh.goal import Goal
from cdm_nnunet.dvh.regime import Course, Regime, same_effect_dose_gy


@dataclass(frozen=True)
class CourseLimits:
    """Limits in the metric's unit.

    Attributes:
        limit: The limit.
        variation: The looser limit, if there is one.
        is_converted: Whether they were converted to the fractionation of the course.
        misfit: Reason why the goal does not apply to the course; None if it does.
    """

    limit: float
    variation: float | None
    is_converted: bool = False
    misfit: str | None = None


def limits_in_course(goal: Goal, regime: Regime | None, course: Course, prescription_gy: float | None) -> CourseLimits:
    """Limits of a goal in a course.

    Args:
        goal: A goal with a limit.
        regime: Courses for which the template's limits in Gy hold.
        course: The patient's course.
        prescription_gy: Prescription of the ROI in Gy.

    Raises:
        InputError: If the limit is relative to a prescription that is not given.
    """
    limit, variation = goal.limits(prescription_gy)
    of_template = regime if goal.is_absolute else None
    holds_for = goal.regime if of_template is None else of_template.updated(goal.regime)
    if holds_for is None:
        return CourseLimits(limit, variation)
    differs, other = holds_for.fractionation_differs(course), holds_for.prescription_differs(course)
    if other is not None or differs is None:
        return CourseLimits(limit, variation, misfit=other)
    if goal.alpha_beta_gy is None or course.fractions is None:
        return CourseLimits(limit, variation, misfit=differs)
    counts = holds_for.fractions
    made_for = counts[0] if counts is not None and counts[0] == counts[1] else None
    limit, *looser = (
        same_effect_dose_gy(gy, alpha_beta_gy=goal.alpha_beta_gy, made_for=made_for, fractions=course.fractions)
        for gy in (limit, variation)
        if gy is not None
    )
    return CourseLimits(limit, looser[0] if looser else None, is_converted=True)
