"""``cdm-nnunet ensemble``: the mean of the doses of several models."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

SUMMARY = "average the doses that several models predicted for the same cases"
EXAMPLE = "cdm-nnunet ensemble -i predictions/cdm predictions/mae -o predictions/mean"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as in nnUNetv2_ensemble."""
    parser.add_argument(
        "-i", type=Path, nargs="+", required=True, metavar="FOLDER", help="folders of doses, one for each model"
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="output folder of the mean doses")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Average."""
    folders = [path.resolve() for path in args.i]
    if len(set(folders)) < len(folders):
        raise InputError("a folder is given twice (-i)")
    if args.o.resolve() in folders:
        raise InputError(f"{args.o} is one of the models' folders; choose another one for the means (-o)")

    from cdm_nnunet.nnunet.ensemble import average_doses, dose_files

    cases = average_doses([dose_files(path) for path in args.i], args.o, [str(path) for path in args.i])
    return {"members": [str(path) for path in args.i], "output": str(args.o), "n_cases": len(cases)}


def render(record: Mapping[str, Any]) -> str:
    """The folder of the doses."""
    doses = counted(record["n_cases"], "mean dose")
    return f"{doses} of {len(record['members'])} models in {record['output']}"
