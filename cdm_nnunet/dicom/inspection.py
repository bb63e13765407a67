"""Inspection of a folder of DICOM files: patients, ROI names, prescriptions, and what conversion refuses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdm_nnunet.dicom.ct import read_ct, read_slice
from cdm_nnunet.dicom.dose import check_dose
from cdm_nnunet.dicom.facts import patient_facts
from cdm_nnunet.dicom.index import FolderIndex
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.plan_choice import NOTHING_CHOSEN, Choice
from cdm_nnunet.dicom.prescriptions import stated_levels
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.kept_rows import KeptRows
from cdm_nnunet.ranges import CT_HU, LOWEST_HU, TISSUE_HU, maximum_notes, prescription_notes
from cdm_nnunet.roi.tg263 import propose

ROWS_FILE = "patients.jsonl"  # in the folder of what stays local
SLICES_LOOKED_AT = 3


def inspect_index(
    index: FolderIndex,
    progress: Callable[[int, int], None] | None = None,
    *,
    choice: Choice = NOTHING_CHOSEN,
    pseudonyms: Pseudonyms | None = None,
    pixels: bool = True,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Inspect every patient of an index.

    Args:
        index: The indexed folder.
        progress: Called with the number of finished patients and of all patients.
        choice: As in :meth:`cdm_nnunet.dicom.index.FolderIndex.patients`.
        pseudonyms: As in that method.
        pixels: Check the values of three CT images per patient, and of the doses in pieces; otherwise only headers.
        cache: File that keeps the rows of patients with unchanged files for the next inspection.

    Returns:
        ``patients`` by case name, ``rois`` by name with count and proposal, ``unread`` files. No PatientID.
    """
    found = index.patients(choice=choice, pseudonyms=pseudonyms)
    counts: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    patients = {}
    with KeptRows(cache, {"patients": 3, "pixels": pixels}) as kept:
        for done, files in enumerate(found, 1):
            stamp = stamp_of(files)
            row = kept.get(files.case_name, stamp)
            if row is None:
                row = _fenced_row(files, pixels, (cache or index.folder).parent / "errors.log")
                kept.set(files.case_name, stamp, row)
            patients[files.case_name] = {key: value for key, value in row.items() if key not in ("names", "empty")}
            counts.update(row["names"])
            empty.update(row["empty"])
            if progress is not None:
                progress(done, len(found))
    return {
        "folder": str(index.folder),
        "files": len(index.entries),
        "unread": dict(index.unread),
        "remarks": list(index.remarks),
        "patients": patients,
        "rois": {name: _roi_row(name, counts[name], empty[name]) for name in sorted(counts)},
    }


def _fenced_row(files: PatientFiles, pixels: bool, log: Path) -> dict[str, Any]:
    """As :func:`_inspect_patient`, with the facts; an unforeseen error becomes a problem of the patient."""
    try:
        with fenced(files.case_name, log):
            return _inspect_patient(files, pixels) | {"facts": patient_facts(files)}
    except InputError as error:
        problem = {"convertible": False, "problems": [str(error)], "notes": list(files.notes), "facts": {}}
        return _empty_row(files) | problem


def _empty_row(files: PatientFiles) -> dict[str, Any]:
    row: dict[str, Any] = {"ct_images": len(files.ct), "doses": len(files.doses), "plans": [], "fractions": None}
    return row | {"prescriptions_gy": {}, "names": [], "empty": []}


def stamp_of(files: PatientFiles) -> str:
    """The state of a patient's files."""
    paths = [*files.ct, *([files.structures] if files.structures else []), *files.plans, *files.doses]
    states = [(str(path), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()]]
    return json.dumps([files.problems, files.notes, hashlib.sha256(json.dumps(states).encode()).hexdigest()])


