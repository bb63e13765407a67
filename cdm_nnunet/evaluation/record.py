"""The result record: what an evaluation found, as frozen data with one JSON form that all tables and reports render."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cdm_nnunet import __version__
from cdm_nnunet.dvh import Goal, Template, Verdict
from cdm_nnunet.roi import RoiKind

FORMAT_VERSION = 1
FEW_VOXELS = 100


@dataclass(frozen=True)
class MetricResult:
    """A DVH metric in both doses, in ``unit`` (Gy, or percent of the ROI's volume)."""

    reference: float
    predicted: float
    unit: Literal["Gy", "%"]

    @property
    def difference(self) -> float:
        """Predicted minus reference."""
        return self.predicted - self.reference


@dataclass(frozen=True)
class GoalResult:
    """A goal with a limit, and how each dose stands to it."""

    goal: Goal
    limit: float
    reference: Verdict
    predicted: Verdict

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record; ``limit`` is in the metric's unit."""
        return {
            "metric": str(self.goal.metric),
            "relation": self.goal.relation,
            "limit": self.limit,
            "unit": self.goal.metric.unit,
            "priority": self.goal.priority,
            "reference": self.reference,
            "predicted": self.predicted,
        }


@dataclass(frozen=True)
class RoiResult:
    """An ROI that is present in a case.

    Attributes:
        kind: Kind of the ROI.
        n_voxels: Number of its voxels.
        volume_cc: Its volume in cc.
        prescription_gy: Its prescription in Gy; None where it has none.
        metrics: By metric key.
        goals: The goals with a limit.
    """

    kind: RoiKind
    n_voxels: int
    volume_cc: float
    prescription_gy: float | None
    metrics: Mapping[str, MetricResult]
    goals: tuple[GoalResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "kind": self.kind,
            "n_voxels": self.n_voxels,
            "few_voxels": self.n_voxels < FEW_VOXELS,
            "volume_cc": self.volume_cc,
            "prescription_gy": self.prescription_gy,
            "metrics": {key: asdict(metric) for key, metric in self.metrics.items()},
            "goals": [goal.to_json() for goal in self.goals],
        }


@dataclass(frozen=True)
class OpenKbpTerms:
    """What a case adds to OpenKBP's two scores: its dose error, and |reference - predicted| of each metric, Gy."""

    dose_error_gy: float
    dvh_errors_gy: Mapping[str, float]


@dataclass(frozen=True)
class CaseResult:
    """Everything about one case.

    Attributes:
        case: Case name.
        dose_mae_gy: Mean absolute difference in the dose region, Gy (``docs/conventions.md``, "Dose region").
        rois: ROIs of the template that are present.
        missing: ROIs of the template that are not, with the reason; they enter no score.
        openkbp: Terms of OpenKBP's scores, where the data set has OpenKBP's ROIs.
    """

    case: str
    dose_mae_gy: float
    rois: Mapping[str, RoiResult]
    missing: Mapping[str, str] = field(default_factory=dict)
    openkbp: OpenKbpTerms | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "dose_mae_gy": self.dose_mae_gy,
            "openkbp": None if self.openkbp is None else asdict(self.openkbp),
            "rois": {name: roi.to_json() for name, roi in self.rois.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a set of predictions.

    Attributes:
        dataset: Name of the data set.
        template: The clinical template.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_dataset_cases: Number of cases of the data set, evaluated or not.
        cases: The evaluated cases, in order of names.
        scores: As :func:`cdm_nnunet.evaluation.scores.pooled_scores` gives them.
    """

    dataset: str
    template: Template
    dose_region: str | None
    n_dataset_cases: int
    cases: tuple[CaseResult, ...]
    scores: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "software": {"cdm_nnunet": __version__},
            "dataset": self.dataset,
            "template": self.template.name,
            "template_definition": self.template.to_json(),
            "dose_region": self.dose_region,
            "n_cases": len(self.cases),
            "n_dataset_cases": self.n_dataset_cases,
            "scores": dict(self.scores),
            "missing": {case.case: dict(case.missing) for case in self.cases if case.missing},
            "cases": {case.case: case.to_json() for case in self.cases},
        }
