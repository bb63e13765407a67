"""``cdm-nnunet export``: predicted doses in the format of other software."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.errors import InputError

SUMMARY = "Write predicted doses for other software: RTDOSE, or a scene for 3D Slicer."
EXAMPLE = "cdm-nnunet export dicom predictions/case_1.nii.gz --source exports/case_1 -o predicted.dcm"
_SLICER_EXAMPLE = "cdm-nnunet export slicer predictions -d 501 -o slicer"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    _configure_slicer(
        _format(
            formats,
            "slicer",
            "CT, segments, predicted and reference dose of cases of a data set, and a scene that 3D Slicer opens.",
            _SLICER_EXAMPLE,
        )
    )
    dicom = _format(
        formats, "dicom", "RTDOSE in the patient's study, marked as a prediction that is not for treatment.", EXAMPLE
    )
    dicom.add_argument("prediction", type=Path, metavar="PREDICTION", help="predicted dose, .nii.gz, Gy")
    dicom.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="FOLDER|FILE",
        help="the patient's DICOM files: CT, and plan; or DATASET_sources.json of their conversion",
    )
    dicom.add_argument("-o", type=Path, required=True, metavar="FILE", help="the file to write")
    dicom.add_argument("--bits", type=int, choices=(16, 32), default=16, help="bits a voxel (default: 16)")
    dicom.add_argument("--plan", type=Path, metavar="FILE", help="the plan to refer to, if there are several")
    _options.add_match_geometry(dicom)
    dicom.add_argument(
        "--dose-type",
        choices=("PHYSICAL", "EFFECTIVE"),
        help="DoseType of the model's training doses (default: as in dataset.json next to the prediction)",
    )
    _options.add_json(dicom)


def _format(formats: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = formats.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _configure_slicer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prediction", type=Path, metavar="PREDICTION|FOLDER", help="predicted dose CASE.nii.gz, or a folder of them"
    )
    _options.add_dataset_id(parser)
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where a folder for each case goes")
    _options.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export."""
    return _run_slicer(args) if args.format == "slicer" else _run_dicom(args)


def _run_slicer(args: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.folders import find_dataset
    from cdm_nnunet.slicer.export import export_to_slicer

    cases = export_to_slicer(args.prediction, RawDataset(find_dataset(args.d)), args.o)
    return {"cases": [asdict(case) for case in cases]}


def _run_dicom(args: argparse.Namespace) -> dict[str, Any]:
    """Export.

    Returns:
        The file, its SOPInstanceUID, bits per voxel, the step and the maximum in Gy, the label of the plan, and notes.
    """
    from cdm_nnunet.dataset_conversion.dicom_sources import read_sources
    from cdm_nnunet.dicom.destination import find_destination
    from cdm_nnunet.dicom.export import export_dose

    case = args.prediction.name.removesuffix(".nii.gz")
    source = read_sources(args.source, case) if args.source.is_file() else args.source
    dose_type = _dose_type(args.prediction, args.dose_type)
    patient = find_destination(source, args.plan, match_geometry=args.match_geometry)
    exported = export_dose(args.prediction, patient, args.o, bits=args.bits, dose_type=dose_type)
    return {
        "file": str(exported.path),
        "sop_instance_uid": exported.sop_uid,
        "bits": exported.bits,
        "step_gy": exported.step_gy,
        "maximum_gy": exported.maximum_gy,
        "plan": exported.plan,
        "notes": list(exported.notes),
    }


def _dose_type(prediction: Path, given: str | None) -> str:
    """The given dose type, or that of the prediction's record; empty if neither states one."""
    from cdm_nnunet.dataset import cdm_section
    from cdm_nnunet.documents.reading import read_json

    beside = prediction.with_name("dataset.json")
    known = ""
    if beside.is_file():
        section = cdm_section(read_json(beside, dict[str, Any]), str(beside))
        known = section.get("facts", {}).get("dose_type", "")
    if given and known and given != known:
        raise InputError(f"--dose-type {given}, and {beside} says {known}; a model's doses are of one type")
    return given or known


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    if "cases" in record:
        return "\n".join(f"{case['scene']}: {len(case['segments'])} segments" for case in record["cases"])
    plan = "no plan" if record["plan"] is None else f"plan '{record['plan']}'"
    line = (
        f"{record['file']}: up to {record['maximum_gy']:.2f} Gy in steps of {record['step_gy']:.2g} Gy, for {plan}; "
        "a prediction, not for treatment"
    )
    return "\n".join([line, *(f"  {note}" for note in record["notes"])])
