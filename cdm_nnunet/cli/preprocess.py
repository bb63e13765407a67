"""``cdm-nnunet preprocess``: preprocessed data from existing plans."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import find_dataset

SUMMARY = "preprocess a data set with existing plans, for example plans from another machine"
EXAMPLE = "cdm-nnunet preprocess -d 501 -c 3d_fullres"
WRITES = ("nnUNet_preprocessed",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as in nnUNetv2_preprocess."""
    _options.add_dataset_id(parser)
    _options.add_plans(parser)
    parser.add_argument("-c", nargs="+", default=["3d_fullres"], metavar="CONFIGURATION", help="default: 3d_fullres")
    _options.add_processes(parser, 2)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Preprocess."""
    find_dataset(args.d)
    folder = find_dataset(args.d, "nnUNet_preprocessed")
    plans = folder / f"{args.p}.json"
    if not plans.is_file():
        raise InputError(f"{plans} is missing; run: cdm-nnunet plan -d {args.d}")

    from cdm_nnunet.nnunet.planner import preprocess

    return {"dataset": folder.name, "plans": args.p, "preprocessed": preprocess(args.d, args.p, args.c, args.np)}


def render(record: Mapping[str, Any]) -> str:
    """The preprocessed configurations."""
    return f"{record['dataset']}: {', '.join(record['preprocessed'])} preprocessed with the plans {record['plans']}"
