"""DVH metrics of a planned dose, directly from a structure set, a dose and a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.dvh import roi_dvh
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.prescriptions import StatedLevels, stated_levels
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.dvh import Metric, Template, TemplateRoi, match_rois
from cdm_nnunet.dvh.values import refuse_of_plan
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.contour_dvh import RoiDvh
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.roi_contours import RoiContours


@dataclass(frozen=True)
class PlanDvhRequest:
    """Files of a plan, and the requested metrics.

    Attributes:
        structures: Structure set.
        doses: The dose, or one file per beam.
        plan: Plan with prescriptions and beams.
        metrics: Metrics for every ROI; not used with a template.
        template: Template with ROIs and their metrics.
        rois: Names in the file; empty for all.
        end_caps: How contours end at the first and last slice.
    """

    structures: Path
    doses: tuple[Path, ...]
    plan: Path | None = None
    metrics: tuple[Metric, ...] = ()
    template: Template | None = None
    rois: tuple[str, ...] = ()
    end_caps: EndCaps = DEFAULT_END_CAPS

    def metrics_of(self, roi: TemplateRoi | None) -> list[Metric]:
        """The metrics of an ROI: the common ones, or those of its goals."""
        if self.template is None:
            return list(self.metrics)
        return list(
            dict.fromkeys(goal.metric for goal in self.template.goals if roi is not None and goal.roi == roi.name)
        )


@dataclass(frozen=True)
class PlanDvh:
    """Result for a plan.

    Attributes:
        rois: Results by name in the file.
        template_rois: Name in the template by name in the file.
        notes: Remarks for the user.
    """

    rois: dict[str, RoiDvh]
    template_rois: dict[str, str]
    notes: tuple[str, ...]


def plan_dvh(request: PlanDvhRequest) -> PlanDvh:
    """Evaluate a planned dose in the contours.

    Args:
        request: Files and metrics.

    Raises:
        InputError: If the files are damaged or don't belong together, no ROI can be evaluated, or no requested
            metric applies to any ROI.
    """
    refuse_of_plan(request.metrics)
    structures = read_structures(request.structures)
    plan = _plan_of(request, structures)
    stated = None if plan is None else stated_levels([plan], structures)
    dose = read_dose(request.doses, plan)
    notes = list(dose.notes)
    rois = [structures.roi(name) for name in dict.fromkeys(request.rois or structures.names)]
    of_template = {} if request.template is None else _of_template(request.template, rois)
    results: dict[str, RoiDvh] = {}
    for roi in rois:
        known = of_template.get(roi.name)
        wanted = request.metrics_of(known)
        if not wanted or (roi.problem and not request.rois):
            notes += [roi.problem] if roi.problem else []
            continue
        metrics, prescription_gy = _defined(roi, wanted, stated, known, notes)
        try:
            result = roi_dvh(roi, structures, dose, metrics, prescription_gy=prescription_gy, end_caps=request.end_caps)
        except InputError as error:
            if request.rois or "frames of reference" in str(error):
                raise
            notes.append(f"left out: {error}")
            continue
        notes += result.notes
        results[roi.name] = result
    _refuse_nothing(results, notes, request, structures)
    names = {name: of_template[name].name for name in results if name in of_template}
    return PlanDvh(results, names, tuple(dict.fromkeys(notes)))


def _plan_of(request: PlanDvhRequest, structures: StructureSet) -> Plan | None:
    plan = None if request.plan is None else read_plan(request.plan)
    if plan is not None and plan.structure_uid and plan.structure_uid != structures.sop_uid:
        raise InputError(f"{plan.path} was made with another structure set than {structures.path}")
    return plan


def _of_template(template: Template, rois: Sequence[RoiContours]) -> dict[str, TemplateRoi]:
    """Template ROI of each ROI in the file, by its name in the file; unusable ROIs are left out.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.match_rois`.
    """
    matched = match_rois(template, [roi.name for roi in rois if not roi.problem])
    return {match.source: template.roi(name) for name, match in matched.items()}


def _defined(
    roi: RoiContours,
    wanted: Sequence[Metric],
    stated: StatedLevels | None,
    known: TemplateRoi | None,
    notes: list[str],
) -> tuple[list[Metric], float | None]:
    """The metrics that apply to an ROI from contours, and its prescription if one of them needs it."""
    of_plan = [str(metric) for metric in wanted if metric.of_plan]
    if of_plan:
        notes.append(f"ROI '{roi.name}': {', '.join(of_plan)} left out; 'cdm-nnunet evaluate' gives them, on masks")
    wanted = [metric for metric in wanted if not metric.of_plan]
    relative = any(metric.needs_prescription for metric in wanted)
    prescription_gy = _prescription_gy(roi, stated, known, notes) if relative else None
    defined = [metric for metric in wanted if prescription_gy is not None or not metric.needs_prescription]
    if len(defined) < len(wanted):
        left_out = ", ".join(str(metric) for metric in wanted if metric not in defined)
        notes.append(f"ROI '{roi.name}' has no prescription: {left_out} left out")
    return defined, prescription_gy


def _prescription_gy(
    roi: RoiContours, stated: StatedLevels | None, known: TemplateRoi | None, notes: list[str]
) -> float | None:
    """The plan's prescription for the ROI, else the plan's only level if it names no ROI, else the template's."""
    own = () if stated is None else stated.of_rois.get(roi.number, ())
    if len(own) > 1:
        notes.append(f"ROI '{roi.name}': the plan prescribes {' and '.join(f'{gy:g}' for gy in own)} Gy to it")
        return None
    if own:
        return own[0]
    if stated is not None and len(stated.all_gy) == len(stated.without_roi) == 1:
        notes.append(
            f"percent of the prescription refer to {stated.all_gy[0]:g} Gy, which the plan states without an ROI"
        )
        return stated.all_gy[0]
    return known.prescription_gy if known is not None and isinstance(known.prescription_gy, float) else None


def _refuse_nothing(
    results: dict[str, RoiDvh], notes: Sequence[str], request: PlanDvhRequest, structures: StructureSet
) -> None:
    """Refuse a result without ROIs, or without any requested metric."""
    if not results:
        reasons = "; ".join(notes) or f"the template has none of {', '.join(structures.names)}"
        raise InputError(f"{structures.path}: no ROI can be evaluated: {reasons}")
    for metric in request.metrics if request.template is None else ():
        if not any(str(metric) in (*result.values, *result.undefined) for result in results.values()):
            raise InputError(
                f"{metric} is a percentage of the prescription, and none is known; give the plan (--rtplan) that "
                "has one for the ROI, or use Gy"
            )
