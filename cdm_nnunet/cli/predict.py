"""``cdm-nnunet predict``: doses of new patients."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted
from cdm_nnunet.documents import read_number
from cdm_nnunet.errors import InputError

if TYPE_CHECKING:
    from cdm_nnunet.prediction.cases import CasePredictor
    from cdm_nnunet.prediction.described import Describer, Extras

SUMMARY = "predict the dose of every case in a folder"
EXAMPLE = "cdm-nnunet predict -m clinic_hn.zip --dicom exports/new_patient -o predicted"
WRITES = ("o",)
_OF_DICOM = ("mapping", "prescription", "grid", "bits", "match_geometry")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as in nnUNetv2_predict."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-i", type=Path, metavar="FOLDER", help="input folder with three channels a case")
    source.add_argument(
        "--dicom", type=Path, metavar="FOLDER", help="input folder of DICOM files: CT and RTSTRUCT, and RTPLAN"
    )
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where the doses go (CASE.nii.gz, Gy; with --dicom CASE.dcm, RTDOSE)",
    )
    _options.add_model(parser)
    _options.add_available_device(parser)
    parser.add_argument(
        "-step_size", type=float, default=0.5, help="step between windows in patch sizes (default: 0.5)"
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="no averaging over left-right mirroring: half the time"
    )
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="also predict patients to whom the model does not apply; the record says so",
    )
    parser.add_argument("--continue_prediction", action="store_true", help="keep doses that exist already")
    parser.add_argument("-num_parts", type=int, default=1, metavar="N", help="predict only one of N parts of the cases")
    parser.add_argument("-part_id", type=int, default=0, metavar="K", help="which part, from 0 (default: 0)")
    _options.add_processes(parser, 2, "processes that preprocess")
    _configure_extras(parser)
    _configure_dicom(parser)


def _configure_extras(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files next to each dose (CASE.patient.json is always written)")
    group.add_argument(
        "--report", action="store_true", help="CASE.report.html: goals, DVH curves, slices (it holds CT and dose)"
    )
    group.add_argument(
        "--objectives",
        choices=("csv", "json"),
        help="CASE.objectives.csv or .json: the predicted DVH points as optimisation objectives",
    )
    group.add_argument(
        "--template", metavar="NAME|FILE", help="clinical template that judges the dose (default: the model's)"
    )
    group.add_argument(
        "--calibrate",
        type=Path,
        metavar="RESULT",
        help="result.json of 'cdm-nnunet evaluate --members' with the same folds: intervals; each fold predicts alone "
        "as well, which takes twice the time",
    )
    group.add_argument("--coverage", type=float, default=90.0, metavar="PERCENT", help="of the intervals (default: 90)")


def _configure_dicom(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("new patients as DICOM (--dicom)")
    group.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="rois.yaml of 'cdm-nnunet inspect dicom'; its entries come before those that the model was trained with",
    )
    group.add_argument(
        "--prescription", nargs="+", metavar="ROI=GY", help="prescriptions of targets that the plan does not state"
    )
    group.add_argument(
        "--grid",
        metavar="ct|MM|MMxMMxMM",
        help="voxels of the dose: the CT's, or of a size (x, y, z) (default: the median size of the training data)",
    )
    group.add_argument("--bits", type=int, choices=(16, 32), help="bits a voxel of the RTDOSE (default: 16)")
    _options.add_match_geometry(group)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Predict."""
    _refuse_contradictions(args)
    prescriptions_gy = _prescriptions_gy(args.prescription or [])

    chosen = _options.model_options(args)

    from cdm_nnunet.prediction.cases import CasePredictor
    from cdm_nnunet.prediction.described import Describer
    from cdm_nnunet.prediction.folders import CaseFolder, predict_and_describe
    from cdm_nnunet.prediction.models import choice_of

    predictor = CasePredictor(
        choice_of(chosen),
        args.device,
        args.step_size,
        not args.disable_tta,
        args.continue_prediction,
        args.np,
        args.allow_outside,
    )
    folds, plans = list(predictor.folds), predictor.plans
    record: dict[str, Any] = {"model": str(predictor.found.path), "folds": folds, "output": str(args.o)}
    describer = Describer.of(plans, _extras(args), len(folds))
    if args.dicom is not None:
        return {**record, **_of_patients(args, predictor, prescriptions_gy, describer)}
    source = CaseFolder(args.i, args.o, args.part_id, args.num_parts)
    done = predict_and_describe(predictor, source, describer, plans.catalogue)
    return {
        **record,
        "n_cases": done.n_cases,
        "described": [asdict(one) for one in done.described],
        **_error(done.undescribed),
    }


