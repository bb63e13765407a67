"""``cdm-nnunet find-best``: which model, or which two together, has the lowest scores in cross-validation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _options

SUMMARY = "score all trained models of a data set, and pairs of them, on their validation cases; say which is best"
EXAMPLE = "cdm-nnunet find-best -d 501 -f 0 1 2 3 4 -o best"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as in nnUNetv2_find_best_configuration for common ones."""
    _options.add_dataset_id(parser)
    parser.add_argument(
        "-f", nargs="+", default=["0"], metavar="FOLD", help="folds that every model must have (default: 0)"
    )
    parser.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="only these configurations")
    parser.add_argument("-tr", nargs="+", metavar="TRAINER", help="only these trainers")
    parser.add_argument("--disable_ensembling", action="store_true", help="no pairs of models")
    _options.add_processes(parser, 2)
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the record goes")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Score every candidate on the same cases, and rank them."""
    from cdm_nnunet.prediction.find_best import Search, find_best

    search = Search(
        args.d,
        tuple(args.f),
        frozenset(args.c or ()),
        frozenset(args.tr or ()),
        pairs=not args.disable_ensembling,
        n_processes=_options.n_processes(args),
    )
    return find_best(search, args.o)


def render(record: Mapping[str, Any]) -> str:
    """The candidates from best to worst, and how to predict with the best."""
    lines = [
        f"{record['dataset']}: {record['n_cases']} validation cases of folds {', '.join(record['folds'])}; "
        "lower is better",
        f"{'PTV score':>10}{'OAR score':>11}{'dose MAE':>11}   model",
    ]
    for one in record["ranked"]:
        numbers = f"{one['ptv_score']:>10.3f}{one['oar_score']:>11.3f}{one['dose_mae_gy']:>8.3f} Gy"
        lines.append(f"{numbers}   {' + '.join(one['models'])}")
    lines += ["", "ranked by the mean of both scores, each relative to the lowest; to predict with the first:"]
    return "\n".join([*lines, *record["predict"]])
