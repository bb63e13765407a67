"""Where cases stand among the plans of their data set, as frozen data that is read and written in this shape."""

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
    """Where a case stands among other plans by one metric.

    Attributes:
        n: Number of the other plans: of other patients, with the same prescription, that have the metric.
        reference_percent: Percent of them with a lower value than the case's reference plan; equal ones count half.
        predicted_percent: Likewise of the prediction; null where its value rests on missing dose.
    """

    n: Annotated[int, Field(ge=1)]
    reference_percent: Percent
    predicted_percent: Percent | None

    @property
    def is_unusual(self) -> bool | None:
        """Whether the reference plan is among the lowest or highest; None where there are too few to tell."""
        if self.n < LEAST_FOR_UNUSUAL:
            return None
        return not UNUSUAL_PERCENT < self.reference_percent < 100 - UNUSUAL_PERCENT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanRanks:
    """Where each case stands among the plans of its data set.

    Attributes:
        cohort: Which plans these are: those of the data set's ``training`` cases, or of the ``evaluated`` cases where
            these are not at hand.
        n_plans: Number of plans.
        n_unread: Number of training cases whose plan can't be read.
        cases: By case and ``ROI METRIC``, of goals with a limit; a goal that too few plans have is left out.
    """

    cohort: Literal["training", "evaluated"]
    n_plans: Count
    n_unread: Count
    cases: Mapping[str, Mapping[str, PlanRank]]
