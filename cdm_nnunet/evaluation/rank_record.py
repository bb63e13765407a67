"""Ranks of cases among the plans of their data set, as frozen data whose fields are those of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cdm_nnunet.documents import STRICT
from cdm_nnunet.evaluation.roi_record import Count, Percent

UNUSUAL_PERCENT = 2.5
LEAST_FOR_UNUSUAL = 39
"""Other plans of which the lowest or highest :data:`UNUSUAL_PERCENT` are one at least."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanRank:
    """Rank of a case among other plans by one metric.

    Attributes:
        n: Number of other plans: of other patients, with the same prescription, that have the metric.
        reference_percent: Percentage of them with a lower value than the case's reference plan; equal ones count half.
        predicted_percent: The same for the prediction; null if its value depends on missing dose.
    """

    n: Annotated[int, Field(ge=1)]
    reference_percent: Percent
    predicted_percent: Percent | None

    @property
    def is_unusual(self) -> bool | None:
        """Whether the reference plan is among the lowest or highest; None if there are too few plans to tell."""
        if self.n < LEAST_FOR_UNUSUAL:
            return None
        return not UNUSUAL_PERCENT < self.reference_percent < 100 - UNUSUAL_PERCENT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanRanks:
    """Ranks of the cases among the plans of their data set.

    Attributes:
        cohort: The plans that are compared with: those of the data set's ``training`` cases or, if these are not
            available, of the ``evaluated`` cases.
        n_plans: Number of plans.
        n_unread: Number of training cases whose plan can't be read.
        cases: Ranks by case and ``ROI METRIC``, for goals with a limit; a goal that too few plans have is left out.
    """

    cohort: Literal["training", "evaluated"]
    n_plans: Count
    n_unread: Count
    cases: Mapping[str, Mapping[str, PlanRank]]
