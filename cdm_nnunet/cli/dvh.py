"""``cdm-nnunet dvh``: DVH metrics of a planned dose directly from DICOM files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli import _options

if TYPE_CHECKING:
    from cdm_nnunet.geometry.contour_dvh import RoiDvh

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
        By ROI name in the file: ``end_caps``, ``volume_cc``, the metrics by key, ``template_roi`` if it is in
        the template, ``lost_cc`` if a part lies outside the dose grid, and ``undefined`` with the reason by metric
        that does not apply.
    """
    from cdm_nnunet.dicom.plan_dvh import PlanDvhRequest, plan_dvh
    from cdm_nnunet.dvh import Metric, Template

    request = PlanDvhRequest(
        args.rtstruct,
        tuple(args.rtdose),
        args.rtplan,
        tuple(Metric.parse(key) for key in dict.fromkeys(args.metrics or DEFAULT_METRICS)),
        None if args.template is None else Template.load(args.template),
        tuple(args.roi or ()),
        args.end_caps,
    )
    done = plan_dvh(request)
    for note in done.notes:
        print(note, file=sys.stderr)
    return {name: _row(args.end_caps, result, done.template_rois.get(name)) for name, result in done.rois.items()}


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
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


def _row(end_caps: str, result: RoiDvh, template_roi: str | None) -> dict[str, Any]:
    return {
        "end_caps": end_caps,
        "volume_cc": result.volume_cc,
        **({} if template_roi is None else {"template_roi": template_roi}),
        **({"lost_cc": result.lost_cc} if result.lost_cc else {}),
        **result.values,
        **({"undefined": result.undefined} if result.undefined else {}),
    }


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
