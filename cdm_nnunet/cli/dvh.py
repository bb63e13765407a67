"""``cdm-nnunet dvh``: DVH metrics of a planned dose straight from DICOM files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli import _options
from cdm_nnunet.errors import InputError

if TYPE_CHECKING:
    from cdm_nnunet.dicom.prescriptions import StatedLevels
    from cdm_nnunet.dicom.structures import StructureSet
    from cdm_nnunet.dvh import Metric, Template, TemplateRoi
    from cdm_nnunet.geometry.roi_contours import RoiContours

SUMMARY = "DVH metrics straight from DICOM files, by integration inside the contours."
EXAMPLE = "cdm-nnunet dvh --rtstruct RS.dcm --rtdose RD.dcm --rtplan RP.dcm --metrics D95% D2% Dmean V95%"
DEFAULT_METRICS = ("D98%", "D95%", "D50%", "D2%", "D0.03cc", "Dmean")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--rtstruct", type=Path, required=True, metavar="FILE", help="structure set")
    parser.add_argument(
        "--rtdose", type=Path, required=True, nargs="+", metavar="FILE", help="dose, or one file for each beam"
    )
    parser.add_argument("--rtplan", type=Path, metavar="FILE", help="plan: prescriptions, and which beams there are")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        help=f"for example D95%% D0.03cc V20Gy (default: {' '.join(DEFAULT_METRICS).replace('%', '%%')})",
    )
    chosen.add_argument("--template", metavar="NAME|FILE", help="clinical template: its ROIs, each with its metrics")
    parser.add_argument("--roi", action="append", metavar="NAME", help="an ROI of the file; repeatable (default: all)")
    _options.add_end_caps(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate.

    Returns:
        By ROI name in the file: ``end_caps``, ``volume_cc``, the metrics by key, ``template_roi`` where a template says
        which it is, ``lost_cc`` where a part lies outside the dose grid, and ``undefined`` with the reason by metric
        where the ROI can't have one.
    """
    from cdm_nnunet.dicom.dose import read_dose
    from cdm_nnunet.dicom.dvh import roi_dvh
    from cdm_nnunet.dicom.plan import read_plan
    from cdm_nnunet.dicom.prescriptions import stated_levels
    from cdm_nnunet.dicom.structures import read_structures
    from cdm_nnunet.dvh import Metric, Template
    from cdm_nnunet.dvh.values import refuse_of_plan

    metrics = [Metric.parse(key) for key in dict.fromkeys(args.metrics or DEFAULT_METRICS)]
    refuse_of_plan(metrics)
    template = None if args.template is None else Template.load(args.template)
    structures = read_structures(args.rtstruct)
    plan = None if args.rtplan is None else read_plan(args.rtplan)
    if plan is not None and plan.structure_uid and plan.structure_uid != structures.sop_uid:
        raise InputError(f"{plan.path} was made with another structure set than {structures.path}")
    stated = None if plan is None else stated_levels([plan], structures)
    dose = read_dose(args.rtdose, plan)
    notes = list(dose.notes)
    record: dict[str, Any] = {}
    rois = _rois(structures, args.roi)
    of_template = {} if template is None else _of_template(template, rois)
    for roi in rois:
        wanted = metrics if template is None else _template_metrics(template, of_template.get(roi.name))
        if not wanted or (roi.problem and not args.roi):
            notes += [roi.problem] if roi.problem else []
            continue
        of_plan = [str(metric) for metric in wanted if metric.of_plan]
        if of_plan:
            notes.append(f"ROI '{roi.name}': {', '.join(of_plan)} left out; 'cdm-nnunet evaluate' gives them, on masks")
            wanted = [metric for metric in wanted if not metric.of_plan]
        relative = any(metric.needs_prescription for metric in wanted)
        prescription_gy = _prescription_gy(roi, stated, of_template.get(roi.name), notes) if relative else None
        known = [metric for metric in wanted if prescription_gy is not None or not metric.needs_prescription]
        if len(known) < len(wanted):
            left_out = ", ".join(str(metric) for metric in wanted if metric not in known)
            notes.append(f"ROI '{roi.name}' has no prescription: {left_out} left out")
        try:
            result = roi_dvh(roi, structures, dose, known, prescription_gy=prescription_gy, end_caps=args.end_caps)
        except InputError as error:
            if args.roi or "frames of reference" in str(error):
                raise
            notes.append(f"left out: {error}")
            continue
        notes += result.notes
        record[roi.name] = {"end_caps": args.end_caps, "volume_cc": result.volume_cc}
        record[roi.name] |= {"template_roi": of_template[roi.name].name} if roi.name in of_template else {}
        record[roi.name] |= {"lost_cc": result.lost_cc} if result.lost_cc else {}
        record[roi.name] |= result.values
        record[roi.name] |= {"undefined": result.undefined} if result.undefined else {}
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
    _refuse_nothing(record, notes, metrics if template is None else (), structures)
    return record


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    found = dict.fromkeys(key for row in record.values() for key in (*row, *row.get("undefined", ())))
    keys = [key for key in found if key not in ("end_caps", "template_roi", "undefined")]
    ends = dict.fromkeys(row["end_caps"] for row in record.values())
    width = max(len(name) for name in record) + 2
    columns = {key: max(14, len(_head(key)) + 2) for key in keys}
    header = f"{'ROI':<{width}}" + "".join(f"{_head(key):>{column}}" for key, column in columns.items())
    rows = [
        f"{name:<{width}}" + "".join(f"{_cell(row, key):>{column}}" for key, column in columns.items())
        for name, row in record.items()
    ]
    return "\n".join([f"ends of ROIs: {', '.join(ends)}", header, *rows])


