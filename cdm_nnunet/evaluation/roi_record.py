"""The results of an evaluation for one ROI, as frozen data whose fields are those of the JSON.

``docs/evaluation.md`` describes the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, computed_field
from pydantic.dataclasses import dataclass

from cdm_nnunet.documents import STRICT
from cdm_nnunet.dvh import MetricUnit, Verdict
from cdm_nnunet.dvh.goal import Relation, judge
from cdm_nnunet.dvh.matching import By
from cdm_nnunet.roi import RoiKind

FEW_VOXELS = 100
NOT_EVALUABLE: Literal["not evaluable"] = "not evaluable"
RecordedVerdict = Literal["pass", "acceptable", "fail", "not evaluable"]
Certainty = Literal["pass", "acceptable", "fail", "uncertain"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricResult:
    """A DVH metric in both doses.

    Attributes:
        reference: Value in the reference dose, in ``unit``.
        predicted: Value in the prediction.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        mask_error: Change of the metric if the ROI's surface moves by half a voxel, in ``unit``
            (``docs/conventions.md``, "Mask error"); None if it is not defined.
        spread: Standard deviation over the ensemble's members, in ``unit``; None without members.
        interval: Interval in which the reference's value is expected, in ``unit``; None without calibration.
    """

    reference: Finite
    predicted: Finite
    unit: MetricUnit
    mask_error: NonNegative | None = None
    spread: NonNegative | None = None
    interval: tuple[Finite, Finite] | None = None

    @property
    def difference(self) -> float:
        """Predicted minus reference."""
        return self.predicted - self.reference


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LimitedGoal:
    """A goal with a limit.

    Attributes:
        metric: Key of the metric.
        relation: Whether the metric must be at most (``<=``) or at least (``>=``) the limit.
        limit: The limit in the metric's unit, for the patient's course.
        variation: The looser limit in the metric's unit, if there is one.
        unit: The metric's unit.
        priority: 1 is the most important.
    """

    metric: str
    relation: Relation
    limit: Finite
    variation: Finite | None
    unit: MetricUnit
    priority: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GoalResult(LimitedGoal):
    """A goal with a limit, and the verdict on each dose.

    Attributes:
        reference: Verdict on the reference.
        predicted: Verdict on the prediction.
        within_mask_error: Whether the reference lies closer to a limit than the metric's mask error.
        certainty: The verdict that holds over the whole interval of the metric, or ``uncertain``; None without
            intervals.
        is_converted: Whether limits were converted to the fractionation of the course.
        reason: Why a verdict is not evaluable; None if both are evaluable.
    """

    reference: RecordedVerdict
    predicted: RecordedVerdict
    within_mask_error: bool = False
    certainty: Certainty | None = None
    is_converted: bool = False
    reason: str | None = None

    @property
    def is_evaluable(self) -> bool:
        """Whether both doses have a verdict."""
        return NOT_EVALUABLE not in (self.reference, self.predicted)

    @computed_field  # type: ignore[prop-decorator]  # (mypy does not support decorated properties)
    @property
    def agree(self) -> bool | None:
        """Whether both doses get the same verdict; None if one is not evaluable."""
        return self.reference == self.predicted if self.is_evaluable else None

    @computed_field  # type: ignore[prop-decorator]  # (mypy does not support decorated properties)
    @property
    def reference_fails(self) -> bool:
        """Whether the reference plan itself misses the goal, its acceptable variation included."""
        return self.reference == "fail"

    def judge(self, value: float) -> Verdict:
        """The verdict on a value of the metric, by these limits."""
        return judge(value, self.relation, self.limit, self.variation)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IndexResult:
    """A plan index (conformity, gradient) of a target in both doses.

    Attributes:
        reference: Value in the reference dose; None if it is not defined.
        predicted: Value in the prediction; None if it is not defined.
    """

    reference: NonNegative | None
    predicted: NonNegative | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PresentRoi:
    """An ROI that a patient has.

    Attributes:
        kind: Kind of the ROI.
        n_voxels: Number of its voxels.
        volume_cc: Its volume in cc.
        prescription_gy: Its prescription in Gy; None if it has none.
    """

    kind: RoiKind
    n_voxels: Annotated[int, Field(ge=1)]
    volume_cc: Positive
    prescription_gy: Positive | None

    @computed_field  # type: ignore[prop-decorator]  # (mypy does not support decorated properties)
    @property
    def few_voxels(self) -> bool:
        """Whether it is so small that its near-maximum and near-minimum doses depend on single voxels."""
        return self.n_voxels < FEW_VOXELS


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RoiResult(PresentRoi):
    """An ROI that is present in a case.

    Attributes:
        metrics: DVH metrics by key.
        goals: The goals with a limit.
        cut_by_grid: Whether it touches the border of the dose grid, so that a part may be missing.
        outside_region_percent: Percentage of its voxels outside the dose region; None without a dose region.
        dvh_distance_gy: Distance between the two DVH curves, Gy.
        indices: Plan indices of a target with a prescription, by name.
        source: Its name in the data set.
        matched_by: How that name matches the template: as its name, an alias, or a regular expression.
        index_targets: Names in the data set of the targets that the plan indices take together.
    """

    metrics: Mapping[str, MetricResult]
    goals: tuple[GoalResult, ...] = ()
    cut_by_grid: bool = False
    outside_region_percent: Percent | None = None
    dvh_distance_gy: NonNegative | None = None
    indices: Mapping[str, IndexResult] = field(default_factory=dict)
    source: str = ""
    matched_by: By = "name"
    index_targets: tuple[str, ...] = ()
