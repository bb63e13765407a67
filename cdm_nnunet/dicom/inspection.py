"""What conversion would find in a folder of DICOM files: patients, ROI names, prescriptions, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.index import FolderIndex, PatientFiles
from cdm_nnunet.dicom.plan import Prescription, read_plan
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.tg263 import propose

PLAUSIBLE_PRESCRIPTION_GY = (12.0, 100.0)


def inspect_index(index: FolderIndex, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Look at every patient of an index.

    Args:
        index: The indexed folder.
        progress: Called with the number of patients done and in all.

    Returns:
        ``patients`` by case name, ``rois`` by name with count and proposal, ``unread`` files. No PatientID.
    """
    found = index.patients()
    counts: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    patients = {}
    for done, files in enumerate(found, 1):
        row, structures = _inspect_patient(files)
        patients[files.case_name] = row
        if structures is not None:
            counts.update(set(structures.names))
            empty.update({roi.name for roi in structures.rois if roi.problem})
        if progress is not None:
            progress(done, len(found))
    return {
        "folder": str(index.folder),
        "files": len(index.entries),
        "unread": dict(index.unread),
        "patients": patients,
        "rois": {name: _roi_row(name, counts[name], empty[name]) for name in sorted(counts)},
    }


def _inspect_patient(files: PatientFiles) -> tuple[dict[str, Any], StructureSet | None]:
    problems, notes = list(files.problems), list(files.notes)
    row: dict[str, Any] = {"ct_images": len(files.ct), "doses": len(files.doses), "fractions": None}
    structures = None
    row["prescriptions_gy"] = {}
    try:
        structures = None if files.structures is None else read_structures(files.structures)
        plan = None if files.plan is None else read_plan(files.plan)
        if structures is not None:
            for name in sorted({name for name in structures.names if structures.names.count(name) > 1}):
                problems.append(f"{structures.names.count(name)} ROIs are named '{name}': ambiguous")
            if not any(roi.kind == "EXTERNAL" for roi in structures.rois):
                notes.append("no external contour")
            notes += [text for roi in structures.rois for text in (roi.problem, roi.note) if text]
        if plan is not None:
            row["fractions"] = plan.n_fractions
            row["prescriptions_gy"] = _prescriptions(plan.prescriptions, structures)
        if files.doses:
            row["dose_maximum_gy"] = round(float(read_dose(files.doses, plan).volume.values.max()), 2)
    except InputError as error:
        problems.append(str(error))
    low, high = PLAUSIBLE_PRESCRIPTION_GY
    for name, level_gy in row["prescriptions_gy"].items():
        if not low <= level_gy <= high:
            notes.append(f"suspicious: {level_gy:g} Gy prescribed to '{name}'")
    row |= {"convertible": not problems, "problems": problems, "notes": notes}
    return row, structures


def _prescriptions(levels: Sequence[Prescription], structures: StructureSet | None) -> dict[str, float]:
    names = {} if structures is None else {roi.number: roi.name for roi in structures.rois}
    return {
        names.get(-1 if level.roi_number is None else level.roi_number, level.description or "plan"): level.dose_gy
        for level in levels
    }


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
