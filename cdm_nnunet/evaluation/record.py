"""The result record: what an evaluation found, as frozen data with one JSON form that all tables and reports render.

``docs/evaluation.md`` describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cdm_nnunet import __version__
from cdm_nnunet.dvh import Goal, MetricUnit, RoiMatch, Template, Verdict
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import RoiKind

FORMAT_VERSION = 3
RESULT_FILE = "result.json"
FEW_VOXELS = 100
Certainty = Literal["pass", "acceptable", "fail", "uncertain"]


@dataclass(frozen=True)
class MetricResult:
    """A DVH metric in both doses.

    Attributes:
        reference: Value in the reference dose, in ``unit``.
        predicted: Value in the prediction.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        mask_error: What half a voxel of the ROI's surface is worth, in ``unit`` (``docs/conventions.md``, "Mask
            error"); None where it is not defined.
        spread: Standard deviation of the ensemble's members, in ``unit``; None without members.
        interval: Where the reference's value is expected, in ``unit``; None without calibration.
    """

    reference: float
    predicted: float
    unit: MetricUnit
    mask_error: float | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        """Predicted minus reference."""
        return self.predicted - self.reference

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {**vars(self), "interval": None if self.interval is None else list(self.interval)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> MetricResult:
        """The inverse of :meth:`to_json`."""
        low_high = entry["interval"]
        return cls(**{**entry, "interval": None if low_high is None else (low_high[0], low_high[1])})


@dataclass(frozen=True)
class GoalResult:
    """A goal with a limit, and how each dose stands to it.

    Attributes:
        goal: The goal.
        limit: Its limit in the metric's unit.
        variation: Its looser limit in the metric's unit, if it has one.
        reference: Verdict on the reference.
        predicted: Verdict on the prediction.
        within_mask_error: Whether the reference is closer to a limit than the metric's mask error.
        certainty: The verdict that holds over the whole interval of the metric, or ``uncertain``; None without one.
    """

    goal: Goal
    limit: float
    variation: float | None
    reference: Verdict
    predicted: Verdict
    within_mask_error: bool = False
    certainty: Certainty | None = None

    @property
    def agree(self) -> bool:
        """Whether both doses get the same verdict."""
        return self.reference == self.predicted

    @property
    def reference_fails(self) -> bool:
        """Whether the reference plan itself misses the goal, its acceptable variation included."""
        return self.reference == "fail"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record; ``limit`` and ``variation`` are in the metric's unit."""
        return {
            "metric": str(self.goal.metric),
            "relation": self.goal.relation,
            "limit": self.limit,
            "variation": self.variation,
            "unit": self.goal.metric.unit,
            "priority": self.goal.priority,
            "reference": self.reference,
            "predicted": self.predicted,
            "agree": self.agree,
            "reference_fails": self.reference_fails,
            "within_mask_error": self.within_mask_error,
            "certainty": self.certainty,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], goal: Goal) -> GoalResult:
        """The inverse of :meth:`to_json`, with the goal of the template."""
        own = ("limit", "variation", "reference", "predicted", "within_mask_error", "certainty")
        return cls(goal, *(entry[key] for key in own))


