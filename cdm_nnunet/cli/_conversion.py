"""Common parts of the conversions: the data set that they write, and its record."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli import _options

if TYPE_CHECKING:
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, FoundPatients
    from cdm_nnunet.dataset_conversion.raw_layout import Conversion


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add number and name of the new data set, and the number of processes."""
    _options.add_dataset_id(parser, use="number of the new dataset, for example 501")
    parser.add_argument("-n", required=True, metavar="NAME", help="name of the new dataset")
    _options.add_processes(parser)


def add_source(parser: argparse.ArgumentParser, use: str) -> None:
    """Add the folder or file to read."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help=use)


def add_test_only(parser: argparse.ArgumentParser) -> None:
    """Add the switch that keeps patients out of training."""
    parser.add_argument(
        "--test-only", action="store_true", help="keep all patients from training; they need no reference dose"
    )


def place_of(args: argparse.Namespace) -> DatasetPlace:
    """Location of the data set."""
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
    from cdm_nnunet.folders import folder

    return DatasetPlace(folder("nnUNet_raw"), args.d, args.n)


def converted(found: FoundPatients[Any], args: argparse.Namespace, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Convert the found patients, and return the record."""
    from cdm_nnunet.dataset_conversion.conversion import convert

    return record_of(convert(found, place_of(args), exclude=exclude, n_processes=_options.n_processes(args)))


def record_of(done: Conversion) -> dict[str, Any]:
    """The record of a conversion."""
    from cdm_nnunet.dataset_conversion.roi_mapping import unused_masks

    return {**done.to_json(), "unused_masks": unused_masks(done.cases.values())}
