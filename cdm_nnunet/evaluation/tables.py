"""CSV tables of a result record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.documents import html_table
from cdm_nnunet.evaluation.record import DoseResult, Evaluation
from cdm_nnunet.evaluation.score_record import Coverage, Difference, DoseScores, MetricDifference, Scores, Share
from cdm_nnunet.files import csv_text

METRIC_COLUMNS = (
    "case",
    "roi",
    "source",
    "kind",
    "metric",
    "unit",
    "reference",
    "predicted",
    "difference",
    "mask_error",
    "spread",
    "interval_low",
    "interval_high",
    "relation",
    "limit",
    "variation",
    "reference_verdict",
    "predicted_verdict",
    "not_evaluable_because",
    "certainty",
    "within_mask_error",
    "few_voxels",
    "cut_by_grid",
    "outside_region_percent",
    "not_defined",
)
CASE_COLUMNS = ("case", "measure", "part", "unit", "value", "n_voxels")
SCORE_COLUMNS = ("score", "group", "part", "unit", "value", "mean_signed", "n")


def metrics_csv(evaluation: Evaluation) -> str:
    """One row for each case, ROI and metric; difference is predicted - reference, limit is in the row's unit."""
    return csv_text(METRIC_COLUMNS, _metric_rows(evaluation))


def cases_csv(evaluation: Evaluation) -> str:
    """One row for each measure of a case other than the template's metrics: dose errors, gamma, curves and indices."""
    return csv_text(CASE_COLUMNS, _case_rows(evaluation))


