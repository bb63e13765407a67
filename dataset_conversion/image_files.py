"""Images of patients as NIfTI, NRRD or MetaImage: read onto the patient's axes, their values as masks and doses."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.images import Image, image_of_itk, itk_of_volume, read_image
from cdm_nnunet.nifti_header import SAME_POSITION_VOXELS

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
_MAX_BYTES = 2 * 2**30
_HEADER_BYTES = 2**16
_NEGATIVE_DOSE_GY = 0.01  # negative dose from resampling and rounding
_FULL = 255  # the other usual value of a mask, in 8-bit images
_MHA_GEOMETRY = (("ElementSpacing",), ("Offset", "Position", "Origin"), ("TransformMatrix", "Rotation", "Orientation"))
_GZIP_OR_ZLIB = 47  # window bits of zlib: recognise either


def stem_of(path: Path) -> str | None:
    """A file's name without the extension of an image; None if it is not an image."""
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    return None if ending is None else path.name.removesuffix(ending)


def read_on_patient_axes(path: Path) -> Image:
    """Read an image onto axes towards the patient's left (x), back (y) and head (z).

    Raises:
        InputError: If it is missing, damaged, cut off, of another type or not three-dimensional, lacks the position
            of its voxels, or has voxels that are not finite.
    """
    if path.suffix in (".nrrd", ".mha"):
        return _read_with_text_header(path)
    return read_image(path, patient_axes=True)


def mask_of(image: Image, notes: list[str]) -> NDArray[np.bool_]:
    """Convert an image of 0 and 1, or of 0 and 255, to a mask.

    Args:
        image: The image.
        notes: Remarks are appended.

    Raises:
        InputError: If it has other values.
    """
    values = np.unique(image.values)
    if np.isin(values, (0, 1)).all():
        return np.asarray(image.values == 1)
    if np.isin(values, (0, _FULL)).all():
        notes.append(f"{image.path.name}: 255 stands for 1")
        return np.asarray(image.values == _FULL)
    shown = numbers(values[:6]) + (" ..." if values.size > 6 else "")
    raise InputError(
        f"{image.path} has the values {shown}; a mask has 0 and 1 (or 255): give one thresholded file per ROI"
    )


def dose_of(image: Image, ct: Image, notes: list[str], *, resample: bool) -> NDArray[np.float32]:
    """Dose on the grid of the CT.

    Args:
        image: The dose, Gy.
        ct: The CT.
        notes: Remarks are appended.
        resample: Whether a dose with another grid may be interpolated linearly; it is zero outside its grid.

    Raises:
        InputError: If the grids differ without ``resample``, or dose is negative by more than rounding.
    """
    try:
        rounded = ct.refuse_other_grid(image, rounding=SAME_POSITION_VOXELS)
        notes += [rounded] if rounded else []
    except InputError as error:
        if not resample:
            raise InputError(f"{error}, or the dose is resampled to the CT's with --resample-dose") from None
        image = _resampled(image, ct)
        notes.append(f"{image.path.name}: resampled linearly from its own grid to the CT's")
    dose_gy = image.values.astype(np.float32)
    low_gy = float(dose_gy.min())
    if -_NEGATIVE_DOSE_GY <= low_gy < 0:
        notes.append(f"{image.path.name}: negative by {-low_gy:.2g} Gy at most, set to zero")
        dose_gy = np.maximum(dose_gy, np.float32(0))
    return dose_gy


def _resampled(image: Image, ct: Image) -> Image:
    resampler: Any = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(itk_of_volume(ct))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0)
    moved: Any = resampler.Execute(sitk.Cast(itk_of_volume(image), sitk.sitkFloat32))
    return Image(sitk.GetArrayFromImage(moved), ct.grid, image.path)


@dataclass(frozen=True)
class _TextHeader:
    """Fields of a text header by lower-case name, and the offset of the voxels."""

    fields: Mapping[str, str]
    voxels_at: int


def _read_with_text_header(path: Path) -> Image:
    if not path.is_file():  # (a pipe would block forever)
        raise InputError(f"{path} is missing or not a file")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} has more than {_MAX_BYTES:,} bytes")
    content = path.read_bytes()
    header, packed = _nrrd_header(path, content) if path.suffix == ".nrrd" else _mha_header(path, content)
    reader: Any = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _refuse_cut_off(path, reader, content[header.voxels_at :], packed)
        image: Any = sitk.DICOMOrient(reader.Execute(), "LPS")
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image: {str(error).strip().splitlines()[-1]}") from error
    values: NDArray[Any] = sitk.GetArrayFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(f"{path} is not finite in {counted(bad, 'voxel')} (NaN or infinite)")
    return image_of_itk(image, path)


def _nrrd_header(path: Path, content: bytes) -> tuple[_TextHeader, bool]:
    head, blank, _ = content[:_HEADER_BYTES].partition(b"\n\n")
    if not content.startswith(b"NRRD000") or not blank:
        raise InputError(f"{path} is not an NRRD file with its voxels in it")
    fields = _fields(head, ":")
    if "data file" in fields or "datafile" in fields:
        raise InputError(f"{path} has its voxels in another file; write them into it")
    for field in ("space", "space directions", "space origin"):
        if field not in fields:
            raise InputError(f"{path} lacks the position of its voxels: the header has no '{field}'")
    encoding = fields.get("encoding", "")
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path} has the encoding '{encoding}'; write it as raw or gzip")
    return _TextHeader(fields, len(head) + len(blank)), encoding != "raw"


def _mha_header(path: Path, content: bytes) -> tuple[_TextHeader, bool]:
    match = re.search(rb"^ElementDataFile *= *(\S+) *\r?\n", content[:_HEADER_BYTES], re.MULTILINE)
    if match is None or match[1] != b"LOCAL":
        raise InputError(f"{path} is not a MetaImage with its voxels in it (ElementDataFile = LOCAL)")
    fields = _fields(content[: match.start()], "=")
    for names in _MHA_GEOMETRY:
        if not any(name.lower() in fields for name in names):
            raise InputError(f"{path} lacks the position of its voxels: the header has no '{names[0]}'")
    return _TextHeader(fields, match.end()), fields.get("compresseddata", "").lower() == "true"


def _fields(head: bytes, separator: str) -> dict[str, str]:
    pairs = (line.partition(separator) for line in head.decode("latin-1").splitlines() if not line.startswith("#"))
    return {name.strip().lower(): value.strip("= \t") for name, found, value in pairs if found}


def _refuse_cut_off(path: Path, reader: Any, voxels: bytes, packed: bool) -> None:
    """Refuse a cut-off file: SimpleITK may fill missing voxels with zeros."""
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path} is not a three-dimensional image with one value per voxel")
    one: Any = sitk.Image([1, 1, 1], reader.GetPixelID())
    expected = math.prod(reader.GetSize()) * sitk.GetArrayViewFromImage(one).itemsize
    if expected > _MAX_BYTES:
        raise InputError(f"{path} says that it has {expected:,} bytes of voxels")
    found = _unpacked_size(path, voxels, expected) if packed else len(voxels)
    if found != expected:
        raise InputError(f"{path} has {found} bytes of voxels where its header says {expected}; write it again")


def _unpacked_size(path: Path, voxels: bytes, expected: int) -> int:
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        size = len(unpacker.decompress(voxels, expected + 1))
    except zlib.error as error:
        raise InputError(f"{path} is damaged ({error}); write it again") from error
    if size == expected and not unpacker.eof:
        unpacker.decompress(unpacker.unconsumed_tail, 1)  # (reads the checksum)
        if not unpacker.eof:
            raise InputError(f"{path} is damaged or cut off; write it again")
    return size
