"""``cdm-nnunet convert``: patients into raw nnU-Net data sets, and predictions into the format of a source."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _convert_dicom
from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import usable_cores

SUMMARY = "Convert planned patients into a raw nnU-Net data set (resumable), or predicted doses back."
_NAMES_SHOWN = 3
EXAMPLE = "cdm-nnunet convert openkbp open-kbp/provided-data -d 501 -n OpenKBP -np 4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    conversions = parser.add_subparsers(dest="conversion", metavar="CONVERSION", required=True)

    openkbp = _conversion(
        conversions,
        "openkbp",
        "OpenKBP's CSV files, in the published folders or as a folder of pt_N folders.",
        "cdm-nnunet convert openkbp open-kbp/provided-data -d 501 -n OpenKBP -np 4",
    )
    openkbp.add_argument("source", type=Path, metavar="SOURCE", help="folder with train-pats, validation-pats, ...")
    _add_dataset(openkbp)
    openkbp.add_argument(
        "--template", default="openkbp", metavar="NAME|FILE", help="clinical template (default: openkbp)"
    )
    _add_choice_of_patients(openkbp, "pt_N")

    dicom = _conversion(conversions, "dicom", _convert_dicom.SUMMARY, _convert_dicom.EXAMPLE)
    _convert_dicom.configure(dicom)
    _add_dataset(dicom)

    nifti = _conversion(
        conversions,
        "nifti",
        "CT, dose and masks in NIfTI files: a folder a patient, or a CSV table (see docs/data.md).",
        "cdm-nnunet convert nifti patients -d 503 -n Clinic --template clinic.json",
    )
    nifti.add_argument("source", type=Path, metavar="SOURCE", help="folder with one folder a patient, or a CSV table")
    _add_dataset(nifti)
    _add_choice_of_patients(nifti, "CASE")
    nifti.add_argument(
        "--resample-dose",
        action="store_true",
        help="a dose on its own grid is resampled linearly to the CT's (default: refused)",
    )
    nifti.add_argument(
        "--template", required=True, metavar="NAME|FILE", help="clinical template: ROIs and their aliases"
    )

    gdphmm = _conversion(
        conversions,
        "gdphmm",
        "NPZ files of the GDP-HMM challenge with its JSON files; their pickles are read, not run.",
        "cdm-nnunet convert gdphmm GDP-HMM_Challenge --meta meta_files -d 504 -n GdpHmm -np 4",
    )
    gdphmm.add_argument("source", type=Path, metavar="SOURCE", help="folder with PATIENT+PLAN+....npz at any depth")
    gdphmm.add_argument(
        "--meta", type=Path, metavar="FOLDER", help="folder of PTV_DICT.json (default: SOURCE/meta_files)"
    )
    _add_dataset(gdphmm)
    gdphmm.add_argument("--template", default="gdphmm", metavar="NAME|FILE", help="clinical template (default: gdphmm)")
    gdphmm.add_argument(
        "--exclude", action="append", default=[], metavar="NAME", help="a patient or plan to leave out; repeatable"
    )

    synthetic = _conversion(
        conversions,
        "synthetic",
        "Head-and-neck phantom patients, made by formulas, to try the software without patient data.",
        "cdm-nnunet convert synthetic -d 500 -n Demo --patients 12 --test-patients 3",
    )
    _add_dataset(synthetic)
    synthetic.add_argument("--patients", type=int, default=12, metavar="N", help="for training (default: 12)")
    synthetic.add_argument("--test-patients", type=int, default=3, metavar="N", help="for testing (default: 3)")
    synthetic.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other patients (default: 0)")

    back = _conversion(
        conversions,
        "to-openkbp",
        "Predicted doses into the CSV files that OpenKBP's scoring code reads.",
        "cdm-nnunet convert to-openkbp predictions -d 501 -o submission",
    )
    back.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predictions, CASE.nii.gz")
    back.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id of the converted patients")
    back.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the CSV files go")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert.

    Returns:
        The record of the conversion: cases converted and unchanged, absent ROIs, the data set's folder, seconds; or,
        for ``to-openkbp``, the folder and the names of the cases.
    """
    record: dict[str, Any] = {
        "openkbp": _openkbp,
        "dicom": lambda given: _convert_dicom.run(given, _n_processes(given)),
        "nifti": _nifti,
        "gdphmm": _gdphmm,
        "synthetic": _synthetic,
        "to-openkbp": _to_openkbp,
    }[args.conversion](args)
    return record


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    if "predictions" in record:
        return f"{len(record['predictions'])} predicted doses written to {record['folder']}"
    absent = [f"{name} {count}" for name, count in record["absent_rois"].items() if count]
    lines = [
        f"{record['cases']} cases ({record['training_cases']} for training, {record['test_cases']} for testing): "
        f"{len(record['converted'])} converted, {len(record['unchanged'])} unchanged, {record['seconds']:.1f} s",
        f"cases without an ROI: {', '.join(absent) or 'none'}",
    ]
    if record["one_sided_rois"]:
        names = ", ".join(record["one_sided_rois"])
        lines.append(f"no left-right mirroring in training and prediction, for want of the other side: {names}")
    for group in record["same_images"]:
        lines.append(f"{', '.join(group)}: the same CT or dose under several names; kept on one side of every fold")
    for name, rois in record["empty_rois"].items():
        lines.append(f"counted as absent, for want of a single voxel: {', '.join(rois)} of {name}")
    if unused := record.get("unused_masks"):
        counted = ", ".join(f"{name} ({count} cases)" for name, count in unused.items())
        lines.append(f"masks that are no ROI of the template, not used: {counted}")
    for key, label in (("excluded", "left out on purpose"), ("without_reference_dose", "without reference dose")):
        if record[key]:
            lines.append(f"{label}: {', '.join(record[key])}")
    if "end_caps" in record:
        lines.append(f"ends of ROIs: {record['end_caps']}")
    lines += [*(f"not read: {line}" for line in record["unread"]), *record["remarks"]]
    lines += note_lines(record["notes"])
    return "\n".join([*lines, f"dataset: {record['dataset']}"])