@dataclass(frozen=True)
class IndexResult:
    """A plan index (conformity, gradient) of a target in both doses; None where it is not defined in a dose."""

    reference: float | None
    predicted: float | None


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
        cut_by_grid: Whether it touches the border of the dose grid, so that a part may be missing.
        outside_region_percent: Share of it outside the dose region, percent; None without a dose region.
        dvh_distance_gy: Distance between the two DVH curves, Gy.
        indices: Plan indices of a target with a prescription, by name.
        match: The ROI of the data set that it is.
    """

    kind: RoiKind
    n_voxels: int
    volume_cc: float
    prescription_gy: float | None
    metrics: Mapping[str, MetricResult]
    goals: tuple[GoalResult, ...] = ()
    cut_by_grid: bool = False
    outside_region_percent: float | None = None
    dvh_distance_gy: float | None = None
    indices: Mapping[str, IndexResult] = field(default_factory=dict)
    match: RoiMatch | None = None

    @property
    def few_voxels(self) -> bool:
        """Whether it is so small that its near-maximum and near-minimum doses rest on single voxels."""
        return self.n_voxels < FEW_VOXELS

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "source": None if self.match is None else self.match.source,
            "matched_by": None if self.match is None else self.match.by,
            "kind": self.kind,
            "n_voxels": self.n_voxels,
            "volume_cc": self.volume_cc,
            "prescription_gy": self.prescription_gy,
            "few_voxels": self.few_voxels,
            "cut_by_grid": self.cut_by_grid,
            "outside_region_percent": self.outside_region_percent,
            "dvh_distance_gy": self.dvh_distance_gy,
            "indices": {name: asdict(index) for name, index in self.indices.items()},
            "metrics": {key: metric.to_json() for key, metric in self.metrics.items()},
            "goals": [goal.to_json() for goal in self.goals],
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], goals: Mapping[str, Goal]) -> RoiResult:
        """The inverse of :meth:`to_json`, with the goals of the ROI by metric key."""
        parts = {
            "metrics": {key: MetricResult.from_json(metric) for key, metric in entry["metrics"].items()},
            "goals": tuple(GoalResult.from_json(goal, goals[goal["metric"]]) for goal in entry["goals"]),
            "indices": {name: IndexResult(**index) for name, index in entry["indices"].items()},
            "match": None if entry["source"] is None else RoiMatch(entry["source"], entry["matched_by"]),
        }
        derived = ("few_voxels", "source", "matched_by")
        return cls(**{**{key: value for key, value in entry.items() if key not in derived}, **parts})


@dataclass(frozen=True)
class Band:
    """The dose error between two isodoses of the reference; the highest has no upper end, an empty one no error."""

    from_percent: float
    to_percent: float | None
    n_voxels: int
    mae_gy: float | None
    mean_signed_gy: float | None


@dataclass(frozen=True)
class GammaResult:
    """A gamma pass rate of a case.

    Attributes:
        dose_percent: Dose criterion, percent.
        distance_mm: Distance criterion, mm.
        local: Whether its percentage is of the dose in the voxel, not of the case's dose scale.
        n_voxels: Number of voxels that were judged.
        pass_percent: Share of them with gamma at most 1; None where there was none to judge.
    """

    dose_percent: float
    distance_mm: float
    local: bool
    n_voxels: int
    pass_percent: float | None


@dataclass(frozen=True)
class DoseResult:
    """How the two doses of a case differ, apart from ROIs.

    Attributes:
        scale_gy: What percentages refer to: the case's highest prescription, else the highest reference dose, Gy.
        body_mae_gy: Mean absolute difference where the reference reaches 5 Gy in the body; None for nowhere.
        body_n_voxels: Number of these voxels.
        bands: Dose error by isodose band of the reference.
        isodose_dice: Dice of the isodose volumes by level in percent of the scale, as text; None where both are empty.
        gamma: Pass rates, where they were asked for.
    """

    scale_gy: float
    body_mae_gy: float | None
    body_n_voxels: int
    bands: tuple[Band, ...]
    isodose_dice: Mapping[str, float | None]
    gamma: tuple[GammaResult, ...] = ()

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> DoseResult:
        """The inverse of ``dataclasses.asdict``."""
        bands = tuple(Band(**band) for band in entry["bands"])
        return cls(**{**entry, "bands": bands, "gamma": tuple(GammaResult(**gamma) for gamma in entry["gamma"])})


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
        dose: The doses apart from ROIs.
        openkbp: Terms of OpenKBP's scores, where the data set has OpenKBP's ROIs.
        gdphmm: GDP-HMM's scores of the case by name, where they apply.
        undefined: Metrics that a present ROI can't have, as ``"ROI METRIC"``, with the reason; they enter no score,
            and their goals are neither met nor missed.
    """

    case: str
    dose_mae_gy: float
    rois: Mapping[str, RoiResult]
    missing: Mapping[str, str] = field(default_factory=dict)
    dose: DoseResult | None = None
    openkbp: OpenKbpTerms | None = None
    gdphmm: Mapping[str, float] | None = None
    undefined: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "dose_mae_gy": self.dose_mae_gy,
            "dose": None if self.dose is None else _plain(asdict(self.dose)),
            "openkbp": None if self.openkbp is None else asdict(self.openkbp),
            "gdphmm": None if self.gdphmm is None else dict(self.gdphmm),
            "missing": dict(self.missing),
            "undefined": dict(self.undefined),
            "rois": {name: roi.to_json() for name, roi in self.rois.items()},
        }

    @classmethod
    def from_json(cls, case: str, entry: Mapping[str, Any], template: Template) -> CaseResult:
        """The inverse of :meth:`to_json`."""
        goals: dict[str, dict[str, Goal]] = {}
        for goal in template.goals_for("evaluation"):
            goals.setdefault(goal.roi, {})[str(goal.metric)] = goal
        return cls(
            case,
            entry["dose_mae_gy"],
            {name: RoiResult.from_json(roi, goals[name]) for name, roi in entry["rois"].items()},
            entry["missing"],
            None if entry["dose"] is None else DoseResult.from_json(entry["dose"]),
            None if entry["openkbp"] is None else OpenKbpTerms(**entry["openkbp"]),
            entry["gdphmm"],
            entry["undefined"],
        )


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a set of predictions.

    Attributes:
        dataset: Name of the data set.
        template: The clinical template.
        dose_region: ROI in which the dose error is averaged; None for the whole grid.
        n_dataset_cases: Number of cases of the data set, evaluated or not.
        cases: The evaluated cases, in order of names.
        scores: As :func:`cdm_nnunet.evaluation.pooling.pooled_scores` gives them.
        n_members: Number of members whose spread was taken; 0 without.
        calibration: What intervals rest on, as :meth:`cdm_nnunet.evaluation.uncertainty.Calibration.to_json` says it.
        software_version: Version of this software that made it.
    """

    dataset: str
    template: Template
    dose_region: str | None
    n_dataset_cases: int
    cases: tuple[CaseResult, ...]
    scores: Mapping[str, Any]
    n_members: int = 0
    calibration: Mapping[str, Any] | None = None
    software_version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "software": {"cdm_nnunet": self.software_version},
            "dataset": self.dataset,
            "template": self.template.name,
            "template_definition": self.template.to_json(),
            "dose_region": self.dose_region,
            "n_cases": len(self.cases),
            "n_dataset_cases": self.n_dataset_cases,
            "n_members": self.n_members,
            "calibration": self.calibration,
            "scores": dict(self.scores),
            "cases": {case.case: case.to_json() for case in self.cases},
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Evaluation:
        """Read the content of a ``result.json``.

        Args:
            content: The parsed JSON.
            where: What to call it in messages, such as the file.

        Raises:
            InputError: If it is of another format version, or not exactly what :meth:`to_json` wrote.
        """
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise InputError(
                f"{where} is not a result of format version {FORMAT_VERSION} (it says {version}); "
                "evaluate again with this version of cdm-nnunet"
            )
        try:
            template = Template.from_json(content["template_definition"], f"{where}: template_definition")
            evaluation = cls(
                content["dataset"],
                template,
                content["dose_region"],
                content["n_dataset_cases"],
                tuple(CaseResult.from_json(case, entry, template) for case, entry in content["cases"].items()),
                content["scores"],
                content["n_members"],
                content["calibration"],
                content["software"]["cdm_nnunet"],
            )
            same = evaluation.to_json() == content
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{where} is damaged or was edited ({error!r}); evaluate again") from error
        if not same:
            raise InputError(f"{where} was edited: its keys or derived values are not those of an evaluation")
        return evaluation

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read a ``result.json``, or the one in a folder.

        Raises:
            InputError: If it is missing or not JSON, or as :meth:`from_json`.
        """
        path = path / RESULT_FILE if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path} is missing; 'cdm-nnunet evaluate' writes it") from None
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
        return cls.from_json(content, str(path))


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}
