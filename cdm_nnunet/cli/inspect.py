"""``cdm-nnunet inspect``: what is in a folder of patients, and what conversion would refuse."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.cli._options import add_end_caps, add_match_geometry
from cdm_nnunet.cli._screen import printable
from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel import usable_cores

if TYPE_CHECKING:
    from cdm_nnunet.dicom.index import FolderIndex
    from cdm_nnunet.dicom.pseudonyms import Pseudonyms
    from cdm_nnunet.dvh import Template

SUMMARY = "Look into a folder of DICOM exports: patients, ROI names, prescriptions, and what can't be converted."
EXAMPLE = "cdm-nnunet inspect dicom exports -o inspection --template clinic.json"
MAPPING_FILE, TABLE_FILE, PAGE_FILE = "rois.yaml", "patients.csv", "patients.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("format", choices=("dicom",), help="format of the files")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, of any structure and with any file names")
    parser.add_argument(
        "-o",
        type=Path,
        default=Path("inspection"),
        metavar="FOLDER",
        help="where rois.yaml goes, to review, and what was found, with patients' ids (default: inspection)",
    )
    parser.add_argument(
        "--headers-only", action="store_true", help="don't look at the values of CT images and doses: less to read"
    )
    parser.add_argument(
        "--template",
        metavar="NAME|FILE",
        help="clinical template: load every patient as 'convert dicom' with it does, and say what it would say",
    )
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", help="mapping to use, which is left as it is (default: rois.yaml of -o)"
    )
    parser.add_argument(
        "--leave-out-helpers",
        action="store_true",
        help="let one line of rois.yaml leave out all names that look like helper structures",
    )
    add_match_geometry(parser)
    parser.add_argument("--grid", default="dose", metavar="dose|ct|MM|MMxMMxMM", help="with --template: as of convert")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="CASE", help="with --template: as of convert; repeatable"
    )
    add_end_caps(parser, None, "'end_caps' of the mapping, else ")
    parser.add_argument("-np", type=int, default=min(8, usable_cores()), metavar="N", help="processes (default: cores)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Inspect, and write the mapping to review; one that is there already gets the names that it lacks.

    Returns:
        The record of :func:`cdm_nnunet.dicom.inspection.inspect_index`, with the paths of mapping and tables, the names
        that are ``new_names`` in the mapping, what is ``to_add`` by hand, and whether it was a ``dry_run``.
    """
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, read_mapping
    from cdm_nnunet.dicom.index import INDEX_FILE, index_folder
    from cdm_nnunet.dicom.inspection import ROWS_FILE, inspect_index
    from cdm_nnunet.dicom.patient_table import csv_table, html_table
    from cdm_nnunet.dicom.pseudonyms import read_pseudonyms, write_names
    from cdm_nnunet.dvh import Template
    from cdm_nnunet.files import write_text

    mapping = args.mapping or args.o / MAPPING_FILE
    template = None if args.template is None else Template.load(args.template)
    if args.np < 1:
        raise InputError(f"-np takes a number of processes from 1, not {args.np}")
    known = read_mapping(mapping) if args.mapping or mapping.is_file() else DicomMapping({})
    index = index_folder(args.source, args.o / INDEX_FILE, _bar("headers"))
    pseudonyms = read_pseudonyms(args.o)
    write_names(args.o, index.persons, pseudonyms)
    record = inspect_index(
        index,
        _bar("patients"),
        choice=replace(known, match_geometry=args.match_geometry).choice,
        pseudonyms=pseudonyms,
        pixels=not args.headers_only,
        cache=args.o / ROWS_FILE,
    )
    counts = {name: row["patients"] for name, row in record["rois"].items()}
    new_names, to_add = (
        ([], "") if args.mapping else _bring_up_to_date(mapping, counts, template, args.leave_out_helpers)
    )
    if template is not None:
        _say_what_conversion_says(record, index, template, pseudonyms, args)
    write_text(args.o / TABLE_FILE, csv_table(record["patients"]), private=True)
    write_text(args.o / PAGE_FILE, html_table(record["patients"], f"Patients in {args.source}"), private=True)
    return {
        **record,
        "mapping": str(mapping),
        "new_names": new_names,
        "to_add": to_add,
        "table": str(args.o / PAGE_FILE),
        "dry_run": template is not None,
    }


