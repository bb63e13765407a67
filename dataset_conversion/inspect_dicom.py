"""Inspection of a folder of DICOM exports: contents, mapping to review, and conversion's messages for each patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdm_nnunet.dicom.index import INDEX_FILE, FolderIndex, index_folder
from cdm_nnunet.dicom.inspection import ROWS_FILE, inspect_index
from cdm_nnunet.dicom.patient_table import csv_table, html_table
from cdm_nnunet.dicom.pseudonyms import Pseudonyms, read_pseudonyms, write_names
from cdm_nnunet.documents import read_text
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_text
from cdm_nnunet.geometry.end_caps import EndCaps

from .dicom import DicomRules, dose_facts, find_dicom
from .dicom_mapping import DicomMapping, read_mapping
from .dry_run import DRY_RUN_FILE, dry_run
from .mapping_file import extended_text, mapping_text

MAPPING_FILE, TABLE_FILE, PAGE_FILE = "rois.yaml", "patients.csv", "patients.html"
Progress = Callable[[str], Callable[[int, int], None]]  # item -> called with the number done and in total


@dataclass(frozen=True)
class Inspection:
    """Settings of an inspection.

    Attributes:
        source: Any tree of DICOM files.
        out: Folder for the mapping to review and for tables, which contain patients' ids.
        mapping: A mapping to use unchanged; None for the one in ``out``, to which missing names are added.
        template: Load every patient as conversion with this template does; None only reads the files.
        grid: As in :class:`DicomRules`.
        end_caps: End caps of ROIs; None uses the mapping's.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.
        exclude: Cases or patients that conversion will exclude.
        headers_only: Do not check the values of CT images and doses.
        leave_out_helpers: Let the mapping exclude names of helper structures.
        n_processes: Worker processes.
    """

    source: Path
    out: Path
    mapping: Path | None = None
    template: Template | None = None
    grid: str = "dose"
    end_caps: EndCaps | None = None
    match_geometry: bool = False
    exclude: tuple[str, ...] = ()
    headers_only: bool = False
    leave_out_helpers: bool = False
    n_processes: int = 1

    @property
    def mapping_file(self) -> Path:
        """Path of the mapping."""
        return self.mapping or self.out / MAPPING_FILE

    def read_mapping(self) -> DicomMapping:
        """Read the mapping, with the choices of this inspection; an empty one if there is none yet.

        Raises:
            InputError: If it is damaged, or a named mapping is missing.
        """
        there = self.mapping is not None or self.mapping_file.is_file()
        mapping = read_mapping(self.mapping_file) if there else DicomMapping({})
        return replace(mapping, end_caps=self.end_caps or mapping.end_caps, match_geometry=self.match_geometry)


def inspect_dicom(inspection: Inspection, progress: Progress) -> dict[str, Any]:
    """Inspect a folder, write the mapping to review and the tables.

    Args:
        inspection: Its settings.
        progress: Returns the progress bar of a part of the work.

    Returns:
        The record of :func:`cdm_nnunet.dicom.inspection.inspect_index`, with the paths of mapping and tables,
        ``new_names`` in the mapping, names ``to_add`` by hand, and whether it was a ``dry_run``.

    Raises:
        InputError: If there is no DICOM file, or the mapping or the rules don't fit.
    """
    choice = inspection.read_mapping().choice
    out = inspection.out
    index = index_folder(inspection.source, out / INDEX_FILE, progress("headers"))
    pseudonyms = read_pseudonyms(out)
    write_names(out, index.persons, pseudonyms)
    record = inspect_index(
        index,
        progress("patients"),
        choice=choice,
        pseudonyms=pseudonyms,
        pixels=not inspection.headers_only,
        cache=out / ROWS_FILE,
    )
    counts = {name: row["patients"] for name, row in record["rois"].items()}
    new_names, to_add = ([], "") if inspection.mapping else _bring_up_to_date(inspection, counts)
    if inspection.template is not None:
        rules = DicomRules(inspection.template, inspection.read_mapping(), inspection.grid)
        record |= _what_conversion_says(inspection, rules, index, pseudonyms, record["patients"], progress)
    write_text(out / TABLE_FILE, csv_table(record["patients"]), private=True)
    write_text(out / PAGE_FILE, html_table(record["patients"], f"Patients in {inspection.source}"), private=True)
    return {
        **record,
        "mapping": str(inspection.mapping_file),
        "new_names": new_names,
        "to_add": to_add,
        "table": str(out / PAGE_FILE),
        "dry_run": inspection.template is not None,
    }


def _bring_up_to_date(inspection: Inspection, counts: Mapping[str, int]) -> tuple[list[str], str]:
    """Write or extend the mapping; return the added names, and the reason if none could be added."""
    path, template, helpers = inspection.mapping_file, inspection.template, inspection.leave_out_helpers
    if not path.exists():
        write_text(path, mapping_text(counts, template=template, leave_out_helpers=helpers))
        return [], ""
    try:
        before = read_text(path)
        after, names = extended_text(before, counts, template=template, leave_out_helpers=helpers)
    except InputError as error:
        return [], f"{path}: {error}"
    if after != before:
        write_text(path, after)
    return list(names), ""


def _what_conversion_says(
    inspection: Inspection,
    rules: DicomRules,
    index: FolderIndex,
    pseudonyms: Pseudonyms,
    rows: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """The patients' rows with the refusals, notes and prescriptions of a conversion, and its general refusals."""
    rules.refuse_unfit()
    chosen = find_dicom(index, rules, pseudonyms).without(inspection.exclude)
    found = dry_run(
        chosen,
        n_processes=inspection.n_processes,
        progress=progress("dry run"),
        cache=inspection.out / DRY_RUN_FILE,
    )
    record: dict[str, Any] = {
        "excluded": sorted(set(rows) - set(found)),
        "patients": {case: rows[case] | _row_of(said, rows[case]) for case, said in found.items()},
    }
    try:
        dose_facts([patient.files for patient in chosen])
    except InputError as error:
        record["problems"] = [str(error)]
    return record


def _row_of(said: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    refused = said["refused"]
    return {
        "convertible": not refused,
        "problems": [refused] if refused else [],
        "notes": said["notes"] or row["notes"] * bool(refused),
        "prescriptions_gy": said["prescriptions_gy"] or row["prescriptions_gy"],
        **{key: said[key] for key in ("rois", "size", "spacing_mm")},
    }
