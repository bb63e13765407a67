"""A predicted dose as RTDOSE in the patient's study, for the planning system.

The patient, the study, the frame of reference and the plan come from the patient's own DICOM files; the planes lie as
the CT's do. Values are quantised: within half a step of ``DoseGridScaling``. The file is read back before it counts.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from cdm_nnunet import __version__
from cdm_nnunet.dicom import predicted
from cdm_nnunet.dicom.ct import is_localizer
from cdm_nnunet.dicom.dose import DOSE_CLASS, read_dose
from cdm_nnunet.dicom.files import named, numbers_of, read_file, text_of
from cdm_nnunet.dicom.index import index_files, index_folder
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.plan_choice import DEFAULT, Choice
from cdm_nnunet.dicom.structures import STRUCTURE_CLASS
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error, replacing
from cdm_nnunet.images import Image, read_image
from cdm_nnunet.ranges import DOSE_MAXIMUM_GY

BITS = (16, 32)
POINT_TOLERANCE_MM = 0.01
_LOW_DOSE = 0.1  # of the maximum: dose above it must lie on the CT
_MAX_ANGLE_DEGREES = 0.5
_COPIED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator", "TimezoneOffsetFromUTC"),
)
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


@dataclass(frozen=True, eq=False)
class Patient:
    """What a dose takes from the patient's files.

    Attributes:
        header: An image of the CT, without its pixels.
        directions: Along the rows, along the columns, and their normal: rows of shape (3, 3).
        low_mm: Lowest coordinates of pixel edges along the directions, shape (3,).
        high_mm: Highest coordinates.
        plan: The plan; None where there is none.
        structure_uid: SOPInstanceUID of the structure set; empty where there is none or it is not clear which.
    """

    header: Dataset
    directions: NDArray[np.float64]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    plan: Plan | None
    structure_uid: str = ""


@dataclass(frozen=True)
class ExportedDose:
    """A written RTDOSE.

    Attributes:
        path: The file.
        sop_uid: Its SOPInstanceUID.
        bits: Bits a voxel.
        step_gy: DoseGridScaling: what one unit stands for.
        maximum_gy: Highest dose.
        plan: Label of the referenced plan; None where there is none.
    """

    path: Path
    sop_uid: str
    bits: int
    step_gy: float
    maximum_gy: float
    plan: str | None


def export_dose(
    prediction: Path,
    source: Path | Sequence[Path] | Patient,
    out: Path,
    *,
    bits: int = 16,
    plan: Path | None = None,
    dose_type: str = "",
) -> ExportedDose:
    """Write a predicted dose as RTDOSE.

    Args:
        prediction: NIfTI file, Gy, in the patient's coordinates.
        source: Folder with the patient's CT and plan, at any depth; or these files; or what was read from them.
        out: The file to write.
        bits: 16 or 32 bits a voxel.
        plan: The plan that the dose is for, where the folder has several.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``, as the doses that the model learnt from; empty where that is not
            known.

    Returns:
        What was written.

    Raises:
        InputError: If the dose is negative, NaN, zero or not plausible, does not lie on the CT, the folder does not
            hold one CT series and at most one plan, or the type of the dose is not known and the plan is one of ions.
        OSError: If the file can't be written; nothing of it remains.
    """
    if bits not in BITS:
        raise InputError(f"an RTDOSE has 16 or 32 bits a voxel, not {bits}")
    patient = source if isinstance(source, Patient) else read_patient(source, plan)
    dose_type = dose_type_for(patient, dose_type)
    image = read_image(prediction, patient_axes=True)
    _refuse_implausible(image)
    _refuse_misplaced(image, patient)
    dataset, step_gy = _dose_dataset(image, patient, bits, dose_type)
    with replacing(out) as partial:
        try:
            dataset.save_as(partial, enforce_file_format=True)
            _refuse_difference(partial, image, step_gy)
        except (OSError, InputError) as error:  # (of a full disk, both may come)
            if isinstance(error, OSError) and error.errno is None:
                raise
            raise_write_error(out, image.values.size * bits // 8, error)
    label = None if patient.plan is None else patient.plan.label
    return ExportedDose(out, dataset.SOPInstanceUID, bits, step_gy, float(image.values.max()), label)


def dose_type_for(patient: Patient, learnt: str) -> str:
    """DoseType of a predicted dose: that of the doses that the model learnt from.

    Args:
        patient: The patient.
        learnt: ``PHYSICAL`` or ``EFFECTIVE``; empty where it is not known.

    Raises:
        InputError: If it is not known, and the plan is one of ions.
    """
    if not learnt and patient.plan is not None and patient.plan.radiation == "ions":
        raise InputError(
            f"{patient.plan.path} is a plan of ions, whose dose may be PHYSICAL or EFFECTIVE (weighted by its "
            "biological effect); say which the model learnt from (--dose-type)"
        )
    return learnt or "PHYSICAL"


def read_patient(source: Path | Sequence[Path], plan: Path | None = None) -> Patient:
    """Find the CT and the plan of a patient, paired as in conversion.

    Args:
        source: The folder; files at any depth, with any name. Or the files.
        plan: The plan to take; None takes the one that is there.

    Raises:
        InputError: If there is no CT, or CT images of several patients, studies or frames of reference, several CT
            series of which no structure set says which, several plans, a damaged file, or the plan belongs to another
            patient or frame of reference. It may belong to another study: the dose goes to that of the CT.
    """
    index = index_folder(source) if isinstance(source, Path) else index_files(source)
    where = index.folder
    for path, reason in index.unread.items():
        if _is_dicom(Path(path)):
            raise InputError(reason)  # (others are reports, spreadsheets)
    chosen = None if plan is None else read_plan(plan)
    if chosen is not None:
        index = dataclasses.replace(
            index,
            entries=tuple(e for e in index.entries if e.modality != "RTPLAN" or e.sop_uid == chosen.sop_uid),
        )
    found = index.patients(needed=(), choice=Choice({} if chosen is None else {DEFAULT: chosen.sop_uid}))
    if len(found) > 1:
        patients = ", ".join(files.patient for files in found)
        raise InputError(f"{where} has {len(found)} patients: {patients}; give a folder with one")
    (files,) = found
    if len(index.plans) > 1 and chosen is None:
        raise InputError(f"{where} has {len(index.plans)} plans: {', '.join(index.plans)}; choose one (--plan)")
    if files.problems:
        raise InputError(f"{where}: {'; '.join(files.problems)}")
    images = [(path, read_file(path, pixels=False)) for path in files.ct]
    slices = [(path, header) for path, header in images if not is_localizer(header, path)]
    if not slices:
        raise InputError(f"{where} has no CT")
    first = slices[0][1]
    for what, keyword in (("studies", "StudyInstanceUID"), ("frames of reference", "FrameOfReferenceUID")):
        uids = sorted({text_of(header, keyword, path, "") for path, header in slices})
        if len(uids) > 1:
            raise InputError(f"the CT in {where} has {len(uids)} {what}: {', '.join(uids)}; give a folder with one")
    text_of(first, "FrameOfReferenceUID", slices[0][0])
    directions, low_mm, high_mm = _extent(slices)
    patient = Patient(first, directions, low_mm, high_mm, None, files.uids.get("structure set", ""))
    if chosen is None and files.plans:
        chosen = read_plan(files.plans[0])
    if chosen is None:
        return patient
    _refuse_other_patient(chosen, first, slices[0][0])
    return dataclasses.replace(patient, plan=chosen)


def _refuse_other_patient(plan: Plan, image: Dataset, path: Path) -> None:
    for what, theirs, ours in (
        ("patient", plan.patient_id, text_of(image, "PatientID", path, "")),
        ("frame of reference", plan.frame_uid, text_of(image, "FrameOfReferenceUID", path)),
    ):
        if theirs and ours and theirs != ours:
            raise InputError(f"{plan.path} belongs to another {what} ({theirs}) than the CT ({ours})")


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
        raise InputError(f"{path}: {named('ImageOrientationPatient')} is no pair of unit vectors at right angles")
    lows, highs = [], []
    for path, header in slices:
        corner = directions @ numbers_of(header, "ImagePositionPatient", path, 3)
        row_mm, column_mm = numbers_of(header, "PixelSpacing", path, 2)
        rows, columns = (numbers_of(header, keyword, path, 1)[0] for keyword in ("Rows", "Columns"))
        lows.append(corner - np.array([column_mm, row_mm, 0]) / 2)
        highs.append(corner + np.array([(columns - 0.5) * column_mm, (rows - 0.5) * row_mm, 0]))
    return directions, np.min(lows, axis=0), np.max(highs, axis=0)


def _refuse_implausible(image: Image) -> None:
    """NaN and infinity were refused when the file was read."""
    if image.values.min() < 0:
        raise InputError(f"{image.path} has negative dose in {np.count_nonzero(image.values < 0)} voxels")
    maximum_gy = float(image.values.max())
    if maximum_gy == 0:
        raise InputError(f"{image.path}: the dose is zero everywhere")
    if maximum_gy > DOSE_MAXIMUM_GY.possible[1]:
        raise InputError(f"{image.path}: the dose reaches {maximum_gy:g} Gy, which is not plausible; is it in cGy?")


def _axes(image: Image) -> NDArray[np.float64]:
    """Unit vectors of the array's x, y and z axes, one a row."""
    return np.reshape(image.direction, (3, 3)).T


