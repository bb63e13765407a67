"""Image files as arrays with their grid, read and written so that no damage goes unseen.

The NIfTI library behind SimpleITK reads NaN as zero, pads a truncated file with zeros and does not report a full disk.
All files therefore go through here.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error

SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4
MAX_OBLIQUE_DEGREES = 25.0
_NIFTI1_HEADER_BYTES = 348
_NIFTI1_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True, eq=False)
class Image:
    """A three-dimensional image.

    Attributes:
        path: The file.
        values: Shape (Z, Y, X), in the type of the file.
        spacing_mm: Voxel size (z, y, x) in mm.
        origin_mm: Position (x, y, z) of the first voxel's centre in LPS, mm.
        direction: Direction cosines of the array's x, y and z axes, nine numbers, row by row.
    """

    path: Path
    values: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def refuse_other_axes(self) -> None:
        """Check that the array's x, y and z run to the patient's left, back and head, up to a small tilt.

        Raises:
            InputError: If not.
        """
        cosines = np.diag(np.reshape(self.direction, (3, 3)))
        if cosines.min() < math.cos(math.radians(MAX_OBLIQUE_DEGREES)):
            raise InputError(
                f"{self.path} is not on an axial grid in LPS orientation: its x, y and z axes do not run to the "
                f"patient's left, back and head (direction {numbers(self.direction)}); reorient or resample all images "
                "of the case"
            )

    def refuse_other_grid(self, other: Image) -> None:
        """Check that another image lies on the same grid.

        Raises:
            InputError: If size, spacing, origin or direction differ, naming both files.
        """
        checks: tuple[tuple[str, Any, Any, float], ...] = (
            ("size (z, y, x)", other.values.shape, self.values.shape, 0.0),
            ("spacing (z, y, x)", other.spacing_mm, self.spacing_mm, SPACING_TOLERANCE_MM),
            ("origin (x, y, z)", other.origin_mm, self.origin_mm, ORIGIN_TOLERANCE_MM),
            ("direction", other.direction, self.direction, DIRECTION_TOLERANCE),
        )
        for quantity, came, expected, tolerance in checks:
            if not np.allclose(came, expected, rtol=0, atol=tolerance):
                raise InputError(
                    f"{other.path} has {quantity} {numbers(came)}, {self.path} has {numbers(expected)}; "
                    "all images of a case lie on one grid"
                )


def read_image(path: Path, *, patient_axes: bool = False) -> Image:
    """Read a compressed NIfTI-1 file.

    Args:
        path: The file, ``.nii.gz``.
        patient_axes: Flip and swap axes so that x runs to the patient's left, y to posterior and z to the head.

    Raises:
        InputError: If it is missing, empty, damaged or cut off, has voxels that are NaN or infinite, or is not
            three-dimensional with one value a voxel.
    """
    _refuse_damaged(path)
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image: {str(error).strip().splitlines()[-1]}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is not a three-dimensional image with one value a voxel")
    if patient_axes:
        orient: Any = sitk.DICOMOrient
        image = orient(image, "LPS")
    x, y, z = image.GetSpacing()
    return Image(path, sitk.GetArrayFromImage(image), (z, y, x), image.GetOrigin(), image.GetDirection())


def write_image(image: Image) -> None:
    """Write an image to its path, so that the file is there whole or not at all.

    Raises:
        OSError: If it can't be written, for example because the disk is full. Nothing of it remains.
    """
    z, y, x = image.spacing_mm
    itk: Any = sitk.GetImageFromArray(image.values)
    itk.SetSpacing((x, y, z))
    itk.SetOrigin(image.origin_mm)
    itk.SetDirection(image.direction)
    partial = image.path.with_name(f".partial_{os.getpid()}_{image.path.name}")
    try:
        try:
            sitk.WriteImage(itk, str(partial), useCompression=True)
            written = read_image(partial)
        except (RuntimeError, InputError) as error:
            raise_write_error(image.path, image.values.nbytes, error)
        if written.values.dtype != image.values.dtype or not np.array_equal(written.values, image.values):
            raise_write_error(image.path, image.values.nbytes, None)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, image.path)
    finally:
        partial.unlink(missing_ok=True)


def _refuse_damaged(path: Path) -> None:
    """Check what SimpleITK does not: that the file is whole, and that its voxels are finite."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); write it again") from error
    if not content:
        raise InputError(f"{path} is empty; write it again")
    header = content[:_NIFTI1_HEADER_BYTES]
    order = next((order for order in "<>" if header[:4] == struct.pack(f"{order}i", _NIFTI1_HEADER_BYTES)), None)
    if order is None or len(header) < _NIFTI1_HEADER_BYTES:
        raise InputError(f"{path} is not a compressed NIfTI-1 file")
    n_axes, *sizes = struct.unpack_from(f"{order}8h", header, 40)
    kind, bits = struct.unpack_from(f"{order}2h", header, 70)
    start = int(struct.unpack_from(f"{order}f", header, 108)[0])
    n_voxels = math.prod(sizes[: max(n_axes, 0)])
    if len(content) < start + n_voxels * bits // 8:
        raise InputError(
            f"{path} is cut off: {len(content)} bytes for {n_voxels} voxels of {bits} bits; write it again"
        )
    if kind in _NIFTI1_FLOATS:
        values = np.frombuffer(content, f"{order}{_NIFTI1_FLOATS[kind]}", n_voxels, start)
        bad = n_voxels - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            raise InputError(f"{path} has {bad} voxels that are not finite (NaN or infinite)")


def numbers(values: object) -> str:
    """Numbers for a message.

    Example:
        >>> numbers((2.5, 3))
        '(2.5, 3)'
    """
    return "(" + ", ".join(f"{float(value):g}" for value in np.asarray(values).ravel()) + ")"
