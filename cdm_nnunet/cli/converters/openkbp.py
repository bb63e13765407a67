"""The conversion ``openkbp``."""

from __future__ import annotations

import argparse
from typing import Any

from cdm_nnunet.cli import _conversion, _options

SUMMARY = "OpenKBP's CSV files, in the published folders or as a folder of pt_N folders."
EXAMPLE = "cdm-nnunet convert openkbp open-kbp/provided-data -d 501 -n OpenKBP -np 4"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    _conversion.add_source(parser, "folder with train-pats, validation-pats, ...")
    _conversion.add_dataset(parser)
    _options.add_template(parser, "", default="openkbp")
    _options.add_exclude(parser, "pt_N")
    _conversion.add_test_only(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert."""
    from cdm_nnunet.dataset_conversion.openkbp import find_openkbp
    from cdm_nnunet.dvh import Template

    found = find_openkbp(args.source, template=Template.load(args.template), test_only=args.test_only)
    return _conversion.converted(found, args, exclude=args.exclude)
