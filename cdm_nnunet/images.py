"""Image files as arrays with their grid; damage is detected when they are read and written.

The NIfTI library behind SimpleITK reads NaN as zero, pads a truncated file with zeros, repairs a damaged header by
guessing and does not report a full disk. All files therefore go through here: :mod:`cdm_nnunet.nifti_header` checks and
unpacks, SimpleITK gives the position of the voxels, and both must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.files import raise_write_error, replacing
from cdm_nnunet.geometry.grid import Grid, Volume
from cdm_nnunet.nifti_header import NiftiHeader, read_voxels

SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Image(Volume):
    """A three-dimensional image and its file; the values are in the type of the file.

    Attributes:
        path: The file.
    """

    path: Path

    def refuse_other_axes(self) -> None:
        """Check the axes as :meth:`cdm_nnunet.geometry.grid.Grid.refuse_other_axes`."""
        self.grid.refuse_other_axes(self.path)

    def refuse_other_grid(self, other: Image, *, rounding: float = 0.0) -> str:
        """Check that another image lies on the same grid.

        Args:
            other: The other image.
            rounding: Fraction of a voxel by which its origin may differ, because other software rounds it.

        Returns:
            A note on an origin that was rounded; empty if there is nothing to note.

        Raises:
            InputError: If size, spacing, origin or direction differ, naming both files.
        """
        mine, theirs = self.grid, other.grid
        off_mm = float(np.abs(theirs.origin_xyz_mm - mine.origin_xyz_mm).max())
        is_rounded = ORIGIN_TOLERANCE_MM < off_mm <= rounding * min(mine.spacing_zyx_mm)
        origin_mm = mine.origin_xyz_mm if is_rounded else theirs.origin_xyz_mm
        checks: tuple[tuple[str, Any, Any, float], ...] = (
            ("size (z, y, x)", other.values.shape, self.values.shape, 0.0),
            ("spacing (z, y, x)", theirs.spacing_zyx_mm, mine.spacing_zyx_mm, SPACING_TOLERANCE_MM),
            ("origin (x, y, z)", origin_mm, mine.origin_xyz_mm, ORIGIN_TOLERANCE_MM),
            ("direction", theirs.direction, mine.direction, DIRECTION_TOLERANCE),
        )
        for quantity, came, expected, tolerance in checks:
            if not np.allclose(came, expected, rtol=0, atol=tolerance):
                raise InputError(
                    f"{other.path} has {quantity} {numbers(came)}, {self.path} has {numbers(expected)}; "
                    "all images of a case lie on one grid"
                )
        return f"{other.path.name}: its origin is {off_mm:.2g} mm off; taken as rounding" if is_rounded else ""


def read_image(path: Path, *, patient_axes: bool = False) -> Image:
    """Read a NIfTI-1 file.

    Args:
        path: The file, ``.nii.gz``, or uncompressed as ``.nii``.
        patient_axes: Reorient it as :func:`on_patient_axes` does.

    Raises:
        InputError: As :func:`cdm_nnunet.nifti_header.read_voxels`, or if voxels are NaN or infinite.
    """
    header, stored = read_voxels(path)
    values = stored.astype(header.dtype.newbyteorder("="))
    _refuse_not_finite(values, path)
    try:
        image = _as_itk(header, values)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image: {str(error).strip().splitlines()[-1]}") from error
    header.refuse_other_affine(_affine(image), "orientation as SimpleITK takes it")
    read = image_of_itk(image, path)
    return on_patient_axes(read) if patient_axes else read


def on_patient_axes(image: Image) -> Image:
    """Flip and swap axes so that x points to the patient's left, y to posterior and z to the head."""
    if np.array_equal(image.grid.axes, np.eye(3)):
        return image
    orient: Any = sitk.DICOMOrient
    return image_of_itk(orient(itk_of_volume(image), "LPS"), image.path)


def image_of_itk(itk: Any, path: Path) -> Image:
    """Image of a SimpleITK image and its file."""
    values = sitk.GetArrayFromImage(itk)
    return Image(values, Grid.of_image(values.shape, itk.GetSpacing()[::-1], itk.GetOrigin(), itk.GetDirection()), path)


def itk_of_volume(volume: Volume) -> Any:
    """SimpleITK image of a volume."""
    itk: Any = sitk.GetImageFromArray(volume.values)
    itk.SetSpacing(volume.grid.spacing_xyz_mm)
    itk.SetOrigin(volume.grid.origin_xyz_mm.tolist())
    itk.SetDirection(volume.grid.direction)
    return itk


def write_image(image: Image) -> None:
    """Write an image to its path, so that the file is complete or absent.

    Raises:
        OSError: If it can't be written, for example because the disk is full. No partial file remains.
    """
    itk = itk_of_volume(image)
    with replacing(image.path, "".join(image.path.suffixes[-2:])) as partial:
        try:
            sitk.WriteImage(itk, str(partial), useCompression=True)
            written = read_image(partial)
        except (RuntimeError, InputError) as error:
            raise_write_error(image.path, image.values.nbytes, error)
        if written.values.dtype != image.values.dtype or not np.array_equal(written.values, image.values):
            raise_write_error(image.path, image.values.nbytes, None)


def _refuse_not_finite(values: NDArray[Any], path: Path) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values))) if values.dtype.kind == "f" else 0
    if bad:
        raise InputError(f"{path} is not finite in {counted(bad, 'voxel')} (NaN or infinite)")


def _as_itk(header: NiftiHeader, values: NDArray[Any]) -> Any:
    """Image with the geometry that SimpleITK reads."""
    if header.is_scaled:
        image: Any = sitk.ReadImage(str(header.path))
        _refuse_not_finite(sitk.GetArrayViewFromImage(image), header.path)
        return image
    reader: Any = sitk.ImageFileReader()
    reader.SetFileName(str(header.path))
    reader.ReadImageInformation()
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(reader.GetSpacing()[:3])
    image.SetOrigin(reader.GetOrigin()[:3])
    direction = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)[:3, :3]
    image.SetDirection(direction.ravel().tolist())
    return image


def _affine(image: Any) -> NDArray[np.float64]:
    """Affine from voxel indices to NIfTI's positions: x to the right, y to the front."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return affine
