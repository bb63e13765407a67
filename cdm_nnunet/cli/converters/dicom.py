"""The conversion ``dicom``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdm_nnunet.cli import _conversion, _options

SUMMARY = "Folders of DICOM-RT exports: CT, structure set, plan and dose; inspect them first."
EXAMPLE = "cdm-nnunet convert dicom exports -d 502 -n Clinic --template clinic.json --mapping inspection/rois.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversion's arguments."""
    _options.add_dicom_source(parser)
    _options.add_template(parser, ": its ROIs")
    parser.add_argument(
        "--mapping", required=True, type=Path, metavar="FILE", help="reviewed rois.yaml of 'cdm-nnunet inspect dicom'"
    )
    _options.add_dicom_rules(parser)
    parser.add_argument(
        "--local",
        type=Path,
        metavar="FOLDER",
        help="for what identifies patients and must stay local: the key of the case names, the files of each case "
        "(default: the folder of the mapping)",
    )
    parser.add_argument(
        "--keep-ids", action="store_true", help="name cases by PatientID, if these are pseudonyms already"
    )
    _conversion.add_dataset(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert."""
    from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
    from cdm_nnunet.dataset_conversion.dicom_mapping import read_mapping
    from cdm_nnunet.dvh import Template

    mapping = read_mapping(args.mapping)
    mapping = replace(mapping, end_caps=args.end_caps or mapping.end_caps, match_geometry=args.match_geometry)
    rules = DicomRules(Template.load(args.template), mapping, args.grid)
    done = convert_dicom(
        args.source,
        _conversion.place_of(args),
        rules,
        args.local or args.mapping.parent,
        exclude=args.exclude,
        keep_ids=args.keep_ids,
        n_processes=_options.n_processes(args),
    )
    return {**_conversion.record_of(done), "end_caps": mapping.ends}
