"""The conversion ``nifti``."""

from __future__ import annotations

import argparse
from typing import Any

from cdm_nnunet.cli import _conversion, _options

SUMMARY = "CT, dose and masks in NIfTI files: a folder a patient, or a CSV table (see docs/data.md)."
EXAMPLE = "cdm-nnunet convert nifti patients -d 503 -n Clinic --template clinic.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    _conversion.add_source(parser, "folder with one folder per patient, or a CSV table")
    _conversion.add_dataset(parser)
    _options.add_exclude(parser, "CASE")
    _conversion.add_test_only(parser)
    parser.add_argument(
        "--resample-dose",
        action="store_true",
        help="a dose on its own grid is resampled linearly to the CT's (default: refused)",
    )
    _options.add_template(parser, ": ROIs and their aliases")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert."""
    from cdm_nnunet.dataset_conversion.nifti import find_nifti
    from cdm_nnunet.dvh import Template

    found = find_nifti(
        args.source, Template.load(args.template), test_only=args.test_only, resample_dose=args.resample_dose
    )
    return _conversion.converted(found, args, exclude=args.exclude)