def render(record: Mapping[str, Any]) -> str:
    """The doses with their files, inputs and met goals."""
    patients = [_patient(patient) for patient in record.get("patients", ())]
    described = [_goals(one) for one in record.get("described", ())]
    last = f"{counted(record['n_cases'], 'dose')} in {record['output']}"
    return "\n".join([*patients, *described, *record.get("remarks", ()), last])


def _extras(args: argparse.Namespace) -> Extras:
    from cdm_nnunet.prediction.described import Extras

    return Extras(args.template, args.report, args.objectives, args.calibrate, args.coverage)


def _error(*reasons: str) -> dict[str, str]:
    told = "; ".join(filter(None, reasons))
    return {"error": told} if told else {}


def _refuse_contradictions(args: argparse.Namespace) -> None:
    if args.dicom is None:
        for option in _OF_DICOM:
            if getattr(args, option) not in (None, False):
                flag = option.replace("_", "-")
                raise InputError(f"--{flag} goes with --dicom; -i takes converted cases")
        return
    if args.continue_prediction:
        raise InputError("--continue_prediction goes with -i; with --dicom every dose is predicted again")
    if args.num_parts > 1:
        raise InputError("-num_parts goes with -i; with --dicom give parts of the folder")


def _prescriptions_gy(given: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given:
        name, _, level = text.rpartition("=")
        try:
            level_gy = read_number(level)
        except ValueError:
            raise InputError(f"--prescription takes ROI=GY, for example PTV_High=70, not '{text}'") from None
        if name in found:
            raise InputError(f"--prescription gives '{name}' twice")
        found[name] = level_gy
    return found


def _of_patients(
    args: argparse.Namespace, predictor: CasePredictor, prescriptions_gy: Mapping[str, float], describer: Describer
) -> dict[str, Any]:
    from cdm_nnunet.prediction.described import WITHOUT_FOLDS
    from cdm_nnunet.prediction.folders import fold_doses
    from cdm_nnunet.prediction.patients import NewPatients, predict_patients

    request = NewPatients(
        args.dicom,
        args.o,
        args.mapping,
        prescriptions_gy,
        args.grid,
        args.bits or 16,
        args.match_geometry,
        allows_outside=args.allow_outside,
    )
    folds = WITHOUT_FOLDS if describer.calibrated is None else fold_doses(predictor)
    done = predict_patients(request, predictor.trained_on, predictor.predict, describer, folds)
    files = [patient.file for patient in done.patients]
    return {
        "n_cases": len(files),
        "files": files,
        "patients": [asdict(patient) for patient in done.patients],
        "remarks": list(done.remarks),
        **_error(done.refused, done.undescribed),
    }


def _patient(record: Mapping[str, Any]) -> str:
    levels = ", ".join(f"{roi} {gy:g} Gy" for roi, gy in record["prescriptions_gy"].items())
    absent = f"; without {', '.join(record['absent_rois'])}" if record["absent_rois"] else ""
    line = f"{record['file']}: up to {record['maximum_gy']:.2f} Gy, prescribed {levels}{absent}; not for treatment"
    goals = [] if record["described"] is None else [f"  {_goals(record['described'])}"]
    return "\n".join([line, *goals, *(f"  {note}" for note in record["notes"])])


def _goals(record: Mapping[str, Any]) -> str:
    counts = [f"{n} {verdict}" for verdict, n in sorted(record["verdicts"].items())]
    if record["uncertain"] is not None:
        counts.append(f"{record['uncertain']} uncertain by their interval")
    files = [record[key] for key in ("record", "report", "objectives") if record[key] is not None]
    applies = f" is {record['applies']}," if record["applies"] in ("unusual", "outside") else ""
    return f"[{record['case']}]{applies} goals: {', '.join(counts) or 'none with a limit'}; {', '.join(files)}"
