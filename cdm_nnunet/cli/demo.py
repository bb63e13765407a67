"""``cdm-nnunet demo``: every step on synthetic patients."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli._tables import aligned
from cdm_nnunet.errors import InputError

SUMMARY = "try everything on synthetic patients: convert, plan, train, predict, evaluate, compare, on a CPU in minutes"
EXAMPLE = "cdm-nnunet demo -o cdm_demo"
_LIKENESS = {
    "inside": "like",
    "unusual": "unusual among",
    "outside": "unlike",
    "not compared": "not compared with",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="new folder, or the folder of a demo to finish or show again",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few training steps only, to see that everything runs; the doses are poor",
    )
    parser.add_argument(
        "--dicom",
        type=int,
        metavar="N",
        help="only write N phantom patients as DICOM files into the folder, to try what you will do with your own",
    )
    parser.add_argument("--open", action="store_true", help="open the comparison in a browser at the end")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the unfinished steps; the record is that of :func:`cdm_nnunet.demo.run_demo`."""
    if args.dicom is not None:
        return _write_dicom(args)
    from cdm_nnunet.demo import open_page, run_demo

    record = run_demo(args.o, quick=args.quick)
    return {**record, "opened": open_page(Path(record["comparison"])) if args.open else None}


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    if "dicom" in record:
        return f"{len(record['dicom'])} phantom patients, CT, structure set, plan and dose of each: {record['folder']}"
    patients = record["patients"]
    lines = [
        "",
        f"{patients['test']} synthetic test patients, after {patients['training']} for training and validation; "
        "lower is better:",
        *aligned(record["scores"]),
        "",
        "vanilla: nnU-Net as a plain dose regressor. CDM: our network and loss (MAE + clinical DVH metrics).",
        "Same patients, same number of steps: some minutes, one seed. Real patients: docs/results/openkbp.md.",
        "",
    ]
    lines += [*_new_patient(record["new_patient"]), ""]
    for model in record["models"].values():
        lines += [f"report   {model['report']}", *(f"picture  {picture}" for picture in model["pictures"])]
    folder, page = record["folder"], record["comparison"]
    opened = {
        True: f"opened: {page}",
        False: f"no browser found; open: {page}",
        None: f"open: {page}   (cdm-nnunet demo -o {shlex.quote(folder)} --open does)",
    }
    own = "your own patients: cdm-nnunet inspect dicom FOLDER   (docs/first_patient.md)"
    return "\n".join([*lines, f"logs     {Path(folder, 'logs')}", "", opened[record["opened"]], own])


def _write_dicom(args: argparse.Namespace) -> dict[str, Any]:
    from cdm_nnunet.dataset_conversion.synthetic_dicom import write_patients

    if args.quick or args.open:
        raise InputError("--dicom only writes patients; it goes without --quick and --open")
    return {"folder": str(args.o), "dicom": [str(files.folder) for files in write_patients(args.o, args.dicom)]}


def _new_patient(record: Mapping[str, Any]) -> list[str]:
    goals = ", ".join(f"{n} {verdict}" for verdict, n in record["verdicts"].items())
    return [
        f"{record['model']}, the model that ships, on a new phantom, {_LIKENESS[record['applies']]} its training "
        f"patients; goals of the predicted dose: {goals}.",
        *(f"  {text}" for text in record["findings"]),
        f"report   {record['report']}",
    ]
