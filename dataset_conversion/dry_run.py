"""Dry run of a conversion: the conversion's own code, without writing a file."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdm_nnunet.dicom.inspection import stamp_of
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.kept_rows import KeptRows
from cdm_nnunet.parallel import unordered
from cdm_nnunet.roi import Catalogue

from .dicom_patient import DicomPatient
from .raw_layout import load_checked, template_catalogue

DRY_RUN_FILE = "dry_run.jsonl"  # in the folder of local files


def dry_run(
    patients: Sequence[DicomPatient],
    *,
    n_processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Load every patient as the conversion does, and collect its messages.

    Args:
        patients: Patients with mapping, template and grid.
        n_processes: Worker processes.
        progress: Called with the number of finished patients and of all patients.
        cache: File that stores outcomes of patients while their files and settings do not change.

    Returns:
        By case: ``refused`` (the conversion's message; empty if the patient can be converted), ``notes``,
        ``prescriptions_gy``, ``rois``, ``size`` (x, y, z) and ``spacing_mm`` (x, y, z) of the data set's grid.
    """
    found: dict[str, dict[str, Any]] = {}
    with KeptRows(cache, {"dry run": 1}) as kept:
        missing = []
        for patient in patients:
            row = kept.get(patient.name, _stamp(patient))
            if row is None:
                missing.append(patient)
            else:
                found[patient.name] = row
        if patients:
            work = functools.partial(
                _attempt,
                catalogue=template_catalogue(patients[0].template),
                log=(Path() if cache is None else cache.parent) / "errors.log",
            )
            for place, row in unordered(work, missing, n_processes):
                found[missing[place].name] = row
                kept.set(missing[place].name, _stamp(missing[place]), row)
                if progress is not None:
                    progress(len(found), len(patients))
    return {patient.name: found[patient.name] for patient in patients}


def _attempt(patient: DicomPatient, catalogue: Catalogue, log: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "refused": "",
        "notes": [],
        "prescriptions_gy": {},
        "rois": [],
        "size": None,
        "spacing_mm": None,
    }
    try:
        with fenced(patient.name, log):
            case = load_checked(patient, catalogue)
    except InputError as error:
        return row | {"refused": str(error)}
    record = case.record()
    return row | {
        "notes": list(record.notes),
        "prescriptions_gy": dict(record.prescriptions_gy),
        "rois": list(record.rois),
        "size": list(reversed(case.ct_hu.shape)),
        "spacing_mm": list(case.grid.spacing_xyz_mm),
    }


def _stamp(patient: DicomPatient) -> str:
    """The state of a patient's files and of all settings that affect their conversion."""
    mapping, own_gy = patient.mapping.of(patient.files.patient_name, patient.name)
    rois = [roi.model_dump_json() for roi in patient.template.rois]
    decisions = json.dumps([repr(mapping), own_gy, rois, patient.grid])
    return f"{stamp_of(patient.files)} {hashlib.sha256(decisions.encode()).hexdigest()}"
