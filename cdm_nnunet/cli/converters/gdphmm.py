"""The conversion ``gdphmm``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _conversion, _options

SUMMARY = "NPZ files of the GDP-HMM challenge with its JSON files; their pickles are read, not run."
EXAMPLE = "cdm-nnunet convert gdphmm GDP-HMM_Challenge --meta meta_files -d 504 -n GdpHmm -np 4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    _conversion.add_source(parser, "folder with PATIENT+PLAN+....npz at any depth")
    parser.add_argument(
        "--meta", type=Path, metavar="FOLDER", help="folder of PTV_DICT.json (default: SOURCE/meta_files)"
    )
    _conversion.add_dataset(parser)
    _options.add_template(parser, "", default="gdphmm")
    _options.add_exclude(parser, "NAME", "a patient or plan to leave out")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert."""
    from cdm_nnunet.dataset_conversion.gdphmm import find_gdphmm
    from cdm_nnunet.dvh import Template

    found = find_gdphmm(args.source, meta=args.meta, template=Template.load(args.template))
    return _conversion.converted(found, args, exclude=args.exclude)