def _bar(label: str) -> Callable[[int, int], None]:
    from tqdm import tqdm

    shown = tqdm(desc=label, leave=False, file=sys.stderr)

    def progress(done: int, total: int) -> None:
        shown.total = total
        shown.update(done - shown.n)

    return progress


def _bring_up_to_date(
    path: Path, counts: Mapping[str, int], template: Template | None, leave_out_helpers: bool
) -> tuple[list[str], str]:
    """Write the mapping, or add to it; gives the names that were added, and why none could be."""
    from cdm_nnunet.dataset_conversion.mapping_file import extended_text, mapping_text
    from cdm_nnunet.documents import read_text
    from cdm_nnunet.files import write_text

    if not path.exists():
        write_text(path, mapping_text(counts, template=template, leave_out_helpers=leave_out_helpers))
        return [], ""
    try:
        before = read_text(path)
        after, names = extended_text(before, counts, template=template, leave_out_helpers=leave_out_helpers)
    except InputError as error:
        return [], f"{path}: {error}"
    if after != before:
        write_text(path, after)
    return list(names), ""


def _say_what_conversion_says(
    record: dict[str, Any], index: FolderIndex, template: Template, pseudonyms: Pseudonyms, args: argparse.Namespace
) -> None:
    """Put the refusals, notes and prescriptions of a conversion into the patients' rows."""
    from cdm_nnunet.dataset_conversion.dicom import chosen_patients, dose_facts, refuse_unfit
    from cdm_nnunet.dataset_conversion.dicom_mapping import read_mapping
    from cdm_nnunet.dataset_conversion.dry_run import DRY_RUN_FILE, dry_run

    mapping = read_mapping(args.mapping or args.o / MAPPING_FILE)
    mapping = replace(mapping, end_caps=args.end_caps or mapping.end_caps, match_geometry=args.match_geometry)
    refuse_unfit(args.grid, template, mapping)
    chosen = chosen_patients(index, template, mapping, pseudonyms, grid=args.grid, exclude=args.exclude)
    found = dry_run(chosen, n_processes=args.np, progress=_bar("dry run"), cache=args.o / DRY_RUN_FILE)
    try:
        dose_facts([patient.files for patient in chosen])
    except InputError as error:
        record["problems"] = [str(error)]
    rows = record["patients"]
    record["excluded"] = sorted(set(rows) - set(found))
    record["patients"] = {
        case: rows[case]
        | {
            "convertible": not said["refused"],
            "problems": [said["refused"]] if said["refused"] else [],
            "notes": said["notes"] or rows[case]["notes"] * bool(said["refused"]),
            "prescriptions_gy": said["prescriptions_gy"] or rows[case]["prescriptions_gy"],
            **{key: said[key] for key in ("rois", "size", "spacing_mm")},
        }
        for case, said in found.items()
    }


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    from cdm_nnunet.dicom.unread import unread_lines

    patients = record["patients"]
    fit = sum(row["convertible"] for row in patients.values())
    lines = [f"{len(patients)} patients in {record['files']} DICOM files; {fit} can be converted"]
    lines += [f"refused: {text}" for text in record.get("problems", ())]
    lines += [*(f"not read: {line}" for line in unread_lines(record["unread"])), *record["remarks"]]
    for case, row in patients.items():
        levels = ", ".join(f"{name} {gy:g} Gy" for name, gy in row["prescriptions_gy"].items()) or "no prescription"
        lines.append(f"{case}: {row['ct_images']} CT images, {row['doses']} doses, {levels}")
        lines += [f"  refused: {text}" for text in row["problems"]] + [f"  {text}" for text in row["notes"]]
    lines += ["", f"{'ROI':<28}{'patients':>9}{'empty':>7}  proposal"]
    for name, row in sorted(record["rois"].items(), key=lambda item: -item[1]["patients"]):
        proposal = "" if row["proposal"] is None else f"{row['proposal']} ({row['confidence']})"
        lines.append(
            f"{name:<28}{row['patients']:>9}{row['empty']:>7}  {proposal or ('helper' if row['helper'] else '')}"
        )
    if record["new_names"]:
        lines += ["", f"new in the mapping, to review: {', '.join(record['new_names'])}"]
    if record["to_add"]:
        lines += ["", f"to be added by hand: {record['to_add']}"]
    # (here, since a name may hold line breaks)
    lines += ["", f"mapping to review: {record['mapping']}", f"table: {record['table']}"]
    return "\n".join(printable(line) for line in lines)