def _inspect_patient(files: PatientFiles, pixels: bool) -> dict[str, Any]:
    problems, notes = list(files.problems), list(files.notes)
    row = _empty_row(files)
    structures: StructureSet | None = None
    plans: list[list[Plan]] = []
    try:
        if files.structures is not None:
            structures = read_structures(files.structures)
            row["names"], row["empty"] = sorted(structures.names), sorted(structures.empty_names)
            problems += _ambiguous_names(structures)
            notes += _structure_notes(structures)
        plans = [[read_plan(path) for path in part.plans] for part in files.parts]
        everything = [plan for part in plans for plan in part]
        row["plans"] = [plan.label for plan in everything]
        row["fractions"] = sum(plan.n_fractions or 0 for plan in everything) or None
        stated = stated_levels(everything, structures)
        row["prescriptions_gy"] = stated.by_name()
        notes += [*stated.notes, *stated.doubts]
        notes += _notes_of(lambda: prescription_notes(row["prescriptions_gy"]))
    except InputError as error:
        problems.append(str(error))
    looks: tuple[Callable[[], list[str]], ...] = (
        lambda: _look_at_doses(files, plans, pixels, row),
        lambda: _look_at_ct(files, structures, pixels),
    )
    for look in looks:
        try:
            notes += look()
        except InputError as error:
            problems.append(str(error))
    problems = list(dict.fromkeys(problems))
    return row | {"convertible": not problems, "problems": problems, "notes": notes}


def _ambiguous_names(structures: StructureSet) -> list[str]:
    counts = Counter(roi.name for roi in structures.rois if not roi.problem)
    return [f"{count} ROIs are named '{name}': ambiguous" for name, count in sorted(counts.items()) if count > 1]


def _structure_notes(structures: StructureSet) -> list[str]:
    outline = any(roi.kind == "EXTERNAL" for roi in structures.rois)
    drawn = Counter(roi.name for roi in structures.rois if not roi.problem)
    chosen = [structures.roi(name) for name in structures.names if drawn[name] <= 1]
    notes = [text for roi in chosen for text in (roi.problem, roi.note) if text]
    return [*([] if outline else ["no external contour"]), *notes]


def _notes_of(check: Callable[[], list[str]]) -> list[str]:
    """Notes of one of the conversion's checks; a refusal becomes a note, because the mapping may exclude the ROI."""
    try:
        return check()
    except InputError as error:
        return [f"suspicious: {error}"]


def _look_at_doses(
    files: PatientFiles, plans: Sequence[Sequence[Plan]], pixels: bool, row: dict[str, Any]
) -> list[str]:
    """Check the doses; the maximum of a dose in one file goes into the row."""
    for part, of_part in zip(files.parts, plans, strict=False):
        if part.doses:
            maximum_gy = check_dose(part.doses, of_part[0] if len(of_part) == 1 else None, pixels=pixels)
            if maximum_gy is not None and len(files.parts) == 1:
                row["dose_maximum_gy"] = round(maximum_gy, 2)
    if "dose_maximum_gy" not in row or not row["prescriptions_gy"]:
        return []
    return _notes_of(lambda: maximum_notes(row["dose_maximum_gy"], max(row["prescriptions_gy"].values())))


def _look_at_ct(files: PatientFiles, structures: StructureSet | None, pixels: bool) -> list[str]:
    """Check the headers of the series, and the values of a few images at even distances."""
    if not files.ct:
        return []
    ct = read_ct(files.ct, pixels=False)
    notes = list(ct.notes)
    if structures is not None and not files.by_geometry:
        note = structures.refuse_other_images(ct.image_uids)
        notes += [note] if note else []
    if not pixels:
        return notes
    count = min(SLICES_LOOKED_AT, len(ct.files))
    chosen = [ct.files[(2 * k + 1) * len(ct.files) // (2 * count)] for k in range(count)]
    slices = [read_slice(path) for path in chosen]
    low, high = min(float(s.values_hu.min()) for s in slices), max(float(s.values_hu.max()) for s in slices)
    where = f"in {count} of {len(ct.files)} CT images"
    if low == high:
        return [*notes, f"suspicious: {where} all values are {low:g} HU"]
    if low > LOWEST_HU.possible[1]:
        notes.append(f"suspicious: {where} nothing is below {low:g} HU: no air; stored as HU + 1024?")
    if high < TISSUE_HU.possible[0]:
        notes.append(f"suspicious: {where} nothing is above {high:g} HU: no tissue")
    if low < CT_HU.possible[0] or high > CT_HU.possible[1]:
        notes.append(
            f"suspicious: {where} values from {low:g} to {high:g} HU (padding, metal?); conversion clips them to "
            f"{CT_HU.possible[0]:g} to {CT_HU.possible[1]:g} HU"
        )
    return notes


def _roi_row(name: str, count: int, n_empty: int) -> Mapping[str, Any]:
    found = propose(name)
    first = found.proposals[0] if found.proposals else None
    return {
        "patients": count,
        "empty": n_empty,
        "proposal": None if first is None else first.name,
        "confidence": None if first is None else first.confidence,
        "prescription_gy": found.prescription_gy,
        "helper": found.is_helper,
    }
