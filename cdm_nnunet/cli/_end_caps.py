"""The option ``--end-caps`` of the verbs that read contours."""

from __future__ import annotations

import argparse
from typing import get_args

from cdm_nnunet.dicom.end_caps import DEFAULT_END_CAPS, EndCaps


def add_end_caps(parser: argparse.ArgumentParser, default: str | None = DEFAULT_END_CAPS, otherwise: str = "") -> None:
    """Add it.

    Args:
        parser: Of the verb.
        default: What stands in the arguments without it; None where another place may say so.
        otherwise: That place, for the help.
    """
    parser.add_argument(
        "--end-caps",
        choices=get_args(EndCaps),
        default=default,
        help="where an ROI ends: 'none' at its outermost contours, 'half-slab' half a slice beyond; 'rounded' and "
        "'rounded-half-slab' do so at flat ends, and close one that tapers along its shape "
        f"(default: {otherwise}{DEFAULT_END_CAPS})",
    )
