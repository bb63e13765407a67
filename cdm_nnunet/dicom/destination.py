"""Destination of a predicted dose: patient, study, frame of reference and plan, from the patient's DICOM files.

They are those of the CT. If the CT was matched by its slices only, because it was exported again with other UIDs, they
are those of the structure set: the referenced plan was made on it, and a planning system opens a dose in the frame of
reference of its plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.dicom.ct import is_localizer
from cdm_nnunet.dicom.files import named, numbers_of, read_file, text_of
from cdm_nnunet.dicom.index import index_files, index_folder
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.plan_choice import DEFAULT, Choice
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.errors import InputError


@dataclass(frozen=True, eq=False)
class Destination:
    """Entries of an RTDOSE that come from the patient's files.

    Attributes:
        header: Patient and study of the CT, or of the structure set if the CT was matched by its slices.
        frame_uid: FrameOfReferenceUID.
        directions: Directions of the CT along rows, columns and normal, as the rows of shape (3, 3).
        low_mm: Lowest coordinates of pixel edges along the directions, shape (3,).
        high_mm: Highest coordinates.
        plan: The plan; None if there is none.
        structure_uid: SOPInstanceUID of the structure set; empty if there is none or it is ambiguous.
        notes: Remarks for the user.
    """

    header: Dataset
    frame_uid: str
    directions: NDArray[np.float64]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    plan: Plan | None
    structure_uid: str = ""
    notes: tuple[str, ...] = ()


def find_destination(
    source: Path | Sequence[Path], plan: Path | None = None, *, match_geometry: bool = False
) -> Destination:
    """Find the CT, the structure set and the plan of a patient, paired as in conversion.

    Args:
        source: The folder (files at any depth, with any name), or the files.
        plan: The plan to use; None takes the only one.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.

    Raises:
        InputError: If there is no CT, CT images of several patients, studies or frames of reference, several CT series
            and no structure set that refers to one, several plans, a damaged file, or a plan of another patient or
            frame of reference. The plan may belong to another study: the dose belongs to that of the CT.
    """
    index = index_folder(source) if isinstance(source, Path) else index_files(source)
    where = index.folder
    for path, reason in index.unread.items():
        if _is_dicom(Path(path)):
            raise InputError(reason)  # (others are reports or spreadsheets)
    chosen = None if plan is None else read_plan(plan)
    if chosen is not None:
        index = dataclasses.replace(
            index,
            entries=tuple(e for e in index.entries if e.modality != "RTPLAN" or e.sop_uid == chosen.sop_uid),
        )
    choice = Choice({} if chosen is None else {DEFAULT: chosen.sop_uid}, match_geometry=match_geometry)
    found = index.patients(needed=(), choice=choice)
    if len(found) > 1:
        patients = ", ".join(files.patient for files in found)
        raise InputError(f"{where} has {len(found)} patients: {patients}; give a folder with one")
    (files,) = found
    if len(index.plans) > 1 and chosen is None:
        raise InputError(f"{where} has {len(index.plans)} plans: {', '.join(index.plans)}; choose one (--plan)")
    if files.problems:
        raise InputError(f"{where}: {'; '.join(files.problems)}")
    return destination_of(files, where, chosen)


def destination_of(files: PatientFiles, where: object, plan: Plan | None = None) -> Destination:
    """Find the destination of a patient's dose.

    Args:
        files: The patient's files, without problems.
        where: Folder or archive of the files, for messages.
        plan: The plan to refer to; None takes the patient's first.

    Raises:
        InputError: As :func:`find_destination`.
    """
    images = [(path, read_file(path, pixels=False)) for path in files.ct]
    slices = [(path, header) for path, header in images if not is_localizer(header, path)]
    if not slices:
        raise InputError(f"{where} has no CT")
    for what, keyword in (("studies", "StudyInstanceUID"), ("frames of reference", "FrameOfReferenceUID")):
        uids = sorted({text_of(header, keyword, path, "") for path, header in slices})
        if len(uids) > 1:
            raise InputError(f"the CT in {where} has {len(uids)} {what}: {', '.join(uids)}; give a folder with one")
    path, header = slices[0]
    if plan is None and files.plans:
        plan = read_plan(files.plans[0])
    notes: tuple[str, ...] = ()
    if files.by_geometry and files.structures is not None:
        path, header = files.structures, read_file(files.structures, pixels=False)
        frame_uid = _frame_of_contours(files.structures)
        notes = (
            "the dose belongs to the study and the frame of reference of the structure set, not to those of the CT, "
            "which was taken by its slices",
        )
    else:
        frame_uid = text_of(header, "FrameOfReferenceUID", path)
    if plan is not None:
        _refuse_other(plan, text_of(header, "PatientID", path, ""), frame_uid, path)
    structure_uid = files.uids.get("structure set", "")
    return Destination(header, frame_uid, *_extent(slices), plan, structure_uid, notes)


def _frame_of_contours(path: Path) -> str:
    frame_uid = read_structures(path).frame_uid
    if not frame_uid:
        raise InputError(f"{path} names no frame of reference, so that no dose can be written for its plan")
    return frame_uid


def _refuse_other(plan: Plan, patient_id: str, frame_uid: str, path: Path) -> None:
    for what, theirs, ours in (
        ("patient", plan.patient_id, patient_id),
        ("frame of reference", plan.frame_uid, frame_uid),
    ):
        if theirs and ours and theirs != ours:
            raise InputError(f"{plan.path} belongs to another {what} ({theirs}) than {path} ({ours})")


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _extent(
    slices: Sequence[tuple[Path, Dataset]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions of the CT, and the box of its pixels along them."""
    path, header = slices[0]
    orientation = numbers_of(header, "ImageOrientationPatient", path, 6)
    directions = np.stack([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])])
    if not np.allclose(directions @ directions.T, np.eye(3), atol=1e-3):
        raise InputError(f"{path}: {named('ImageOrientationPatient')} is not a pair of unit vectors at right angles")
    lows, highs = [], []
    for path, header in slices:
        corner = directions @ numbers_of(header, "ImagePositionPatient", path, 3)
        row_mm, column_mm = numbers_of(header, "PixelSpacing", path, 2)
        rows, columns = (numbers_of(header, keyword, path, 1)[0] for keyword in ("Rows", "Columns"))
        lows.append(corner - np.array([column_mm, row_mm, 0]) / 2)
        highs.append(corner + np.array([(columns - 0.5) * column_mm, (rows - 0.5) * row_mm, 0]))
    return directions, np.min(lows, axis=0), np.max(highs, axis=0)