def scores_csv(evaluation: Evaluation) -> str:
    """One row for each score, and for each of its parts."""
    return csv_text(SCORE_COLUMNS, _score_rows(evaluation.scores, len(evaluation.cases)))


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows of :func:`metrics_csv`, each by column."""
    return [dict(zip(METRIC_COLUMNS, row, strict=True)) for row in _metric_rows(evaluation)]


def evaluation_html(evaluation: Evaluation) -> str:
    """Data set and mean difference of each metric, as HTML for a notebook."""
    head = ("", "mean |difference|", "mean difference", "unit", "n")
    parts = evaluation.scores.parts
    body = [
        (f"{label} {name}", f"{part.mean_absolute:.3f}", f"{part.mean_signed:+.3f}", part.unit, str(part.n))
        for label, kind in (("targets", parts.target), ("OARs", parts.oar))
        for name, part in kind.by_metric.items()
        if part.mean_absolute is not None
    ]
    return html_table(repr(evaluation).strip("<>"), [head, *body])


def _metric_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    for case in evaluation.cases:
        for name, roi in case.rois.items():
            judged = {result.metric: result for result in roi.goals}
            limits = (roi.few_voxels, roi.cut_by_grid, roi.outside_region_percent)
            for key, metric in roi.metrics.items():
                values = (metric.unit, metric.reference, metric.predicted, metric.difference)
                uncertainty = (metric.mask_error, metric.spread, *(metric.interval or (None, None)))
                verdicts: tuple[object, ...] = (None,) * 8
                if key in judged:
                    goal = judged[key]
                    verdicts = (goal.relation, goal.limit, goal.variation, goal.reference, goal.predicted)
                    verdicts += (goal.reason, goal.certainty, goal.within_mask_error)
                yield (case.case, name, roi.source, roi.kind, key, *values, *uncertainty, *verdicts, *limits, None)
        for term, reason in case.undefined.items():
            name, key = term.rsplit(" ", 1)
            roi = case.rois[name]
            known = {"case": case.case, "roi": name, "source": roi.source, "kind": roi.kind, "metric": key}
            row = {**dict.fromkeys(METRIC_COLUMNS), **known, "not_defined": reason}
            yield tuple(row.values())


def _case_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    for case in evaluation.cases:
        yield (case.case, "dose_mae", evaluation.dose_region, "Gy", case.dose_mae_gy, None)
        for challenge in CHALLENGES:
            terms = case.challenges.get(challenge.name)
            if terms is not None:
                listed = [score for score in challenge.scores if score.of_cases]
                yield from ((case.case, challenge.name, s.key, s.unit, s.over([terms]), None) for s in listed)
        if case.dose is not None:
            yield from ((case.case, *row) for row in _dose_rows(case.dose))
        for name, roi in case.rois.items():
            yield (case.case, "dvh_distance", name, "Gy", roi.dvh_distance_gy, roi.n_voxels)
            for key, index in roi.indices.items():
                for dose, value in asdict(index).items():
                    yield (case.case, f"{key}_{dose}", name, None, value, roi.n_voxels)


def _dose_rows(dose: DoseResult) -> Iterator[tuple[object, ...]]:
    yield ("body_mae", "from 5 Gy", "Gy", dose.body_mae_gy, dose.body_n_voxels)
    for band in dose.bands:
        yield ("band_mae", band_label(band.from_percent, band.to_percent), "Gy", band.mae_gy, band.n_voxels)
    for level, dice in dose.isodose_dice.items():
        yield ("isodose_dice", f"{level} %", None, dice, None)
    for gamma in dose.gamma:
        yield ("gamma", gamma_label(asdict(gamma)), "%", gamma.pass_percent, gamma.n_voxels)


def band_label(from_percent: float, to_percent: float | None) -> str:
    """Name of an isodose band: ``20 to 50 %``."""
    return f"from {from_percent:g} %" if to_percent is None else f"{from_percent:g} to {to_percent:g} %"


def gamma_label(criterion: Mapping[str, Any]) -> str:
    """Name of a gamma criterion in the record: ``3 %/2 mm global from 10 %``."""
    mode = "local" if criterion["local"] else "global"
    of_maximum = " of the maximum" if criterion["normalisation"] == "maximum" else ""
    from_percent = f"from {criterion['threshold_percent']:g} %{of_maximum}"
    return f"{criterion['dose_percent']:g} %/{criterion['distance_mm']:g} mm {mode} {from_percent}"


def _score_rows(scores: Scores, n_cases: int) -> Iterator[tuple[object, ...]]:
    yield ("dose_mae", None, None, "Gy", scores.dose_mae_gy, None, n_cases)
    for challenge in CHALLENGES:
        of_challenge = scores.challenges[challenge.name]
        for own in challenge.scores if of_challenge is not None else ():
            yield (f"{challenge.name}_{own.key}", None, None, own.unit, (of_challenge or {})[own.key], None, n_cases)
    for score, parts in (("ptv_score", scores.parts.target), ("oar_score", scores.parts.oar)):
        yield _part_row(score, "pooled", None, "Gy and %", parts.pooled)
        yield _part_row(score, "unit", "dose", "Gy", parts.dose_gy)
        yield _part_row(score, "unit", "volume", "%", parts.volume_percent)
        for metric, part in parts.by_metric.items():
            yield _part_row(score, "metric", metric, part.unit, part)
        for roi, part_of_roi in parts.by_roi.items():
            yield _part_row(score, "roi", roi, "Gy and %", part_of_roi)
    if scores.dose is not None:
        yield from _dose_score_rows(scores.dose)
    for roi, distance in scores.dvh_distance_gy.items():
        yield ("dvh_distance", "roi", roi, "Gy", distance.mean, None, distance.n)
    for name, difference in scores.indices.items():
        yield _part_row("index", None, name, None, difference)
    if scores.coverage is not None:
        yield _coverage_row("pooled", None, scores.coverage)
        yield from (_coverage_row("metric", metric, share) for metric, share in scores.coverage.by_metric.items())


def _dose_score_rows(dose: DoseScores) -> Iterator[tuple[object, ...]]:
    yield ("body_mae", None, "from 5 Gy", "Gy", dose.body_mae_gy.mean, None, dose.body_mae_gy.n)
    for band in dose.bands:
        yield ("band_mae", None, band_label(band.from_percent, band.to_percent), "Gy", band.mae_gy, None, band.n)
    for level, dice in dose.isodose_dice.items():
        yield ("isodose_dice", None, f"{level} %", None, dice.mean, None, dice.n)
    for gamma in dose.gamma:
        yield ("gamma", None, gamma_label(asdict(gamma)), "%", gamma.mean_percent, None, gamma.n)


def _part_row(
    score: str, group: str | None, name: str | None, unit: str | None, part: Difference | MetricDifference
) -> tuple[object, ...]:
    return (score, group, name, unit, part.mean_absolute, part.mean_signed, part.n)


def _coverage_row(group: str, metric: str | None, share: Coverage | Share) -> tuple[object, ...]:
    return ("coverage", group, metric, "%", share.observed_percent, None, share.n)