def _refuse_misplaced(image: Image, patient: Patient) -> None:
    """Check that the grid is parallel to the CT and that the dose lies on it."""
    cosines = np.abs(patient.directions @ _axes(image).T)
    if cosines.max(axis=1).min() < math.cos(math.radians(_MAX_ANGLE_DEGREES)):
        raise InputError(f"{image.path} is turned against the patient's CT; is it this patient's prediction?")
    z, y, x = np.nonzero(image.values >= _LOW_DOSE * image.values.max())
    index = np.array([[axis.min(), axis.max()] for axis in (x, y, z)])  # (3, 2)
    spacing_mm = np.array(image.spacing_mm[::-1])
    corners = np.stack(np.meshgrid(*(index * spacing_mm[:, None]), indexing="ij"), -1).reshape(-1, 3)
    along = (np.array(image.origin_mm) + corners @ _axes(image)) @ patient.directions.T
    margin_mm = float(spacing_mm.max())
    excess_mm = max(float((patient.low_mm - along.min(0)).max()), float((along.max(0) - patient.high_mm).max()))
    if excess_mm > margin_mm:
        raise InputError(
            f"{image.path} has dose {excess_mm:.0f} mm outside the patient's CT; is it this patient's prediction, in "
            "the patient's coordinates?"
        )


