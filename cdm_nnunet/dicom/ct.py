"""A CT series as one volume in HU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.dicom.ct_steps import CtOrder, step_notes
from cdm_nnunet.dicom.ct_values import refuse_odd_images, refuse_two_scans
from cdm_nnunet.dicom.files import items_of, named, number_of, numbers_of, pixels_of, read_file, text_of
from cdm_nnunet.documents import read_number
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Volume, directions_of, volume_from_frames
from cdm_nnunet.ranges import RESCALE_SLOPE

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
_ONE_SCAN = (  # values that do not alternate within a scan
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "ProtocolName",
    "KVP",
    "ConvolutionKernel",
    "ReconstructionDiameter",
)
_TIMES = ("ContentTime", "InstanceCreationTime")
USUAL_INTERCEPTS = (-1024.0, -1000.0)  # HU of a stored zero, as usual for scanners


@dataclass(frozen=True, eq=False)
class CtVolume:
    """A CT series.

    Attributes:
        volume: HU, float32, on a grid with the patient's axes; the planes may be at unequal distances.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID; the first one if the CT is split over several series.
        frame_uid: FrameOfReferenceUID.
        sop_uids: SOPInstanceUID of the images, from feet to head.
        files: The images' files, from feet to head.
        patient_position: HFS, HFP, FFS, FFP, ...; empty if absent.
        image_uids: SOPInstanceUIDs of all files, also of localizers, which are ignored.
        notes: Unusual properties of the series.
    """

    volume: Volume
    study_uid: str
    series_uid: str
    frame_uid: str
    sop_uids: tuple[str, ...]
    files: tuple[Path, ...]
    patient_position: str
    image_uids: frozenset[str]
    notes: tuple[str, ...]


def read_ct(files: Sequence[Path], *, pixels: bool = True) -> CtVolume:
    """Read a CT.

    Args:
        files: The images of one series, or of one CT that is split over several series, in any order.
        pixels: Read the values; otherwise only the headers, and the volume is a column of one pixel per slice.

    Raises:
        InputError: If there are no images, several studies or frames of reference, a duplicate image, images of
            different size or orientation, interleaved images of two scans, or a missing slice; or as
            :func:`cdm_nnunet.dicom.files.read_file`.
    """
    slices: list[CtSlice] = []
    localizers: list[str] = []
    for path in files:
        dataset = read_file(path, pixels=pixels)
        if is_localizer(dataset, path):
            localizers.append(text_of(dataset, "SOPInstanceUID", path))
        else:
            slices.append(_slice_of(dataset, path, pixels))
    volume = _volume(slices, whole=pixels)
    first = slices[0]
    axis = volume.grid.axes[2]
    ordered = sorted(slices, key=lambda image: float(image.position_mm @ axis))
    notes = list(dict.fromkeys(note for image in ordered for note in image.notes))
    if localizers:
        notes.append(f"localizers among the CT ignored: {len(localizers)}")
    notes += _order_notes(ordered, volume)
    if pixels:
        refuse_odd_images(volume, first.path)
        refuse_two_scans(volume, first.path)
    return CtVolume(
        volume,
        text_of(first.header, "StudyInstanceUID", first.path),
        text_of(ordered[0].header, "SeriesInstanceUID", ordered[0].path),
        text_of(first.header, "FrameOfReferenceUID", first.path),
        tuple(image.sop_uid for image in ordered),
        tuple(image.path for image in ordered),
        text_of(first.header, "PatientPosition", first.path, ""),
        frozenset([*localizers, *(image.sop_uid for image in slices)]),
        tuple(notes),
    )


def is_localizer(header: Dataset, where: object) -> bool:
    """Whether an image of a CT series is a localizer, not a slice."""
    return "LOCALIZER" in text_of(header, "ImageType", where, "").upper()


def _order_notes(ordered: Sequence[CtSlice], volume: Volume) -> list[str]:
    """Check the images from feet to head for gaps and for a second scan; return remarks."""
    times = [tuple(image.text(key) for key in ("AcquisitionDate", "AcquisitionTime")) for image in ordered]
    series = [image.text("SeriesInstanceUID") for image in ordered]
    n_series = len(set(series))
    order = CtOrder(
        volume.grid.origin_xyz_mm[2] + volume.grid.offsets_xyz_mm[2],
        {
            "SeriesInstanceUID": series,
            "AcquisitionNumber": [image.text("AcquisitionNumber") for image in ordered],
            "AcquisitionTime": [" ".join(time).strip() for time in times],
            **{key: [image.text(key) for image in ordered] for key in _ONE_SCAN},
        },
        [None if n_series > 1 else image.instance_number for image in ordered],
        {key: np.array([_seconds(image.text(key)) for image in ordered]) for key in _TIMES},
        np.array([_number_or_nan(image.text("SliceThickness")) for image in ordered]),
    )
    try:
        notes = step_notes(order)
    except InputError as error:
        raise InputError(f"CT series of {ordered[0].path}: {error}") from None
    return [f"the CT is split over {n_series} series", *notes] if n_series > 1 else notes


def _seconds(time: str) -> float:
    """Seconds of a day from the text of a time (HHMMSS.FFFFFF); NaN of any other text."""
    hours, minutes, seconds = time[:2], time[2:4], time[4:]
    return 3600 * _number_or_nan(hours) + 60 * _number_or_nan(minutes) + _number_or_nan(seconds or "0")


def _number_or_nan(text: str) -> float:
    try:
        return read_number(text)
    except ValueError:
        return np.nan


def _volume(slices: Sequence[CtSlice], *, whole: bool) -> Volume:
    """The series as a volume, or as a column of one pixel per slice."""
    if not slices:
        raise InputError("there are no CT images")
    for what, keyword in (("studies", "StudyInstanceUID"), ("frames of reference", "FrameOfReferenceUID")):
        found = sorted({text_of(image.header, keyword, image.path) for image in slices})
        if len(found) > 1:
            raise InputError(f"the CT images belong to {len(found)} {what}, expected one: {', '.join(found)}")
    _refuse_duplicates(slices)
    first = slices[0]
    for image in slices[1:]:
        _refuse_other_shape(first, image)
    try:
        normal = directions_of(first.orientation)[2]
    except InputError as error:
        raise InputError(f"{first.path}: {error}") from None
    offsets_mm = np.array([(image.position_mm - first.position_mm) @ normal for image in slices])
    shifts_mm = [
        float(np.linalg.norm(image.position_mm - first.position_mm - offset * normal))
        for image, offset in zip(slices, offsets_mm, strict=True)
    ]
    if max(shifts_mm) > 0.1:
        raise InputError(
            f"{slices[int(np.argmax(shifts_mm))].path}: the image is shifted by {max(shifts_mm):.2f} mm in its own "
            f"plane against {first.path} (a tilted gantry?); resample the CT to upright slices first"
        )
    try:
        return volume_from_frames(
            np.stack([image.values_hu if whole else image.values_hu[:1, :1] for image in slices]),
            first.position_mm,
            first.orientation,
            first.pixel_spacing_mm,
            offsets_mm,
        )
    except InputError as error:
        raise InputError(f"CT series of {first.path}: {error}") from None


@dataclass(frozen=True, eq=False)
class CtSlice:
    """An image of a CT series; ``header`` has no pixels. If only headers are read, the values are zeros."""

    path: Path
    header: Dataset
    sop_uid: str
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing_mm: NDArray[np.float64]
    values_hu: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    @property
    def instance_number(self) -> int | None:
        """InstanceNumber, if present."""
        text = self.text("InstanceNumber")
        return int(text) if re.fullmatch("-?[0-9]+", text) else None

    def text(self, keyword: str) -> str:
        """Text of an element of the header; empty if absent."""
        return text_of(self.header, keyword, self.path, "")


def read_slice(path: Path, *, pixels: bool = True) -> CtSlice:
    """Read one image, or only its header.

    Raises:
        InputError: If it is not a CT slice of one value per pixel in HU; or as
            :func:`cdm_nnunet.dicom.files.read_file`.
    """
    return _slice_of(read_file(path, pixels=pixels), path, pixels)


def _slice_of(dataset: Dataset, path: Path, pixels: bool) -> CtSlice:
    modality = text_of(dataset, "Modality", path)
    if modality != "CT":
        raise InputError(f"{path} is of modality {modality}, not CT")
    if number_of(dataset, "NumberOfFrames", path, 1) > 1 or items_of(dataset, "PerFrameFunctionalGroupsSequence", path):
        raise InputError(f"{path} is a multi-frame CT; export one file per slice")
    slope, intercept = (number_of(dataset, key, path) for key in ("RescaleSlope", "RescaleIntercept"))
    if not RESCALE_SLOPE.is_possible(slope):
        raise InputError(
            f"{path}: {named('RescaleSlope')} is {slope:g}, so that its values are not HU; is the file damaged?"
        )
    notes = _unit_notes(dataset, path, slope, intercept)
    if pixels:
        stored: NDArray[Any] = pixels_of(dataset, path)
        values_hu = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        del dataset.PixelData
    else:
        rows, columns = (int(number_of(dataset, key, path)) for key in ("Rows", "Columns"))
        values_hu = np.broadcast_to(np.float32(0), (rows, columns))
    position_mm, orientation, pixel_spacing_mm = (
        numbers_of(dataset, key, path, count)
        for key, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    return CtSlice(
        path=path,
        header=dataset,
        sop_uid=text_of(dataset, "SOPInstanceUID", path),
        position_mm=position_mm,
        orientation=orientation,
        pixel_spacing_mm=pixel_spacing_mm,
        values_hu=values_hu,
        notes=notes,
    )


def _unit_notes(dataset: Dataset, path: Path, slope: float, intercept: float) -> tuple[str, ...]:
    """Check that the values are in HU: by name, or with an unspecified unit and the usual rescaling of CT."""
    units = text_of(dataset, "RescaleType", path, "HU").upper()
    if units == "HU":
        return ()
    if units == "US" and slope == 1 and intercept in USUAL_INTERCEPTS:
        return (f"RescaleType of the CT is US (unspecified); slope 1 and intercept {intercept:g} are those of HU",)
    raise InputError(
        f"{path}: {named('RescaleType')} is {units}, expected HU (slope {slope:g}, intercept {intercept:g})"
    )


def _refuse_duplicates(slices: Sequence[CtSlice]) -> None:
    seen: dict[str, Path] = {}
    for image in slices:
        if image.sop_uid in seen:
            raise InputError(
                f"{image.path} and {seen[image.sop_uid]} have the same {named('SOPInstanceUID')} {image.sop_uid}; "
                "keep one of the two"
            )
        seen[image.sop_uid] = image.path


def _refuse_other_shape(first: CtSlice, image: CtSlice) -> None:
    for what, ours, theirs in (
        ("size", first.values_hu.shape, image.values_hu.shape),
        ("PixelSpacing", first.pixel_spacing_mm, image.pixel_spacing_mm),
        ("ImageOrientationPatient", first.orientation, image.orientation),
    ):
        if not np.allclose(ours, theirs, atol=1e-3):
            raise InputError(
                f"{image.path} and {first.path} differ in {what}: {np.asarray(theirs).tolist()} and "
                f"{np.asarray(ours).tolist()}; the slices of a series share it"
            )
