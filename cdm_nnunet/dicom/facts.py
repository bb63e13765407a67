"""Facts from the headers of a patient's files, for a table: grids, systems, approval, dates; unchecked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import number_of, numbers_of, raw_numbers, read_file, text_of
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.errors import InputError

_COMMON = ("SOPClassUID", "Manufacturer", "ManufacturerModelName", "ApprovalStatus", "SeriesDescription")
_GRID = ("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "GridFrameOffsetVector", "ImagePositionPatient")
_KEYWORDS = (
    *_COMMON,
    *_GRID,
    *("ImageOrientationPatient", "DoseType", "DoseSummationType", "DoseUnits", "StructureSetLabel", "RTPlanLabel"),
    *("ContentDate", "AcquisitionDate", "StudyDate", "StructureSetDate", "RTPlanDate"),
)


def patient_facts(files: PatientFiles) -> dict[str, Any]:
    """Facts of a patient, as text or numbers; empty if absent.

    Args:
        files: The patient's files.

    Returns:
        By column: ``ct_size`` and ``dose_size`` (x, y, z), ``ct_spacing_mm`` and ``dose_spacing_mm`` (x, y, z),
        ``scanner``, ``ct_date``, ``structures``, ``structures_approval``, ``planning_system``, ``plan_approval``,
        ``plan_date``, ``dose_type``.
    """
    ct, structures = _header(files.ct[:1]), _header((files.structures,) if files.structures else ())
    plans, doses = [_header((path,)) for path in files.plans], [_header((path,)) for path in files.doses]
    ct_size, ct_spacing_mm = _grid(ct, _heights_mm(files.ct, ct))
    dose_size, dose_spacing_mm = _grid(doses[0], _offsets_mm(doses[0])) if doses else ("", "")
    return {
        "ct_size": ct_size,
        "ct_spacing_mm": ct_spacing_mm,
        "scanner": _system(ct),
        "ct_date": _first(ct, "AcquisitionDate", "ContentDate", "StudyDate"),
        "structures": _first(structures, "StructureSetLabel"),
        "structures_approval": _first(structures, "ApprovalStatus"),
        "planning_system": _joined(_system(header) for header in (plans or doses)),
        "plan_approval": _joined(_first(plan, "ApprovalStatus") for plan in plans),
        "plan_date": _joined(_first(plan, "RTPlanDate") for plan in plans),
        "dose_size": dose_size,
        "dose_spacing_mm": dose_spacing_mm,
        "dose_type": _joined(
            " ".join(_first(dose, key) for key in ("DoseType", "DoseSummationType", "DoseUnits")).strip()
            for dose in doses
        ),
    }


def _header(paths: tuple[Path, ...]) -> Dataset:
    for path in paths:
        try:
            return read_file(path, pixels=False, keywords=_KEYWORDS)
        except InputError:  # (reported where the file is used)
            continue
    return Dataset()


def _first(header: Dataset, *keywords: str) -> str:
    for keyword in keywords:
        try:
            text = text_of(header, keyword, "", "")
        except InputError:
            continue
        if text:
            return text
    return ""


def _system(header: Dataset) -> str:
    return " ".join(part for part in (_first(header, "Manufacturer"), _first(header, "ManufacturerModelName")) if part)


def _joined(texts: Any) -> str:
    return ", ".join(dict.fromkeys(text for text in texts if text))


def _heights_mm(paths: tuple[Path, ...], first: Dataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Positions of CT slices along their normal, mm."""
    try:
        orientation = numbers_of(first, "ImageOrientationPatient", "", 6)
        normal = np.cross(orientation[:3], orientation[3:])
        places = [read_file(path, pixels=False, keywords=("SOPClassUID", "ImagePositionPatient")) for path in paths]
        return np.sort([numbers_of(place, "ImagePositionPatient", "", 3) @ normal for place in places])
    except InputError:
        return np.empty(0)


def _offsets_mm(dose: Dataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        return np.sort(raw_numbers(dose, "GridFrameOffsetVector", ""))
    except InputError:
        return np.empty(0)


def _grid(header: Dataset, heights_mm: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[str, str]:
    """Size and spacing (x, y, z) as text; the median distance of the planes, and the largest if it differs."""
    try:
        rows, columns = (int(number_of(header, key, "")) for key in ("Rows", "Columns"))
        row_mm, column_mm = numbers_of(header, "PixelSpacing", "", 2)
    except InputError:
        return "", ""
    size = f"{columns} x {rows} x {max(heights_mm.size, 1)}"
    steps_mm = np.round(np.diff(heights_mm), 3)
    if not steps_mm.size:
        return size, f"{column_mm:g} x {row_mm:g}"
    step = f"{np.median(steps_mm):g}" + (f" (to {steps_mm.max():g})" if np.ptp(steps_mm) > 0.01 else "")
    return size, f"{column_mm:g} x {row_mm:g} x {step}"
