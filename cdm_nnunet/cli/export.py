"""``cdm-nnunet export``: predicted doses in the format of other software."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.errors import InputError

SUMMARY = "Write a predicted dose in a format that other software takes: RTDOSE for the planning system."
EXAMPLE = "cdm-nnunet export dicom predictions/case_1.nii.gz --source exports/case_1 -o predicted.dcm"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    summary = "RTDOSE in the patient's study, marked as a prediction that is not for treatment."
    dicom = formats.add_parser(
        "dicom",
        help=summary,
        description=summary,
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    dicom.add_argument("--plan", type=Path, metavar="FILE", help="the plan to refer to, where there are several")
    _options.add_match_geometry(dicom)
    dicom.add_argument(
        "--dose-type",
        choices=("PHYSICAL", "EFFECTIVE"),
        help="of the doses that the model learnt from (default: what dataset.json beside the prediction says)",
    )
    _options.add_json(dicom)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Export.

    Returns:
        The file, its SOPInstanceUID, bits a voxel, the step and the maximum in Gy, the label of the plan, and notes.
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
    """The dose type that was given, or that of the prediction's record; empty where neither states one."""
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
    """Word the record for a person."""
    plan = "no plan" if record["plan"] is None else f"plan '{record['plan']}'"
    line = (
        f"{record['file']}: up to {record['maximum_gy']:.2f} Gy in steps of {record['step_gy']:.2g} Gy, for {plan}; "
        "a prediction, not for treatment"
    )
    return "\n".join([line, *(f"  {note}" for note in record["notes"])])