def _rois(structures: StructureSet, names: Sequence[str] | None) -> list[RoiContours]:
    return [structures.roi(name) for name in dict.fromkeys(names or structures.names)]


def _of_template(template: Template, rois: Sequence[RoiContours]) -> dict[str, TemplateRoi]:
    """Which ROI of the template each ROI of the file is, by its name in the file; what can't be used does not count.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.match_rois`.
    """
    from cdm_nnunet.dvh import match_rois

    matched = match_rois(template, [roi.name for roi in rois if not roi.problem])
    return {match.source: template.roi(name) for name, match in matched.items()}


def _template_metrics(template: Template, roi: TemplateRoi | None) -> list[Metric]:
    return list(dict.fromkeys(goal.metric for goal in template.goals if roi is not None and goal.roi == roi.name))


def _prescription_gy(
    roi: RoiContours, stated: StatedLevels | None, known: TemplateRoi | None, notes: list[str]
) -> float | None:
    """The plan's prescription to the ROI; else the plan's only level, if it is for no ROI; else the template's."""
    own = () if stated is None else stated.of_rois.get(roi.number, ())
    if len(own) > 1:
        notes.append(f"ROI '{roi.name}': the plan prescribes {' and '.join(f'{gy:g}' for gy in own)} Gy to it")
        return None
    if own:
        return own[0]
    if stated is not None and len(stated.all_gy) == len(stated.without_roi) == 1:
        notes.append(f"percent of the prescription are of {stated.all_gy[0]:g} Gy, which the plan states for no ROI")
        return stated.all_gy[0]
    return known.prescription_gy if known is not None and isinstance(known.prescription_gy, float) else None


def _refuse_nothing(
    record: Mapping[str, Any], notes: Sequence[str], metrics: Sequence[Metric], structures: StructureSet
) -> None:
    """Refuse a result without an ROI, or without one that could have a metric that was asked for."""
    if not record:
        reasons = "; ".join(notes) or f"the template has none of {', '.join(structures.names)}"
        raise InputError(f"{structures.path}: no ROI can be evaluated: {reasons}")
    for metric in metrics:
        if not any(str(metric) in (*row, *row.get("undefined", ())) for row in record.values()):
            raise InputError(
                f"{metric} is a percentage of the prescription, and none is known; give the plan (--rtplan) that "
                "has one for the ROI, or use Gy"
            )


def _head(key: str) -> str:
    if key in ("volume_cc", "lost_cc"):
        return f"{key.removesuffix('_cc')} (cc)"
    from cdm_nnunet.dvh import Metric

    unit = Metric.parse(key).unit
    return f"{key} ({unit})" if unit else key


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key in row:
        return f"{row[key]:.2f}"
    return "not defined" if key in row.get("undefined", ()) else ""