def _dose_dataset(image: Image, patient: Patient, bits: int, dose_type: str) -> tuple[FileDataset, float]:
    frames_gy, origin_mm, directions, steps_mm = _as_ct_planes(image, patient.directions)
    dataset = _header(patient, dose_type)
    rows, columns = frames_gy.shape[1:]
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, len(frames_gy)
    dataset.ImagePositionPatient = _decimals(origin_mm)
    dataset.ImageOrientationPatient = _decimals(directions[:2].ravel())
    dataset.PixelSpacing = _decimals([steps_mm[1], steps_mm[0]])
    dataset.SliceThickness = _decimals([steps_mm[2]])[0]
    dataset.FrameIncrementPointer = 0x3004000C
    dataset.GridFrameOffsetVector = _decimals(np.arange(len(frames_gy)) * steps_mm[2])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    largest = 2**bits - 1
    dataset.DoseGridScaling = format_number_as_ds(float(frames_gy.max()) / largest)
    step_gy = float(dataset.DoseGridScaling)
    stored = np.minimum(np.rint(frames_gy / step_gy), largest).astype(f"<u{bits // 8}")
    dataset.PixelData = stored.tobytes() + (b"\0" if stored.nbytes % 2 else b"")
    return dataset, step_gy


def _as_ct_planes(
    image: Image, ct_directions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Turn the array so that its planes, rows and columns run as the CT's do, by flips and permutations.

    Returns:
        Dose (frames, rows, columns), the position of its first voxel, and along rows, columns and normal the directions
        (3, 3) and the steps (3,) in mm.
    """
    axes, steps_mm = _axes(image), np.array(image.spacing_mm[::-1])
    values, origin_mm = image.values.astype(np.float64), np.array(image.origin_mm)
    order = [int(np.argmax(np.abs(axes @ direction))) for direction in ct_directions]  # of x, y, z
    directions = axes[order].copy()
    for position, axis in enumerate(order):
        if directions[position] @ ct_directions[position] < 0:
            values = np.flip(values, 2 - axis)
            origin_mm = origin_mm + (image.values.shape[2 - axis] - 1) * steps_mm[axis] * axes[axis]
            directions[position] *= -1
    return values.transpose([2 - axis for axis in reversed(order)]), origin_mm, directions, steps_mm[order]


def _header(patient: Patient, dose_type: str) -> FileDataset:
    """All that does not depend on the dose."""
    meta = FileMetaDataset()
    uid = generate_uid()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(DOSE_CLASS), uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = DOSE_CLASS, uid, "RTDOSE"
    for keyword in _COPIED:
        if keyword in patient.header:
            setattr(dataset, keyword, getattr(patient.header, keyword))
        elif keyword in _MAY_BE_EMPTY:
            setattr(dataset, keyword, "")
    now = datetime.datetime.now()
    for prefix in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, f"{prefix}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{prefix}Time", now.strftime("%H%M%S"))
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = generate_uid(), 1, 1
    dataset.SeriesDescription, dataset.DoseComment, dataset.OperatorsName = (
        predicted.SERIES_DESCRIPTION,
        predicted.COMMENT,
        "",
    )
    dataset.Manufacturer, dataset.ManufacturerModelName = predicted.MANUFACTURER, predicted.MODEL_NAME
    dataset.SoftwareVersions = __version__
    dataset.DoseUnits, dataset.DoseType = "GY", dose_type
    if patient.plan is not None:
        dataset.DoseSummationType = "PLAN"
        dataset.ReferencedRTPlanSequence = [
            _item(ReferencedSOPClassUID=patient.plan.sop_class, ReferencedSOPInstanceUID=patient.plan.sop_uid)
        ]
    else:  # (the one type that needs no plan)
        dataset.DoseSummationType = "PLAN_OVERVIEW"
        dataset.PlanOverviewSequence = [_plan_overview(patient)]
    return dataset


def _plan_overview(patient: Patient) -> Dataset:
    overview = _item(PlanOverviewIndex=1, RTPlanLabel="", TreatmentSite="", PrescriptionOverviewSequence=[])
    if patient.structure_uid:
        overview.ReferencedStructureSetSequence = [
            _item(ReferencedSOPClassUID=STRUCTURE_CLASS, ReferencedSOPInstanceUID=patient.structure_uid)
        ]
    return overview


def _refuse_difference(path: Path, image: Image, step_gy: float) -> None:
    """Read the file back: every voxel must have its dose, to half a step, and its place, to 0.01 mm."""
    volume = read_dose([path]).volume
    grid = volume.grid
    if grid.shape != image.values.shape:
        raise OSError(f"{path} reads back with {grid.shape} voxels, not {image.values.shape}")
    axes, steps_mm = _axes(image), np.array(image.spacing_mm[::-1])
    last = np.array(image.values.shape[::-1]) - 1
    end_mm = np.array([offsets_mm[-1] for offsets_mm in grid.offsets_mm])
    shift_mm = max(
        float(np.abs(grid.origin_mm - image.origin_mm).max()),
        float(np.abs(grid.origin_mm + end_mm @ grid.axes - image.origin_mm - (last * steps_mm) @ axes).max()),
    )
    off_gy = float(np.abs(volume.values - image.values).max())
    rounding_gy = 1e-6 * float(image.values.max())  # of float32
    if not (shift_mm <= POINT_TOLERANCE_MM and off_gy <= step_gy / 2 + rounding_gy):
        raise OSError(f"{path} reads back {shift_mm:.3g} mm and {off_gy:.3g} Gy off what was written")


def _decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters, as exact as they can be."""
    return [format_number_as_ds(float(value) + 0.0) for value in np.asarray(values, np.float64)]


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
