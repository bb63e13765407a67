"""``cdm-nnunet inspect``: what is in a folder of patients, and what conversion would refuse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted
from cdm_nnunet.errors import printable

SUMMARY = "Look into a folder of DICOM exports: patients, ROI names, prescriptions, and what can't be converted."
EXAMPLE = "cdm-nnunet inspect dicom exports -o inspection --template clinic.json"
WRITES = ("o",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("format", choices=("dicom",), help="format of the files")
    _options.add_dicom_source(parser)
    parser.add_argument(
        "-o",
        type=Path,
        default=Path("inspection"),
        metavar="FOLDER",
        help="output folder: rois.yaml to review, and tables with patient ids (default: inspection)",
    )
    parser.add_argument(
        "--headers-only", action="store_true", help="read headers only, not the values of CT images and doses: faster"
    )
    parser.add_argument(
        "--template",
        metavar="NAME|FILE",
        help="clinical template: load every patient as 'convert dicom' would, and show its refusals and notes",
    )
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", help="mapping to use; it is not changed (default: rois.yaml of -o)"
    )
    parser.add_argument(
        "--leave-out-helpers",
        action="store_true",
        help="let one line of rois.yaml leave out all names that look like helper structures",
    )
    _options.add_dicom_rules(parser, "with --template: as in convert")
    _options.add_processes(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Inspect; the record is that of :func:`cdm_nnunet.dataset_conversion.inspect_dicom.inspect_dicom`."""
    from cdm_nnunet.dataset_conversion.inspect_dicom import Inspection, inspect_dicom
    from cdm_nnunet.dvh import Template

    inspection = Inspection(
        args.source,
        args.o,
        mapping=args.mapping,
        template=None if args.template is None else Template.load(args.template),
        grid=args.grid,
        end_caps=args.end_caps,
        match_geometry=args.match_geometry,
        exclude=tuple(args.exclude),
        headers_only=args.headers_only,
        leave_out_helpers=args.leave_out_helpers,
        n_processes=_options.n_processes(args),
    )
    return inspect_dicom(inspection, _bar)


def _bar(label: str) -> Callable[[int, int], None]:
    from cdm_nnunet.progress import progress

    shown = progress(desc=label, unit="item", leave=False)

    def tell(done: int, total: int) -> None:
        shown.total = total
        shown.update(done - shown.n)

    return tell


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    from cdm_nnunet.dicom.unread import unread_lines

    patients = record["patients"]
    fit = sum(row["convertible"] for row in patients.values())
    files = counted(record["files"], "DICOM file")
    lines = [f"{counted(len(patients), 'patient')} in {files}; {fit} can be converted"]
    lines += [f"refused: {text}" for text in record.get("problems", ())]
    lines += [*(f"not read: {line}" for line in unread_lines(record["unread"])), *record["remarks"]]
    for case, row in patients.items():
        levels = ", ".join(f"{name} {gy:g} Gy" for name, gy in row["prescriptions_gy"].items()) or "no prescription"
        images, doses = counted(row["ct_images"], "CT image"), counted(row["doses"], "dose")
        lines.append(f"{case}: {images}, {doses}, {levels}")
        lines += [f"  refused: {text}" for text in row["problems"]] + [f"  {text}" for text in row["notes"]]
    lines += ["", f"{'ROI':<28}{'patients':>9}{'empty':>7}  proposal"]
    for name, row in sorted(record["rois"].items(), key=lambda item: -item[1]["patients"]):
        proposal = "" if row["proposal"] is None else f"{row['proposal']} ({row['confidence']})"
        lines.append(
            f"{name:<28}{row['patients']:>9}{row['empty']:>7}  {proposal or ('helper' if row['helper'] else '')}"
        )
    if record["new_names"]:
        lines += ["", f"new in the mapping, to review: {', '.join(record['new_names'])}"]
    if record["to_add"]:
        lines += ["", f"to be added by hand: {record['to_add']}"]
    # (here, because a name may contain line breaks)
    lines += ["", f"mapping to review: {record['mapping']}", f"table: {record['table']}"]
    return "\n".join(printable(line) for line in lines)
