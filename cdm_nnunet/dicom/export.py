"""A predicted dose as RTDOSE in the patient's study, for the planning system.

The patient, the study, the frame of reference and the plan come from the patient's own DICOM files; the planes are
oriented as the CT's. Values are rounded to steps of ``DoseGridScaling``. The file is read back and compared.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from cdm_nnunet import __version__
from cdm_nnunet.counting import counted
from cdm_nnunet.dicom import predicted
from cdm_nnunet.dicom.destination import Destination
from cdm_nnunet.dicom.dose import DOSE_CLASS, read_dose
from cdm_nnunet.dicom.structures import STRUCTURE_CLASS
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error, replacing
from cdm_nnunet.images import Image, read_image
from cdm_nnunet.ranges import DOSE_MAXIMUM_GY

BITS = (16, 32)
POINT_TOLERANCE_MM = 0.01
_LOW_DOSE = 0.1  # of the maximum: higher dose must lie on the CT
_MAX_ANGLE_DEGREES = 0.5
_COPIED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator", "TimezoneOffsetFromUTC"),
)
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


@dataclass(frozen=True)
class ExportedDose:
    """A written RTDOSE.

    Attributes:
        path: The file.
        sop_uid: Its SOPInstanceUID.
        bits: Bits per voxel.
        step_gy: DoseGridScaling: dose of one unit, Gy.
        maximum_gy: Highest dose.
        plan: Label of the referenced plan; None if there is none.
        notes: Remarks on the destination.
    """

    path: Path
    sop_uid: str
    bits: int
    step_gy: float
    maximum_gy: float
    plan: str | None
    notes: tuple[str, ...] = ()


def export_dose(
    prediction: Path,
    patient: Destination,
    out: Path,
    *,
    bits: int = 16,
    dose_type: str = "",
) -> ExportedDose:
    """Write a predicted dose as RTDOSE.

    Args:
        prediction: NIfTI file, Gy, in the patient's coordinates.
        patient: Its destination.
        out: The file to write.
        bits: 16 or 32 bits per voxel.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``, as in the model's training data; empty if that is not
            known.

    Returns:
        The written file.

    Raises:
        InputError: If the dose is negative, NaN, zero or not plausible, does not lie on the CT, or the type of
            the dose is not known and the plan is an ion plan.
        OSError: If the file can't be written; no partial file remains.
    """
    if bits not in BITS:
        raise InputError(f"an RTDOSE has 16 or 32 bits per voxel, not {bits}")
    dose_type = dose_type_for(patient, dose_type)
    image = read_image(prediction, patient_axes=True)
    _refuse_implausible(image)
    _refuse_misplaced(image, patient)
    dataset, step_gy = _dose_dataset(image, patient, bits, dose_type)
    with replacing(out) as partial:
        try:
            dataset.save_as(partial, enforce_file_format=True)
            _refuse_difference(partial, image, step_gy)
        except (OSError, InputError) as error:  # (a full disk may raise either)
            if isinstance(error, OSError) and error.errno is None:
                raise
            raise_write_error(out, image.values.size * bits // 8, error)
    label = None if patient.plan is None else patient.plan.label
    return ExportedDose(out, dataset.SOPInstanceUID, bits, step_gy, float(image.values.max()), label, patient.notes)


def dose_type_for(patient: Destination, learnt: str) -> str:
    """DoseType of a predicted dose: that of the model's training data.

    Args:
        patient: Destination of the dose.
        learnt: ``PHYSICAL`` or ``EFFECTIVE``; empty if it is not known.

    Raises:
        InputError: If it is not known, and the plan is an ion plan.
    """
    if not learnt and patient.plan is not None and patient.plan.radiation == "ions":
        raise InputError(
            f"{patient.plan.path} is an ion plan, whose dose may be PHYSICAL or EFFECTIVE (weighted by "
            "biological effectiveness); say on which the model was trained (--dose-type)"
        )
    return learnt or "PHYSICAL"


def _refuse_implausible(image: Image) -> None:
    """Check sign and size of the dose; NaN and infinity were refused when the file was read."""
    if image.values.min() < 0:
        raise InputError(f"{image.path} has negative dose in {counted(np.count_nonzero(image.values < 0), 'voxel')}")
    maximum_gy = float(image.values.max())
    if maximum_gy == 0:
        raise InputError(f"{image.path}: the dose is zero everywhere")
    if maximum_gy > DOSE_MAXIMUM_GY.possible[1]:
        raise InputError(f"{image.path}: the dose reaches {maximum_gy:g} Gy, which is not plausible; is it in cGy?")


def _refuse_misplaced(image: Image, patient: Destination) -> None:
    """Check that the grid is parallel to the CT and that the dose lies on it."""
    cosines = np.abs(patient.directions @ image.grid.axes.T)
    if cosines.max(axis=1).min() < math.cos(math.radians(_MAX_ANGLE_DEGREES)):
        raise InputError(f"{image.path} is rotated relative to the patient's CT; is it this patient's prediction?")
    z, y, x = np.nonzero(image.values >= _LOW_DOSE * image.values.max())
    index = np.array([[axis.min(), axis.max()] for axis in (x, y, z)])  # (3, 2)
    spacing_mm = np.array(image.grid.spacing_xyz_mm)
    corners = np.stack(np.meshgrid(*(index * spacing_mm[:, None]), indexing="ij"), -1).reshape(-1, 3)
    along = (image.grid.origin_xyz_mm + corners @ image.grid.axes) @ patient.directions.T
    margin_mm = float(spacing_mm.max())
    excess_mm = max(float((patient.low_mm - along.min(0)).max()), float((along.max(0) - patient.high_mm).max()))
    if excess_mm > margin_mm:
        raise InputError(
            f"{image.path} has dose {excess_mm:.0f} mm outside the patient's CT; is it this patient's prediction, in "
            "the patient's coordinates?"
        )


def _dose_dataset(image: Image, patient: Destination, bits: int, dose_type: str) -> tuple[FileDataset, float]:
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
    """Orient the array's planes, rows and columns as the CT's, by flips and permutations.

    Returns:
        Dose (frames, rows, columns), the position of its first voxel, and along rows, columns and normal the directions
        (3, 3) and the steps (3,) in mm.
    """
    axes, steps_mm = image.grid.axes, np.array(image.grid.spacing_xyz_mm)
    values, origin_mm = image.values.astype(np.float64), image.grid.origin_xyz_mm
    order = [int(np.argmax(np.abs(axes @ direction))) for direction in ct_directions]  # of x, y, z
    directions = axes[order].copy()
    for position, axis in enumerate(order):
        if directions[position] @ ct_directions[position] < 0:
            values = np.flip(values, 2 - axis)
            origin_mm = origin_mm + (image.values.shape[2 - axis] - 1) * steps_mm[axis] * axes[axis]
            directions[position] *= -1
    return values.transpose([2 - axis for axis in reversed(order)]), origin_mm, directions, steps_mm[order]


def _header(patient: Destination, dose_type: str) -> FileDataset:
    """All elements that do not depend on the dose."""
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
    dataset.FrameOfReferenceUID = patient.frame_uid
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
    else:  # (the only type that needs no plan)
        dataset.DoseSummationType = "PLAN_OVERVIEW"
        dataset.PlanOverviewSequence = [_plan_overview(patient)]
    return dataset


def _plan_overview(patient: Destination) -> Dataset:
    overview = _item(PlanOverviewIndex=1, RTPlanLabel="", TreatmentSite="", PrescriptionOverviewSequence=[])
    if patient.structure_uid:
        overview.ReferencedStructureSetSequence = [
            _item(ReferencedSOPClassUID=STRUCTURE_CLASS, ReferencedSOPInstanceUID=patient.structure_uid)
        ]
    return overview


def _refuse_difference(path: Path, image: Image, step_gy: float) -> None:
    """Read the file back: doses must agree within half a step, positions within 0.01 mm."""
    volume = read_dose([path]).volume
    grid = volume.grid
    if grid.shape != image.values.shape:
        raise OSError(f"{path} reads back with {grid.shape} voxels, not {image.values.shape}")
    axes, steps_mm = image.grid.axes, np.array(image.grid.spacing_xyz_mm)
    last = np.array(image.values.shape[::-1]) - 1
    end_mm = np.array([offsets_mm[-1] for offsets_mm in grid.offsets_xyz_mm])
    off_mm = grid.origin_xyz_mm - image.grid.origin_xyz_mm
    end_off_mm = off_mm + end_mm @ grid.axes - (last * steps_mm) @ axes
    shift_mm = max(float(np.abs(off_mm).max()), float(np.abs(end_off_mm).max()))
    off_gy = float(np.abs(volume.values - image.values).max())
    rounding_gy = 1e-6 * float(image.values.max())  # of float32
    if not (shift_mm <= POINT_TOLERANCE_MM and off_gy <= step_gy / 2 + rounding_gy):
        raise OSError(f"{path} reads back {shift_mm:.3g} mm and {off_gy:.3g} Gy off what was written")


def _decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters, with the most digits that fit."""
    return [format_number_as_ds(float(value) + 0.0) for value in np.asarray(values, np.float64)]


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
