"""Predicted DVH points as optimisation objectives, in a table that a planning script reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from cdm_nnunet.documents import STRICT, plain
from cdm_nnunet.dvh import MetricUnit, Template
from cdm_nnunet.dvh.goal import Relation
from cdm_nnunet.evaluation.roi_record import Certainty, Finite, Positive, RecordedVerdict
from cdm_nnunet.files import csv_text, write_json, write_text
from cdm_nnunet.patient.record import LABEL, PatientRecord
from cdm_nnunet.roi import RoiKind

ObjectiveFormat = Literal["csv", "json"]
OBJECTIVE_FORMATS: tuple[ObjectiveFormat, ...] = get_args(ObjectiveFormat)
COLUMNS = (
    "case", "roi", "template_roi", "kind", "prescription_gy", "metric", "value", "unit", "interval_low",
    "interval_high", "priority", "relation", "limit", "variation", "verdict", "certainty", "label",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Objective:
    """A predicted DVH point.

    Attributes:
        roi: The ROI as named in the patient's structure set; without one, in the model's catalogue.
        template_roi: Its name in the template.
        kind: Its kind.
        prescription_gy: Its prescription in Gy; None if it has none.
        metric: Key of the metric.
        value: Value in the predicted dose, in ``unit``.
        unit: Gy, percent of the ROI's volume, cc, or empty for a ratio.
        interval: Interval in which the value of the planned dose is expected, in ``unit``; None without a calibration.
        priority: Priority of the template's goal; 1 is the most important.
        relation: Whether the value must be at most (``<=``) or at least (``>=``) the limit; None if the goal has no
            limit: then the template does not say in which direction to optimise.
        limit: The template's limit in ``unit``, for the patient's course; None if there is none.
        variation: The looser limit in ``unit``; None if there is none.
        verdict: Verdict on the predicted value; None if there is no limit.
        certainty: The verdict over the whole interval, or ``uncertain``; None without an interval.
    """

    roi: str
    template_roi: str
    kind: RoiKind
    prescription_gy: Positive | None
    metric: str
    value: Finite
    unit: MetricUnit
    interval: tuple[Finite, Finite] | None
    priority: Annotated[int, Field(ge=1)]
    relation: Relation | None
    limit: Finite | None
    variation: Finite | None
    verdict: RecordedVerdict | None
    certainty: Certainty | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ObjectiveFile:
    """The content of ``CASE.objectives.json``.

    Attributes:
        format_version: Version of this format.
        label: States that the numbers are a prediction.
        case: Case name.
        dose_sha256: Digest of the predicted dose's file.
        template: Name of the clinical template.
        objectives: By priority, then in the order of the template.
    """

    format_version: Literal[1] = 1
    label: Literal["PREDICTED, NOT FOR TREATMENT"] = LABEL
    case: str
    dose_sha256: str
    template: str
    objectives: tuple[Objective, ...]


def objectives_of(record: PatientRecord, template: Template) -> ObjectiveFile:
    """The objectives of a patient, one per metric of the record.

    Args:
        record: The patient's record.
        template: The template that the record names.
    """
    found = []
    for goal in template.goals_for("evaluation"):
        roi = record.rois.get(goal.roi)
        metric = None if roi is None else roi.metrics.get(str(goal.metric))
        if roi is None or metric is None:
            continue
        judged = next((one for one in roi.goals if one.metric == str(goal.metric)), None)
        found.append(
            Objective(
                roi=roi.name,
                template_roi=goal.roi,
                kind=roi.kind,
                prescription_gy=roi.prescription_gy,
                metric=str(goal.metric),
                value=metric.value,
                unit=metric.unit,
                interval=metric.interval,
                priority=goal.priority,
                relation=None if judged is None else judged.relation,
                limit=None if judged is None else judged.limit,
                variation=None if judged is None else judged.variation,
                verdict=None if judged is None else judged.verdict,
                certainty=None if judged is None else judged.certainty,
            )
        )
    found.sort(key=lambda objective: objective.priority)  # (a stable sort)
    return ObjectiveFile(
        case=record.case, dose_sha256=record.dose_sha256, template=template.name, objectives=tuple(found)
    )


def write_objectives(file: ObjectiveFile, folder: Path, kind: ObjectiveFormat) -> Path:
    """Write ``CASE.objectives.csv`` or ``.json`` into a folder, and return its path."""
    path = folder / objectives_name(file.case, kind)
    _WRITERS[kind](path, file)
    return path


def objectives_name(case: str, kind: ObjectiveFormat) -> str:
    """Name of a patient's objectives file."""
    return f"{case}.objectives.{kind}"


def _write_csv(path: Path, file: ObjectiveFile) -> None:
    rows = []
    for objective in file.objectives:
        low, high = objective.interval or (None, None)
        known = {**vars(objective), "case": file.case, "label": file.label, "interval_low": low, "interval_high": high}
        rows.append([known[column] for column in COLUMNS])
    write_text(path, csv_text(COLUMNS, rows))


def _write_json(path: Path, file: ObjectiveFile) -> None:
    write_json(path, plain(file))


_WRITERS: Mapping[ObjectiveFormat, Callable[[Path, ObjectiveFile], None]] = {"csv": _write_csv, "json": _write_json}
