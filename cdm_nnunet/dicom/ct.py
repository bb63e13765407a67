"""A CT series as one volume in HU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import items_of, named, number_of, numbers_of, pixels_of, read_file, text_of
from cdm_nnunet.dicom.grid import POSITION_TOLERANCE_MM, Volume, gaps, volume_from_frames
from cdm_nnunet.errors import InputError
from cdm_nnunet.ranges import RESCALE_SLOPE

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, eq=False)
class CtVolume:
    """A CT series.

    Attributes:
        volume: HU, float32, on a grid with the patient's axes; the planes may be at unequal distances.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_uid: FrameOfReferenceUID.
        sop_uids: SOPInstanceUID of the images, from feet to head.
        files: The images' files, from feet to head.
        patient_position: HFS, HFP, FFS, FFP, ...; empty where it is not given.
    """

    volume: Volume
    study_uid: str
    series_uid: str
    frame_uid: str
    sop_uids: tuple[str, ...]
    files: tuple[Path, ...]
    patient_position: str


def read_ct(files: Sequence[Path]) -> CtVolume:
    """Read a CT series.

    Args:
        files: The images of one series, in any order.

    Raises:
        InputError: If there are none, several series or frames of reference, an image twice, images of different size
            or orientation, or a slice missing in between; or as :func:`cdm_nnunet.dicom.files.read_file`.
    """
    slices = [read_slice(path) for path in files]
    volume = _volume(slices, whole=True)
    first = slices[0]
    heights = [image.position_mm @ volume.grid.axes[2] for image in slices]
    ordered = [slices[k] for k in np.argsort(heights)]
    return CtVolume(
        volume,
        text_of(first.header, "StudyInstanceUID", first.path),
        text_of(first.header, "SeriesInstanceUID", first.path),
        text_of(first.header, "FrameOfReferenceUID", first.path),
        tuple(image.sop_uid for image in ordered),
        tuple(image.path for image in ordered),
        text_of(first.header, "PatientPosition", first.path, ""),
    )


def check_ct(files: Sequence[Path]) -> frozenset[str]:
    """What :func:`read_ct` would refuse, by the headers alone.

    Returns:
        SOPInstanceUID of the images.

    Raises:
        InputError: As there.
    """
    slices = [read_slice(path, pixels=False) for path in files]
    _volume(slices, whole=False)
    return frozenset(image.sop_uid for image in slices)


def _volume(slices: Sequence[CtSlice], *, whole: bool) -> Volume:
    """The series as a volume; or, not whole, a column of one pixel a slice."""
    if not slices:
        raise InputError("there are no CT images")
    for what, keyword in (("series", "SeriesInstanceUID"), ("frames of reference", "FrameOfReferenceUID")):
        found = sorted({text_of(image.header, keyword, image.path) for image in slices})
        if len(found) > 1:
            raise InputError(f"the CT images belong to {len(found)} {what}, expected one: {', '.join(found)}")
    _refuse_duplicates(slices)
    first = slices[0]
    for image in slices[1:]:
        _refuse_other_shape(first, image)
    normal = np.cross(first.orientation[:3], first.orientation[3:])
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
        volume = volume_from_frames(
            np.stack([image.values_hu if whole else image.values_hu[:1, :1] for image in slices]),
            first.position_mm,
            first.orientation,
            first.pixel_spacing_mm,
            offsets_mm,
        )
    except InputError as error:
        raise InputError(f"CT series of {first.path}: {error}") from None
    _refuse_missing_slices(volume, first.path)
    if whole:
        _refuse_blank_slices(volume, first.path)
    return volume


@dataclass(frozen=True, eq=False)
class CtSlice:
    """An image of a CT series; ``header`` is without its pixels, and so may the values be: zeros in their shape."""

    path: Path
    header: Dataset
    sop_uid: str
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing_mm: NDArray[np.float64]
    values_hu: NDArray[np.float32]


def read_slice(path: Path, *, pixels: bool = True) -> CtSlice:
    """Read one image, or its header alone.

    Raises:
        InputError: If it is no CT slice of one value a pixel in HU; or as :func:`cdm_nnunet.dicom.files.read_file`.
    """
    dataset = read_file(path, pixels=pixels)
    modality = text_of(dataset, "Modality", path)
    if modality != "CT":
        raise InputError(f"{path} is of modality {modality}, not CT")
    if "NumberOfFrames" in dataset or items_of(dataset, "PerFrameFunctionalGroupsSequence", path):
        raise InputError(f"{path} is a multi-frame CT; export one file a slice")
    if "LOCALIZER" in text_of(dataset, "ImageType", path, ""):
        raise InputError(f"{path} is a localizer among the CT slices; take it out of the series")
    units = text_of(dataset, "RescaleType", path, "HU")
    if units != "HU":
        raise InputError(f"{path}: {named('RescaleType')} is {units}, expected HU")
    slope, intercept = (number_of(dataset, key, path) for key in ("RescaleSlope", "RescaleIntercept"))
    if not RESCALE_SLOPE.is_possible(slope):
        raise InputError(
            f"{path}: {named('RescaleSlope')} is {slope:g}, so that its values are no HU; is the file damaged?"
        )
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
        path, dataset, text_of(dataset, "SOPInstanceUID", path), position_mm, orientation, pixel_spacing_mm, values_hu
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


def _refuse_blank_slices(volume: Volume, where: Path) -> None:
    """An image of one value between images that show something is damaged."""
    spread_hu = np.ptp(volume.values.reshape(len(volume.values), -1), axis=1)
    for k in np.flatnonzero(spread_hu == 0):
        if min(spread_hu[max(k - 1, 0)], spread_hu[min(k + 1, spread_hu.size - 1)]) > 0:
            height_mm = volume.grid.origin_mm[2] + volume.grid.offsets_mm[2][k]
            raise InputError(
                f"CT series of {where}: the slice at z = {height_mm:g} mm has one value everywhere, and those beside "
                "it have not; is it damaged?"
            )


def _refuse_missing_slices(volume: Volume, where: Path) -> None:
    z_mm = volume.grid.offsets_mm[2]
    for k in np.flatnonzero(gaps(z_mm)):
        step_mm = z_mm[k + 1] - z_mm[k]
        if step_mm > POSITION_TOLERANCE_MM:
            heights = volume.grid.origin_mm[2] + z_mm[k : k + 2]
            raise InputError(
                f"CT series of {where}: {step_mm:g} mm lie between the slices at z = {heights[0]:g} and {heights[1]:g} "
                "mm, more than between others: a slice is missing"
            )
