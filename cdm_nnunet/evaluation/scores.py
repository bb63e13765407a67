"""Scores of a predicted dose against its reference; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Goal, Metric, Template, TemplateRoi, evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.record import CaseResult, GoalResult, MetricResult, OpenKbpTerms, RoiResult
from cdm_nnunet.roi import Catalogue

OPENKBP_TARGETS = ("PTV_7000", "PTV_6300", "PTV_5600")
OPENKBP_OARS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
OPENKBP_TARGET_METRICS = tuple(map(Metric.parse, ("D99%", "D95%", "D1%")))
OPENKBP_OAR_METRICS = tuple(map(Metric.parse, ("Dmean", "D0.1cc[openkbp]")))
SCORED_UNITS = ("Gy", "%")  # volumes in cc and HI are listed by metric, not pooled: their size says nothing beside Gy
SCORED_KINDS = {"ptv_score": "target", "oar_score": "oar"}
PRESCRIPTION_TOLERANCE_GY = 0.01


class _Term(NamedTuple):
    kind: str
    roi: str
    metric: str
    unit: str
    difference: float


def match_rois(template: Template, catalogue: Catalogue) -> dict[str, str | None]:
    """Catalogue name of each ROI of a template: by name, else by alias; None where the catalogue has neither.

    Raises:
        InputError: If no ROI with a goal in the evaluation is in the catalogue.
    """
    by_folded_name = {name.casefold(): name for name in catalogue.names}
    matched: dict[str, str | None] = {}
    for roi in template.rois:
        labels = (roi.name, *roi.aliases)
        matched[roi.name] = next((by_folded_name[n.casefold()] for n in labels if n.casefold() in by_folded_name), None)
    if not any(matched[goal.roi] for goal in template.goals_for("evaluation")):
        raise InputError(
            f"template '{template.name}' has no goal for the ROIs of this data set ({', '.join(catalogue.names)}); "
            "give another with --template, or add their names as aliases"
        )
    return matched


def dose_region_name(catalogue: Catalogue) -> str | None:
    """ROI in which the dose error is averaged: the dose region, else the external, else None (the whole grid)."""
    for kind in ("dose_region", "external"):
        for roi in catalogue.rois:
            if roi.kind == kind:
                return roi.name
    return None


def score_case(pair: DosePair, template: Template) -> CaseResult:
    """Evaluate one case.

    Args:
        pair: The doses and ROI masks of the case.
        template: Its goals with the use ``evaluation`` say which metrics.

    Raises:
        InputError: If the dose region is empty, or a present target lacks the prescription that a metric needs.
    """
    rois: dict[str, RoiResult] = {}
    missing: dict[str, str] = {}
    matched = match_rois(template, pair.catalogue)
    goals: dict[str, list[Goal]] = {}
    for goal in template.goals_for("evaluation"):
        goals.setdefault(goal.roi, []).append(goal)
    for name, roi_goals in goals.items():
        source_name = matched[name]
        mask = None if source_name is None else pair.roi_mask(source_name)
        if source_name is None:
            missing[name] = "not in the data set"
        elif mask is None or not mask.any():
            missing[name] = "no voxel on the dose grid" if source_name in pair.contoured else "not contoured"
        else:
            rois[name] = _score_roi(pair, template.roi(name), source_name, mask, roi_goals)
    return CaseResult(pair.case, _dose_mae_gy(pair), rois, missing, openkbp_terms(pair))


def pooled_scores(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Scores over all cases.

    Returns:
        ``dose_mae_gy``; ``openkbp`` with ``dose_score`` and ``dvh_score``, or None where the data set is not
        OpenKBP's; ``ptv_score`` and ``oar_score``, None without a term; ``parts`` that both are made of, for targets
        and OARs: split by unit, by metric and by ROI; ``goals``: verdicts of both doses by goal.
    """
    terms = [
        _Term(roi.kind, name, key, metric.unit, metric.difference)
        for case in cases
        for name, roi in case.rois.items()
        for key, metric in roi.metrics.items()
    ]
    by_kind = {kind: [term for term in terms if term.kind == kind] for kind in SCORED_KINDS.values()}
    scores: dict[str, Any] = {
        "dose_mae_gy": fmean(case.dose_mae_gy for case in cases),
        "openkbp": openkbp_scores([case.openkbp for case in cases if case.openkbp is not None]),
    }
    parts = {kind: _parts(by_kind[kind]) for kind in by_kind}
    for score, kind in SCORED_KINDS.items():
        scores[score] = parts[kind]["pooled"]["mean_absolute"]
    scores["parts"] = parts
    scores["goals"] = _verdicts(cases)
    return scores


def openkbp_terms(pair: DosePair) -> OpenKbpTerms | None:
    """What a case adds to OpenKBP's scores; None where the catalogue lacks the dose region or an ROI of OpenKBP.

    Unlike :attr:`CaseResult.dose_mae_gy` the dose error sums over the whole grid, and D0.1cc rounds as OpenKBP does.
    """
    region_bit = pair.catalogue.dose_region_bit
    if region_bit is None or not set(OPENKBP_TARGETS + OPENKBP_OARS) <= set(pair.catalogue.names):
        return None
    n_region = int(np.count_nonzero(pair.roi_mask(pair.catalogue.names[region_bit])))
    dose_error_gy = float(_absolute_error_gy(pair).sum()) / n_region
    errors: dict[str, float] = {}
    metrics = [(roi, m) for roi in OPENKBP_TARGETS for m in OPENKBP_TARGET_METRICS]
    metrics += [(roi, m) for roi in OPENKBP_OARS for m in OPENKBP_OAR_METRICS]
    for roi, metric in metrics:
        mask = pair.roi_mask(roi)
        if mask.any():
            errors[f"{roi} {metric}"] = abs(_evaluate_both(pair, mask, metric, None).difference)
    return OpenKbpTerms(dose_error_gy, errors)


