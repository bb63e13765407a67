"""The dose of a plan in Gy, from one file or summed over the files of its beams, and of a course of plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.files import (
    code_of,
    items_of,
    named,
    number_of,
    numbers_of,
    pixels_of,
    raw_numbers,
    read_file,
    stored_range,
    text_of,
)
from cdm_nnunet.dicom.plan import Plan
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import POSITION_TOLERANCE_MM, Volume, volume_from_frames
from cdm_nnunet.geometry.resampling import sum_volumes
from cdm_nnunet.ranges import DOSE_MAXIMUM_GY

DOSE_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"
_ROUNDED_MM = 0.101  # tolerance between positions given in two elements, rounded to a tenth
_WHOLE_PLAN = ("PLAN", "MULTI_PLAN", "PLAN_OVERVIEW")


@dataclass(frozen=True, eq=False)
class DoseVolume:
    """A dose distribution.

    Attributes:
        volume: Gy, float32, on a grid with the patient's axes; the planes may be at unequal distances.
        study_uid: StudyInstanceUID.
        frame_uid: FrameOfReferenceUID; empty if absent.
        plan_uid: SOPInstanceUID of the plan; empty if the file names none.
        files: Source files.
        notes: Processing, such as a sum of beams.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``.
    """

    volume: Volume
    study_uid: str
    frame_uid: str
    plan_uid: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    dose_type: str = "PHYSICAL"


def read_dose(files: Sequence[Path], plan: Plan | None = None) -> DoseVolume:
    """Read the dose of a plan.

    Doses of beams on different grids are summed as in :func:`cdm_nnunet.geometry.resampling.sum_volumes`.

    Args:
        files: One file for the whole plan, or one per beam.
        plan: The plan; needed to check that no beam is missing.

    Raises:
        InputError: If the dose is relative, in another unit or not finite, a beam is missing, there are several doses
            that are not the beams of one plan, a beam's grid ends within its dose, or the planes' positions are
            unclear; or as :func:`cdm_nnunet.dicom.files.read_file`.
    """
    parts = [_read_part(path, pixels=True) for path in files]
    _refuse_other_than_one_plan(parts, plan)
    first = parts[0]
    volume = first.volume
    notes: tuple[str, ...] = ()
    if first.summation == "BEAM":
        volume, text = sum_volumes([part.volume for part in parts], [part.path for part in parts])
        notes = (f"dose summed over {len(parts)} beams{text}",)
    _refuse_implausible(float(volume.values.max()), first.path)
    volume = Volume(volume.values.astype(np.float32), volume.grid)
    plan_uid = first.plan_uids[0] if first.plan_uids else ""
    return DoseVolume(volume, first.study_uid, first.frame_uid, plan_uid, tuple(files), notes, first.dose_type)


def sum_doses(doses: Sequence[DoseVolume]) -> DoseVolume:
    """Sum the doses of several plans of a course, as in :func:`cdm_nnunet.geometry.resampling.sum_volumes`.

    Raises:
        InputError: If they lie in different frames of reference or are of different types, a grid ends within its
            dose, or the sum is not plausible.
    """
    first = doses[0]
    if len(doses) == 1:
        return first
    _refuse_other_frames([(dose.files[0], dose.frame_uid) for dose in doses])
    _refuse_other_types([(dose.files[0], dose.dose_type) for dose in doses])
    files = [dose.files[0] for dose in doses]
    volume, text = sum_volumes([dose.volume for dose in doses], files)
    _refuse_implausible(float(volume.values.max()), files[0])
    notes = [note for dose in doses for note in dose.notes]
    return DoseVolume(
        volume,
        first.study_uid,
        first.frame_uid,
        "",
        tuple(file for dose in doses for file in dose.files),
        (*notes, f"dose summed over {len(doses)} plans{text}"),
        first.dose_type,
    )


def check_dose(files: Sequence[Path], plan: Plan | None = None, *, pixels: bool = True) -> float | None:
    """Make the checks of :func:`read_dose` without holding a dose in memory; grids of beams are not compared.

    Args:
        files: As in :func:`read_dose`.
        plan: As in :func:`read_dose`.
        pixels: Check the pixels too, in pieces.

    Returns:
        The maximum in Gy; None for several files or without ``pixels``.

    Raises:
        InputError: As :func:`read_dose`.
    """
    parts = [_read_part(path, pixels=False) for path in files]
    _refuse_other_than_one_plan(parts, plan)
    if not pixels:
        return None
    maxima_gy = []
    for part in parts:
        low, high = stored_range(part.path)
        if low < 0:
            raise InputError(f"{part.path} has negative dose, down to {low * part.scaling:g} Gy")
        maxima_gy.append(high * part.scaling)
    _refuse_implausible(max(maxima_gy), parts[0].path)
    return maxima_gy[0] if len(parts) == 1 else None


def _refuse_implausible(maximum_gy: float, where: Path) -> None:
    if maximum_gy > DOSE_MAXIMUM_GY.possible[1]:
        raise InputError(
            f"{where}: the dose reaches {maximum_gy:g} Gy, which is not plausible; is "
            f"{named('DoseGridScaling')} for cGy?"
        )
    if maximum_gy <= 0:
        raise InputError(f"{where}: the dose is zero everywhere")


def _refuse_other_than_one_plan(parts: Sequence[_Part], plan: Plan | None) -> None:
    """Check that the files are the dose of one plan, in one file or one per beam."""
    if not parts:
        raise InputError("there is no dose")
    seen: dict[str, Path] = {}
    for part in parts:
        if part.sop_uid in seen:
            raise InputError(f"{part.path} and {seen[part.sop_uid]} have the same {named('SOPInstanceUID')}; keep one")
        seen[part.sop_uid] = part.path
        if plan is not None and part.plan_uids and plan.sop_uid not in part.plan_uids:
            raise InputError(f"{part.path} belongs to another plan ({part.plan_uids[0]}) than {plan.path}")
        if plan is not None and len(part.plan_uids) > 1:
            raise InputError(f"{part.path} is the dose of {len(part.plan_uids)} plans, not of {plan.path} alone")
    first = parts[0]
    if first.summation in _WHOLE_PLAN:
        if len(parts) > 1:
            raise InputError(
                f"{len(parts)} doses, one of them of a whole plan ({first.path}); they can't be summed: give one"
            )
    elif first.summation == "BEAM":
        _refuse_missing_beams(parts, plan)
    else:
        raise InputError(
            f"{first.path} has {named('DoseSummationType')} {first.summation}; expected PLAN, or BEAM for every beam"
        )
    _refuse_other_frames([(part.path, part.frame_uid) for part in parts])
    _refuse_other_types([(part.path, part.dose_type) for part in parts])


def _refuse_other_types(types: Sequence[tuple[Path, str]]) -> None:
    first, kind = types[0]
    for path, other in types[1:]:
        if other != kind:
            raise InputError(f"{path} is of {named('DoseType')} {other}, {first} of {kind}; they can't be summed")


def _refuse_other_frames(frames: Sequence[tuple[Path, str]]) -> None:
    first, uid = frames[0]
    for path, other in frames[1:]:
        if other != uid:
            raise InputError(f"{path} lies in another frame of reference than {first}")


@dataclass(frozen=True, eq=False)
class _Part:
    path: Path
    summation: str
    volume: Volume  # zeros if the pixels were not read
    scaling: float
    sop_uid: str
    study_uid: str
    frame_uid: str
    plan_uids: tuple[str, ...]
    beam_numbers: tuple[int, ...]
    dose_type: str


def _read_part(path: Path, *, pixels: bool) -> _Part:
    dataset = read_file(path, pixels=pixels)
    modality = text_of(dataset, "Modality", path)
    if modality != "RTDOSE":
        raise InputError(f"{path} is of modality {modality}, not RTDOSE")
    units = code_of(dataset, "DoseUnits", path)
    if units != "GY":
        hint = "export the absolute dose" if units == "RELATIVE" else "expected GY"
        raise InputError(f"{path} has {named('DoseUnits')} {units}; {hint}")
    kind = code_of(dataset, "DoseType", path, "PHYSICAL")
    if kind not in ("PHYSICAL", "EFFECTIVE"):
        raise InputError(f"{path} has {named('DoseType')} {kind}; it is not a dose")
    scaling = number_of(dataset, "DoseGridScaling", path)
    if scaling <= 0:
        raise InputError(f"{path}: {named('DoseGridScaling')} is {scaling:g}, expected a number above zero")
    plans = items_of(dataset, "ReferencedRTPlanSequence", path)
    beams = [
        int(number_of(beam, "ReferencedBeamNumber", path))
        for plan in plans
        for group in items_of(plan, "ReferencedFractionGroupSequence", path)
        for beam in items_of(group, "ReferencedBeamSequence", path)
    ]
    return _Part(
        path,
        code_of(dataset, "DoseSummationType", path),
        _volume(dataset, path, scaling if pixels else None),
        scaling,
        text_of(dataset, "SOPInstanceUID", path),
        text_of(dataset, "StudyInstanceUID", path),
        text_of(dataset, "FrameOfReferenceUID", path, ""),
        tuple(dict.fromkeys(uid for plan in plans if (uid := text_of(plan, "ReferencedSOPInstanceUID", path, "")))),
        tuple(beams),
        kind,
    )


def _volume(dataset: Dataset, path: Path, scaling: float | None) -> Volume:
    """Dose on its grid; without a scaling, 8-bit zeros of that shape."""
    if scaling is None:
        frames, rows, columns = (
            int(number_of(dataset, keyword, path, default))
            for keyword, default in (("NumberOfFrames", 1), ("Rows", None), ("Columns", None))
        )
        values: NDArray[Any] = np.zeros((frames, rows, columns), np.uint8)
    else:
        stored = pixels_of(dataset, path)
        values = (stored if stored.ndim == 3 else stored[None]).astype(np.float64) * scaling
        if values.min() < 0:
            raise InputError(f"{path} has negative dose, down to {values.min():g} Gy")
    position_mm, orientation, pixel_spacing_mm = (
        numbers_of(dataset, key, path, count)
        for key, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    offsets_mm = _normal_offsets_mm(dataset, position_mm, orientation, values.shape[0], path)
    try:
        return volume_from_frames(values, position_mm, orientation, pixel_spacing_mm, offsets_mm)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _normal_offsets_mm(
    dataset: Dataset, position_mm: NDArray[np.float64], orientation: NDArray[np.float64], n_frames: int, path: Path
) -> NDArray[np.float64]:
    """Offsets of the frames along the normal, from GridFrameOffsetVector in either of its two conventions.

    Its first element is 0 if it holds offsets along the normal, and the z of ImagePositionPatient if it holds z
    coordinates in the patient (DICOM PS3.3, C.8.8.3.2).
    """
    offsets_mm = raw_numbers(dataset, "GridFrameOffsetVector", path)
    if offsets_mm.size == 0 and n_frames == 1:
        return np.zeros(1)
    label = named("GridFrameOffsetVector")
    if offsets_mm.size != n_frames:
        raise InputError(f"{path}: {label} has {counted(offsets_mm.size, 'number')} for {counted(n_frames, 'plane')}")
    if abs(offsets_mm[0]) <= POSITION_TOLERANCE_MM:
        return np.asarray(offsets_mm - offsets_mm[0])
    if abs(offsets_mm[0] - position_mm[2]) > _ROUNDED_MM:
        raise InputError(
            f"{path}: {label} starts with {offsets_mm[0]:g}, expected 0 or the z of ImagePositionPatient, "
            f"{position_mm[2]:g}"
        )
    normal_z = float(np.cross(orientation[:3], orientation[3:])[2])
    if abs(normal_z) < 0.999:
        raise InputError(f"{path}: {label} holds z coordinates, but the planes are not axial; expected offsets from 0")
    return np.asarray((offsets_mm - offsets_mm[0]) * np.sign(normal_z))


def _refuse_missing_beams(parts: Sequence[_Part], plan: Plan | None) -> None:
    where = f"{parts[0].path} and {counted(len(parts) - 1, 'other')}" if len(parts) > 1 else str(parts[0].path)
    other = [part.path for part in parts if part.summation != "BEAM"]
    if other:
        raise InputError(f"{where} are doses of beams, but {other[0]} is not; give one kind")
    if plan is None:
        raise InputError(f"{where}: doses of single beams; the plan is needed (RTPLAN) to know that none is missing")
    numbers = []
    for part in parts:
        if len(part.beam_numbers) != 1:
            raise InputError(f"{part.path} does not say which beam it is of ({named('ReferencedBeamNumber')})")
        numbers.append(part.beam_numbers[0])
    missing = sorted(set(plan.beam_numbers) - set(numbers))
    if missing:
        raise InputError(
            f"{where}: the dose of beam {', '.join(map(str, missing))} of the "
            f"{counted(len(plan.beam_numbers), 'beam')} of {plan.path} is missing; export all of them, or the dose of "
            "the plan"
        )
    strays = sorted(number for number in set(numbers) if numbers.count(number) > 1 or number not in plan.beam_numbers)
    if strays:
        raise InputError(f"{where}: beam {strays[0]} comes twice or is not in {plan.path}")
