"""The conversion ``synthetic``."""

from __future__ import annotations

import argparse
from typing import Any

from cdm_nnunet.cli import _conversion

SUMMARY = "Head-and-neck phantom patients, made by formulas, to try the software without patient data."
EXAMPLE = "cdm-nnunet convert synthetic -d 500 -n Demo --patients 12 --test-patients 3"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    _conversion.add_dataset(parser)
    parser.add_argument("--patients", type=int, default=12, metavar="N", help="for training (default: 12)")
    parser.add_argument("--test-patients", type=int, default=3, metavar="N", help="for testing (default: 3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other patients (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert."""
    from cdm_nnunet.dataset_conversion.synthetic import find_synthetic

    return _conversion.converted(find_synthetic(args.patients, args.test_patients, seed=args.seed), args)
