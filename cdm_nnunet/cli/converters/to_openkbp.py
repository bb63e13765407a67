"""The conversion ``to-openkbp``: back from predictions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options

SUMMARY = "Predicted doses into the CSV files that OpenKBP's scoring code reads."
EXAMPLE = "cdm-nnunet convert to-openkbp predictions -d 501 -o submission"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predictions, CASE.nii.gz")
    _options.add_dataset_id(parser, use="dataset id of the converted patients")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the CSV files go")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert; returns the folder and the names of the cases."""
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dataset_conversion.openkbp import write_predictions
    from cdm_nnunet.folders import find_dataset

    names = write_predictions(args.predictions, args.o, RawDataset(find_dataset(args.d)))
    return {"folder": str(args.o), "predictions": list(names)}
