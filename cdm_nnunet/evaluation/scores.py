"""Scores of a predicted dose against its reference; definitions in ``docs/conventions.md``, "Scores"."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Goal, Metric, Template, TemplateRoi, evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.doses import compare_doses, dose_region_name
from cdm_nnunet.evaluation.limits import mask_error, roi_surface
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.record import CaseResult, GoalResult, MetricResult, OpenKbpTerms, RoiResult
from cdm_nnunet.evaluation.rois import CaseRois, RoiVoxels
from cdm_nnunet.roi import Catalogue

OPENKBP_TARGETS = ("PTV_7000", "PTV_6300", "PTV_5600")
OPENKBP_OARS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
OPENKBP_TARGET_METRICS = tuple(map(Metric.parse, ("D99%", "D95%", "D1%")))
OPENKBP_OAR_METRICS = tuple(map(Metric.parse, ("Dmean", "D0.1cc[openkbp]")))
PRESCRIPTION_TOLERANCE_GY = 0.01


def match_rois(template: Template, catalogue: Catalogue) -> dict[str, str | None]:
    """Catalogue name of each ROI of a template: by name, else by alias, else by regex; None where none fits.

    Raises:
        InputError: If a regex fits several ROIs that no name or alias claims, or no ROI with a goal in the evaluation
            is in the catalogue.
    """
    by_folded_name = {name.casefold(): name for name in catalogue.names}
    matched: dict[str, str | None] = {}
    for roi in template.rois:
        labels = (roi.name, *roi.aliases)
        matched[roi.name] = next((by_folded_name[n.casefold()] for n in labels if n.casefold() in by_folded_name), None)
    free = [name for name in catalogue.names if name not in matched.values()]
    for roi in template.rois:
        fitting = [name for name in free if matched[roi.name] is None and roi.matches(name)]
        if len(fitting) > 1:
            raise InputError(
                f"template '{template.name}': the regex of ROI '{roi.name}' fits several ROIs of this data set "
                f"({', '.join(fitting)}); name one of them as an alias"
            )
        if fitting:
            matched[roi.name] = fitting[0]
            free.remove(fitting[0])
    if not any(matched[goal.roi] for goal in template.goals_for("evaluation")):
        raise InputError(
            f"template '{template.name}' has no goal for the ROIs of this data set ({', '.join(catalogue.names)}); "
            "give another with --template, or add their names as aliases"
        )
    return matched


def score_case(pair: DosePair, template: Template, *, gamma: bool = False) -> CaseResult:
    """Evaluate one case.

    Args:
        pair: The doses and ROI masks of the case.
        template: Its goals with the use ``evaluation`` say which metrics.
        gamma: Whether gamma pass rates are wanted; they take most of the time.

    Raises:
        InputError: If the dose region is empty, or a present target lacks the prescription that a metric needs.
    """
    rois: dict[str, RoiResult] = {}
    missing: dict[str, str] = {}
    matched = match_rois(template, pair.catalogue)
    goals: dict[str, list[Goal]] = {}
    for goal in template.goals_for("evaluation"):
        goals.setdefault(goal.roi, []).append(goal)
    voxels = CaseRois(pair)
    for name, roi_goals in goals.items():
        source_name = matched[name]
        found = None if source_name is None else voxels.get(source_name)
        if source_name is None:
            missing[name] = "not in the data set"
        elif found is None:
            missing[name] = "no voxel on the dose grid" if source_name in pair.contoured else "not contoured"
        else:
            prescription_gy = _prescription_gy(pair, template.roi(name), source_name)
            scored = _RoiScorer(pair, found, prescription_gy, _outside_region(pair, voxels, found))
            rois[name] = scored.result(template.roi(name), roi_goals)
    dose_mae_gy, dose = compare_doses(pair, gamma=gamma)
    return CaseResult(pair.case, dose_mae_gy, rois, missing, dose, openkbp_terms(pair, voxels))


def openkbp_terms(pair: DosePair, voxels: CaseRois | None = None) -> OpenKbpTerms | None:
    """What a case adds to OpenKBP's scores; None where the catalogue lacks the dose region or an ROI of OpenKBP.

    Unlike :attr:`CaseResult.dose_mae_gy` the dose error sums over the whole grid, and D0.1cc rounds as OpenKBP does.
    """
    region_bit = pair.catalogue.dose_region_bit
    if region_bit is None or not set(OPENKBP_TARGETS + OPENKBP_OARS) <= set(pair.catalogue.names):
        return None
    voxels = CaseRois(pair) if voxels is None else voxels
    n_region = int(np.count_nonzero(pair.roi_mask(pair.catalogue.names[region_bit])))
    error_gy = np.abs(pair.predicted_dose_gy - pair.reference_dose_gy)
    errors: dict[str, float] = {}
    metrics = [(roi, m) for roi in OPENKBP_TARGETS for m in OPENKBP_TARGET_METRICS]
    metrics += [(roi, m) for roi in OPENKBP_OARS for m in OPENKBP_OAR_METRICS]
    for roi, metric in metrics:
        found = voxels.get(roi)
        if found is not None:
            reference, predicted = (
                evaluate(metric, dose_gy, voxel_volume_cc=pair.voxel_volume_cc)
                for dose_gy in (found.reference_gy, found.predicted_gy)
            )
            errors[f"{roi} {metric}"] = abs(predicted - reference)
    return OpenKbpTerms(float(error_gy.sum(dtype=np.float64)) / n_region, errors)


class _RoiScorer:
    """The metrics of one present ROI."""

    def __init__(
        self, pair: DosePair, voxels: RoiVoxels, prescription_gy: float | None, outside_region_percent: float | None
    ) -> None:
        self._pair = pair
        self._voxels = voxels
        self._prescription_gy = prescription_gy
        self._outside_region_percent = outside_region_percent
        self._surface = roi_surface(pair.reference_dose_gy, voxels.mask, voxels.box)

    def result(self, roi: TemplateRoi, goals: Iterable[Goal]) -> RoiResult:
        """Everything about the ROI."""
        metrics: dict[str, MetricResult] = {}
        judged: list[GoalResult] = []
        for goal in goals:
            metrics[str(goal.metric)] = metric = self._metric(goal.metric)
            if goal.has_limit:
                judged.append(self._judge(goal, metric))
        voxels = self._voxels
        distance_gy = np.abs(voxels.predicted_gy.astype(np.float64) - voxels.reference_gy).mean()
        return RoiResult(
            roi.kind,
            voxels.n,
            voxels.n * self._pair.voxel_volume_cc,
            self._prescription_gy,
            metrics,
            tuple(judged),
            voxels.cut_by_grid,
            self._outside_region_percent,
            float(distance_gy),
        )

    def _value(self, metric: Metric, roi_dose_gy: NDArray[np.floating]) -> float:
        volume_cc = self._pair.voxel_volume_cc
        return evaluate(metric, roi_dose_gy, voxel_volume_cc=volume_cc, prescription_gy=self._prescription_gy)

    def _metric(self, metric: Metric) -> MetricResult:
        voxels = self._voxels
        members = [self._value(metric, dose_gy) for dose_gy in voxels.members_gy]
        return MetricResult(
            self._value(metric, voxels.reference_gy),
            self._value(metric, voxels.predicted_gy),
            metric.unit,
            mask_error(
                metric,
                self._surface,
                voxels.reference_gy,
                voxel_volume_cc=self._pair.voxel_volume_cc,
                prescription_gy=self._prescription_gy,
            ),
            float(np.std(members, ddof=1)) if members else None,
        )

    def _judge(self, goal: Goal, metric: MetricResult) -> GoalResult:
        limit = goal.limit(self._prescription_gy)
        variation = goal.variation
        if variation is not None and goal.unit == "% of prescription" and self._prescription_gy is not None:
            variation = variation * self._prescription_gy / 100.0
        verdicts = [goal.verdict(value, self._prescription_gy) for value in (metric.reference, metric.predicted)]
        ends = [bound for bound in (limit, variation) if bound is not None]
        near = metric.mask_error is not None and any(abs(metric.reference - end) < metric.mask_error for end in ends)
        return GoalResult(goal, limit, variation, *verdicts, within_mask_error=near)


def _outside_region(pair: DosePair, rois: CaseRois, voxels: RoiVoxels) -> float | None:
    region = dose_region_name(pair.catalogue)
    if region is None:
        return None
    n_outside = np.count_nonzero(voxels.mask & ~rois.mask(region, voxels.box))
    return 100.0 * float(n_outside) / voxels.n


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