def openkbp_scores(terms: Sequence[OpenKbpTerms]) -> dict[str, float | None] | None:
    """OpenKBP's dose score and DVH score (lower is better), pooled as its official evaluator does; None of nothing."""
    if not terms:
        return None
    dvh_errors_gy = [error for term in terms for error in term.dvh_errors_gy.values()]
    return {
        "dose_score": fmean(term.dose_error_gy for term in terms),
        "dvh_score": fmean(dvh_errors_gy) if dvh_errors_gy else None,
    }


def _score_roi(
    pair: DosePair, roi: TemplateRoi, source_name: str, mask: NDArray[np.bool_], goals: Iterable[Goal]
) -> RoiResult:
    prescription_gy = _prescription_gy(pair, roi, source_name)
    n_voxels = int(np.count_nonzero(mask))
    metrics: dict[str, MetricResult] = {}
    judged: list[GoalResult] = []
    for goal in goals:
        result = _evaluate_both(pair, mask, goal.metric, prescription_gy)
        metrics[str(goal.metric)] = result
        if goal.has_limit:
            verdicts = [goal.verdict(value, prescription_gy) for value in (result.reference, result.predicted)]
            judged.append(GoalResult(goal, goal.limit(prescription_gy), *verdicts))
    return RoiResult(roi.kind, n_voxels, n_voxels * pair.voxel_volume_cc, prescription_gy, metrics, tuple(judged))


def _evaluate_both(
    pair: DosePair, mask: NDArray[np.bool_], metric: Metric, prescription_gy: float | None
) -> MetricResult:
    reference, predicted = (
        evaluate(metric, dose_gy[mask], voxel_volume_cc=pair.voxel_volume_cc, prescription_gy=prescription_gy)
        for dose_gy in (pair.reference_dose_gy, pair.predicted_dose_gy)
    )
    return MetricResult(reference, predicted, metric.unit)


def _prescription_gy(pair: DosePair, roi: TemplateRoi, source_name: str) -> float | None:
    if roi.prescription_gy is None:
        return None
    own = pair.prescriptions_gy.get(source_name)
    if roi.prescription_gy == "patient":
        if own is None:
            raise InputError(f"case '{pair.case}': target '{source_name}' is present, but its prescription is unknown")
        return float(own)
    if own is not None and abs(own - roi.prescription_gy) > PRESCRIPTION_TOLERANCE_GY:
        raise InputError(
            f"case '{pair.case}': target '{source_name}' is prescribed {own:g} Gy, the template says "
            f"{roi.prescription_gy:g} Gy; a template for prescriptions that differ says 'patient'"
        )
    return roi.prescription_gy


def _absolute_error_gy(pair: DosePair) -> NDArray[np.float64]:
    return np.abs(pair.predicted_dose_gy.astype(np.float64) - pair.reference_dose_gy)


def _dose_mae_gy(pair: DosePair) -> float:
    error_gy = _absolute_error_gy(pair)
    region = dose_region_name(pair.catalogue)
    if region is None:
        return float(error_gy.mean())
    mask = pair.roi_mask(region)
    if not mask.any():
        raise InputError(f"case '{pair.case}': ROI '{region}', in which the dose error is averaged, has no voxel")
    return float(error_gy[mask].mean())


def _summary(terms: Sequence[_Term]) -> dict[str, Any]:
    if not terms:
        return {"mean_absolute": None, "mean_signed": None, "n": 0}
    return {
        "mean_absolute": fmean(abs(term.difference) for term in terms),
        "mean_signed": fmean(term.difference for term in terms),
        "n": len(terms),
    }


def _parts(terms: Sequence[_Term]) -> dict[str, Any]:
    metrics = dict.fromkeys((term.metric, term.unit) for term in terms)
    pooled = [term for term in terms if term.unit in SCORED_UNITS]
    rois = dict.fromkeys(term.roi for term in pooled)
    return {
        "pooled": _summary(pooled),
        "dose_gy": _summary([term for term in terms if term.unit == "Gy"]),
        "volume_percent": _summary([term for term in terms if term.unit == "%"]),
        "by_metric": {
            metric: {"unit": unit, **_summary([term for term in terms if term.metric == metric])}
            for metric, unit in metrics
        },
        "by_roi": {roi: _summary([term for term in pooled if term.roi == roi]) for roi in rois},
    }


def _verdicts(cases: Iterable[CaseResult]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for case in cases:
        for name, roi in case.rois.items():
            for result in roi.goals:
                row = table.setdefault(f"{name} {result.goal.metric}", _empty_row())
                row["n"] += 1
                row["reference"][result.reference] += 1
                row["predicted"][result.predicted] += 1
                row["agree"] += result.reference == result.predicted
    return table


def _empty_row() -> dict[str, Any]:
    def counts() -> dict[str, int]:
        return dict.fromkeys(("pass", "acceptable", "fail"), 0)

    return {"n": 0, "agree": 0, "reference": counts(), "predicted": counts()}
