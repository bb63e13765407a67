"""Images as arrays with their grid: the one place where evaluation touches SimpleITK."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name under which everybody knows it
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4
NIFTI1_HEADER_BYTES = 348
NIFTI1_FLOATS = {16: "f4", 64: "f8"}


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
                    "doses are compared on one grid only, resample or predict again"
                )


def read_image(path: Path, *, patient_axes: bool = False) -> Image:
    """Read an image.

    Args:
        path: The file.
        patient_axes: Flip and swap axes so that x runs to the patient's left, y to posterior and z to the head.

    Raises:
        InputError: If it can't be read, or is not three-dimensional with one value a voxel.
    """
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


def count_non_finite(path: Path) -> int:
    """Number of NaN and infinite voxels in a ``.nii.gz`` file of floating point.

    They are counted in the bytes of the file: the NIfTI library behind SimpleITK silently reads them as zero.

    Raises:
        InputError: If the file is not NIfTI-1 of float32 or float64.
    """
    with gzip.open(path) as file:
        header = file.read(NIFTI1_HEADER_BYTES)
        order = next((order for order in "<>" if header[:4] == struct.pack(f"{order}i", NIFTI1_HEADER_BYTES)), None)
        kind = NIFTI1_FLOATS.get(struct.unpack_from(f"{order}h", header, 70)[0]) if order else None
        if kind is None:
            raise InputError(f"{path} is not a compressed NIfTI-1 file of float32 or float64")
        (data_offset,) = struct.unpack_from(f"{order}f", header, 108)
        file.seek(int(data_offset))
        values = np.frombuffer(file.read(), f"{order}{kind}")
    return int(np.count_nonzero(~np.isfinite(values)))


def numbers(values: object) -> str:
    """Numbers for a message.

    Example:
        >>> numbers((2.5, 3))
        '(2.5, 3)'
    """
    return "(" + ", ".join(f"{float(value):g}" for value in np.asarray(values).ravel()) + ")"
