"""The conversion ``dicom`` of ``cdm-nnunet convert``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdm_nnunet.cli._options import add_end_caps

SUMMARY = "Folders of DICOM-RT exports: CT, structure set, plan and dose; inspect them first."
EXAMPLE = "cdm-nnunet convert dicom exports -d 502 -n Clinic --template clinic.json --mapping inspection/rois.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that are not those of every conversion."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, of any structure and with any file names")
    parser.add_argument("--template", required=True, metavar="NAME|FILE", help="clinical template: its ROIs")
    parser.add_argument(
        "--mapping", required=True, type=Path, metavar="FILE", help="reviewed rois.yaml of 'cdm-nnunet inspect dicom'"
    )
    parser.add_argument(
        "--grid",
        default="dose",
        metavar="dose|ct|MM|MMxMMxMM",
        help="grid of the data set, or size of its voxels in mm",
    )
    add_end_caps(parser, None, "'end_caps' of the mapping, else ")
    add_match_geometry(parser)
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="CASE", help="a case to leave out on purpose; repeatable"
    )
    parser.add_argument(
        "--local",
        type=Path,
        metavar="FOLDER",
        help="for what names patients and must stay: the key of the cases' names, the files of each case (default: the "
        "folder of the mapping)",
    )
    parser.add_argument(
        "--keep-ids", action="store_true", help="call cases by PatientID, where the ids are pseudonyms already"
    )


def add_match_geometry(parser: argparse._ActionsContainer) -> None:
    """Add the switch for CTs that were exported again."""
    parser.add_argument(
        "--match-geometry",
        action="store_true",
        help="where contours refer to a CT that is not there, take the one on whose slices they lie: for a CT that was "
        "exported again with other UIDs",
    )


def run(args: argparse.Namespace, n_processes: int) -> dict[str, Any]:
    """Convert; returns the record of the conversion."""
    from cdm_nnunet.dataset_conversion.dicom import convert_dicom
    from cdm_nnunet.dataset_conversion.dicom_mapping import read_mapping
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.folders import folder

    mapping = read_mapping(args.mapping)
    record: dict[str, Any] = convert_dicom(
        args.source,
        folder("nnUNet_raw"),
        args.d,
        args.n,
        Template.load(args.template),
        replace(mapping, end_caps=args.end_caps or mapping.end_caps, match_geometry=args.match_geometry),
        args.mapping.parent if args.local is None else args.local,
        grid=args.grid,
        exclude=args.exclude,
        keep_ids=args.keep_ids,
        n_processes=n_processes,
    ).to_json()
    record["end_caps"] = args.end_caps or mapping.ends
    return record
