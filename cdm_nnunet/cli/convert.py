"""``cdm-nnunet convert``: patients into raw nnU-Net data sets, and predictions into the format of a source."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cdm_nnunet.cli import converters
from cdm_nnunet.cli._options import add_json, add_scheduler
from cdm_nnunet.counting import counted

SUMMARY = "Convert planned patients into a raw nnU-Net data set (resumable), or predicted doses back."
_NAMES_SHOWN = 3
EXAMPLE = "cdm-nnunet convert openkbp open-kbp/provided-data -d 501 -n OpenKBP -np 4"
WRITES = ("nnUNet_raw",)


class Converter(Protocol):
    """Interface of a module of :mod:`cdm_nnunet.cli.converters`."""

    SUMMARY: str
    EXAMPLE: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the conversion's arguments."""

    def run(self, args: argparse.Namespace) -> dict[str, Any]:
        """Convert, and return the record."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the conversions, each with its arguments."""
    conversions = parser.add_subparsers(dest="conversion", metavar="CONVERSION", required=True)
    for name, converter in found_converters().items():
        one = conversions.add_parser(
            name,
            help=converter.SUMMARY,
            description=converter.SUMMARY,
            epilog=f"example:\n  {converter.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        converter.configure(one)
        add_json(one)
        add_scheduler(one)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert.

    Returns:
        The record of the conversion: cases converted and unchanged, absent ROIs, the data set's folder, seconds; or,
        for ``to-openkbp``, the folder and the names of the cases.
    """
    return found_converters()[args.conversion].run(args)


def found_converters() -> dict[str, Converter]:
    """The modules of :mod:`cdm_nnunet.cli.converters`, by the name of their conversion."""
    names = [module.name for module in pkgutil.iter_modules(converters.__path__)]
    return {name.replace("_", "-"): importlib.import_module(f"{converters.__name__}.{name}") for name in names}


def render(record: Mapping[str, Any]) -> str:
    """The record as text."""
    if "predictions" in record:
        return f"{counted(len(record['predictions']), 'predicted dose')} written to {record['folder']}"
    absent = [f"{name} {count}" for name, count in record["absent_rois"].items() if count]
    lines = [
        f"{counted(record['cases'], 'case')} "
        f"({record['training_cases']} for training, {record['test_cases']} for testing): "
        f"{len(record['converted'])} converted, {len(record['unchanged'])} unchanged, {record['seconds']:.1f} s",
        f"cases without an ROI: {', '.join(absent) or 'none'}",
    ]
    if record["one_sided_rois"]:
        names = ", ".join(record["one_sided_rois"])
        lines.append(f"no left-right mirroring in training and prediction, because the other side is missing: {names}")
    for group in record["same_images"]:
        lines.append(f"{', '.join(group)}: the same CT or dose under several names; kept on one side of every fold")
    for name, rois in record["empty_rois"].items():
        lines.append(f"counted as absent, because they have no voxel: {', '.join(rois)} of {name}")
    if unused := record.get("unused_masks"):
        masks = ", ".join(f"{name} ({counted(count, 'case')})" for name, count in unused.items())
        lines.append(f"masks not used, because the template has no such ROI: {masks}")
    for key, label in (("excluded", "left out on purpose"), ("without_reference_dose", "without reference dose")):
        if record[key]:
            lines.append(f"{label}: {', '.join(record[key])}")
    if "end_caps" in record:
        lines.append(f"ends of ROIs: {record['end_caps']}")
    lines += [*(f"not read: {line}" for line in record["unread"]), *record["remarks"]]
    lines += note_lines(record["notes"])
    return "\n".join([*lines, f"dataset: {record['dataset']}"])


def note_lines(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by case as lines; a note shared by many cases appears once, with their names."""
    cases: dict[str, list[str]] = {}
    for name, texts in notes.items():
        for text in dict.fromkeys(texts):
            cases.setdefault(text, []).append(name)
    lines = []
    for text, names in cases.items():
        others = f" and {counted(len(names) - _NAMES_SHOWN, 'other')}" if len(names) > _NAMES_SHOWN else ""
        lines.append(f"note: {text} [{', '.join(names[:_NAMES_SHOWN])}{others}]")
    return lines
