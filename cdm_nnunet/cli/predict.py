"""``cdm-nnunet predict``: doses of new patients."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _predict_dicom
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import folder
from cdm_nnunet.parallel import usable_cores

SUMMARY = "predict the dose of every case in a folder"
EXAMPLE = "cdm-nnunet predict -i imagesTs -o predictions -d 501 -c 3d_fullres -f 0 -tr nnUNetTrainerCDM"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as nnUNetv2_predict spells them."""
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
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id")
    parser.add_argument("-c", default="3d_fullres", metavar="CONFIGURATION", help="default: 3d_fullres")
    parser.add_argument("-f", nargs="+", default=["0"], metavar="FOLD", help="folds whose mean is taken (default: 0)")
    parser.add_argument(
        "-tr", default="nnUNetTrainerCDM", metavar="TRAINER", help="trainer (default: nnUNetTrainerCDM)"
    )
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans (default: nnUNetPlans)")
    parser.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="default: checkpoint_final.pth")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument(
        "-step_size", type=float, default=0.5, help="step between windows in patch sizes (default: 0.5)"
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="no averaging over left-right mirroring: half the time"
    )
    parser.add_argument("--continue_prediction", action="store_true", help="keep doses that are there already")
    parser.add_argument("-num_parts", type=int, default=1, metavar="N", help="predict only one of N parts of the cases")
    parser.add_argument("-part_id", type=int, default=0, metavar="K", help="which part, from 0 (default: 0)")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="processes that preprocess (default: 2)")
    _predict_dicom.configure(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Predict."""
    for fold in args.f:
        if fold != "all" and not fold.isdigit():
            raise InputError(f"a fold is a number or 'all', not '{fold}'")
    if not 0 < args.step_size <= 1:
        raise InputError(f"-step_size must be above 0 and at most 1, not {args.step_size}")
    if args.np < 0:
        raise InputError(f"-np must not be negative, not {args.np}")
    if not 0 <= args.part_id < args.num_parts:
        raise InputError(f"-part_id is a number from 0 to -num_parts - 1 ({args.num_parts - 1}), not {args.part_id}")
    if args.num_parts > 1 and args.dicom is not None:
        raise InputError("-num_parts goes with -i; with --dicom give parts of the folder")
    _predict_dicom.refuse_options_without_dicom(args)
    model = _model_folder(args)
    record: dict[str, Any] = {"model": str(model), "folds": args.f, "output": str(args.o)}
    if args.dicom is not None:
        predicted = _predict_dicom.run(args, model, lambda cases, out: _predict(args, model, cases, out))
        files = [patient["file"] for patient in predicted["patients"]]
        return {**record, "n_cases": len(files), "files": files, **predicted}

    from cdm_nnunet.nnunet.inputs import find_cases

    cases = find_cases(args.i)[args.part_id :: args.num_parts]
    if not cases:
        return {**record, "n_cases": 0}  # (fewer cases than parts)
    _predict(args, model, cases, args.o)
    return {**record, "n_cases": len(cases)}


def render(record: Mapping[str, Any]) -> str:
    """Where the doses are."""
    patients = [_predict_dicom.render(patient) for patient in record.get("patients", ())]
    return "\n".join([*patients, f"{record['n_cases']} doses in {record['output']}"])


def _predict(args: argparse.Namespace, model: Path, cases: list[list[str]], out: Path) -> None:
    import torch

    from cdm_nnunet.nnunet.predictor import DosePredictor

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; predict with -device cpu")
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)
    predictor = DosePredictor(
        tile_step_size=args.step_size, use_mirroring=not args.disable_tta, device=torch.device(args.device)
    )
    predictor.initialize_from_trained_model_folder(str(model), args.f, args.chk)
    predictor.predict_from_files(
        cases, str(out), overwrite=not args.continue_prediction, num_processes_preprocessing=args.np
    )


def _model_folder(args: argparse.Namespace) -> Path:
    results = folder("nnUNet_results")
    found = sorted(results.glob(f"Dataset{args.d:03d}_*/{args.tr}__{args.p}__{args.c}"))
    if len(found) != 1:
        trained = sorted(path.name for path in results.glob(f"Dataset{args.d:03d}_*/*__*__*"))
        raise InputError(
            f"{len(found) or 'no'} models of dataset {args.d} for {args.tr}, {args.p}, {args.c} in {results}; there "
            f"{'are ' + ', '.join(trained) if trained else 'is none of this data set'}"
        )
    for fold in args.f:
        checkpoint = found[0] / f"fold_{fold}" / args.chk
        if not checkpoint.is_file():
            raise InputError(
                f"{checkpoint} is missing: fold {fold} was not trained to its end, or -chk names another file"
            )
    return found[0]
