"""CSV tables of a result record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from cdm_nnunet.evaluation.record import Evaluation

METRIC_COLUMNS = (
    "case",
    "roi",
    "kind",
    "metric",
    "unit",
    "reference",
    "predicted",
    "difference",
    "relation",
    "limit",
    "reference_verdict",
    "predicted_verdict",
)
SCORE_COLUMNS = ("score", "group", "part", "unit", "value", "mean_signed", "n")


def metrics_csv(evaluation: Evaluation) -> str:
    """One row for each case, ROI and metric; difference is predicted - reference, limit is in the row's unit."""
    return _csv(METRIC_COLUMNS, _metric_rows(evaluation))


def scores_csv(evaluation: Evaluation) -> str:
    """One row for each score, and for each part that it is made of."""
    return _csv(SCORE_COLUMNS, _score_rows(evaluation.scores, len(evaluation.cases)))


def _metric_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    for case in evaluation.cases:
        for name, roi in case.rois.items():
            judged = {str(result.goal.metric): result for result in roi.goals}
            for key, metric in roi.metrics.items():
                values = (metric.unit, metric.reference, metric.predicted, metric.difference)
                verdicts: tuple[object, ...] = ("", "", "", "")
                if key in judged:
                    goal = judged[key]
                    verdicts = (goal.goal.relation, goal.limit, goal.reference, goal.predicted)
                yield (case.case, name, roi.kind, key, *values, *verdicts)


def _score_rows(scores: Mapping[str, Any], n_cases: int) -> Iterator[tuple[object, ...]]:
    yield ("dose_mae", "", "", "Gy", scores["dose_mae_gy"], "", n_cases)
    if scores["openkbp"] is not None:
        for key, value in scores["openkbp"].items():
            yield (f"openkbp_{key}", "", "", "Gy", _number(value), "", n_cases)
    for score, kind in (("ptv_score", "target"), ("oar_score", "oar")):
        parts = scores["parts"][kind]
        yield _part_row(score, "pooled", "", "Gy and %", parts["pooled"])
        yield _part_row(score, "unit", "dose", "Gy", parts["dose_gy"])
        yield _part_row(score, "unit", "volume", "%", parts["volume_percent"])
        for metric, part in parts["by_metric"].items():
            yield _part_row(score, "metric", metric, part["unit"], part)
        for roi, part in parts["by_roi"].items():
            yield _part_row(score, "roi", roi, "Gy and %", part)


def _part_row(score: str, group: str, name: str, unit: str, part: Mapping[str, Any]) -> tuple[object, ...]:
    return (score, group, name, unit, _number(part["mean_absolute"]), _number(part["mean_signed"]), part["n"])


def _number(value: float | None) -> float | str:
    return "" if value is None else value


def _csv(columns: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