def note_lines(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by case as lines; one that many cases have alike comes once, with their names."""
    cases: dict[str, list[str]] = {}
    for name, texts in notes.items():
        for text in dict.fromkeys(texts):
            cases.setdefault(text, []).append(name)
    lines = []
    for text, names in cases.items():
        others = f" and {len(names) - _NAMES_SHOWN} others" if len(names) > _NAMES_SHOWN else ""
        lines.append(f"note: {text} [{', '.join(names[:_NAMES_SHOWN])}{others}]")
    return lines


def _openkbp(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset_conversion.openkbp import convert_openkbp
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.folders import folder

    record: dict[str, Any] = convert_openkbp(
        args.source,
        folder("nnUNet_raw"),
        args.d,
        args.n,
        template=Template.load(args.template),
        exclude=args.exclude,
        test_only=args.test_only,
        n_processes=_n_processes(args),
    ).to_json()
    return record


def _nifti(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset_conversion.nifti import convert_nifti
    from cdm_nnunet.dataset_conversion.roi_mapping import unused_masks
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.folders import folder

    conversion = convert_nifti(
        args.source,
        folder("nnUNet_raw"),
        args.d,
        args.n,
        Template.load(args.template),
        exclude=args.exclude,
        test_only=args.test_only,
        resample_dose=args.resample_dose,
        n_processes=_n_processes(args),
    )
    return {**conversion.to_json(), "unused_masks": unused_masks(conversion.cases.values())}


def _gdphmm(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset_conversion.gdphmm import convert_gdphmm
    from cdm_nnunet.dataset_conversion.roi_mapping import unused_masks
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.folders import folder

    conversion = convert_gdphmm(
        args.source,
        folder("nnUNet_raw"),
        args.d,
        args.n,
        meta=args.meta,
        template=Template.load(args.template),
        exclude=args.exclude,
        n_processes=_n_processes(args),
    )
    return {**conversion.to_json(), "unused_masks": unused_masks(conversion.cases.values())}


def _synthetic(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset_conversion.synthetic import convert_synthetic
    from cdm_nnunet.folders import folder

    record: dict[str, Any] = convert_synthetic(
        folder("nnUNet_raw"),
        args.d,
        args.n,
        n_training=args.patients,
        n_test=args.test_patients,
        seed=args.seed,
        n_processes=_n_processes(args),
    ).to_json()
    return record


def _to_openkbp(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dataset_conversion.openkbp import write_predictions
    from cdm_nnunet.folders import find_dataset

    names = write_predictions(args.predictions, args.o, RawDataset(find_dataset(args.d)))
    return {"folder": str(args.o), "predictions": list(names)}


def _conversion(
    conversions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    parser = conversions.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # (the verb has the flag too; suppressed, so that either place sets it)
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on stdout"
    )
    return parser


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="number of the new dataset, for example 501")
    parser.add_argument("-n", required=True, metavar="NAME", help="name of the new dataset")
    parser.add_argument("-np", type=int, default=_default_processes(), metavar="N", help="processes (default: cores)")


def _add_choice_of_patients(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--exclude", action="append", default=[], metavar=name, help="a patient to leave out on purpose; repeatable"
    )
    parser.add_argument(
        "--test-only", action="store_true", help="keep all patients from training; they need no reference dose"
    )


def _default_processes() -> int:
    return min(8, usable_cores())


def _n_processes(args: argparse.Namespace) -> int:
    if args.np < 1:
        raise InputError(f"-np takes a number of processes from 1, not {args.np}")
    return int(args.np)
