"""``cdm-nnunet inspect``: what is in a folder of patients, and what conversion would refuse."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.cli._screen import printable

SUMMARY = "Look into a folder of DICOM exports: patients, ROI names, prescriptions, and what can't be converted."
EXAMPLE = "cdm-nnunet inspect dicom exports -o inspection"


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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Inspect, and write the mapping to review; one that is there already is kept.

    Returns:
        The record of :func:`cdm_nnunet.dicom.inspection.inspect_index`, and the path of the mapping.
    """
    from tqdm import tqdm

    from cdm_nnunet.dataset_conversion.dicom_mapping import mapping_text, read_mapping
    from cdm_nnunet.dicom.index import INDEX_FILE, index_folder
    from cdm_nnunet.dicom.inspection import ROWS_FILE, inspect_index
    from cdm_nnunet.dicom.pseudonyms import read_pseudonyms, write_names
    from cdm_nnunet.files import write_text

    def bar(label: str) -> Callable[[int, int], None]:
        shown = tqdm(desc=label, leave=False, file=sys.stderr)

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        return progress

    mapping = args.o / "rois.yaml"
    plans = read_mapping(mapping).plans if mapping.is_file() else {}
    index = index_folder(args.source, args.o / INDEX_FILE, bar("headers"))
    pseudonyms = read_pseudonyms(args.o)
    write_names(args.o, (entry.patient for entry in index.entries), pseudonyms)
    record = inspect_index(
        index,
        bar("patients"),
        plans=plans,
        pseudonyms=pseudonyms,
        pixels=not args.headers_only,
        cache=args.o / ROWS_FILE,
    )
    if not mapping.is_file():
        write_text(mapping, mapping_text({name: row["patients"] for name, row in record["rois"].items()}))
    return {**record, "mapping": str(mapping)}


def render(record: Mapping[str, Any]) -> str:
    """Word the record for a person."""
    patients = record["patients"]
    fit = sum(row["convertible"] for row in patients.values())
    lines = [f"{len(patients)} patients in {record['files']} DICOM files; {fit} can be converted"]
    for path, reason in record["unread"].items():
        lines.append(f"not read: {reason if path in reason else f'{path}: {reason}'}")
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
    # (here, since a name may hold line breaks)
    return "\n".join(printable(line) for line in [*lines, "", f"mapping to review: {record['mapping']}"])
