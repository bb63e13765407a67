"""nnU-Net reader and writer of dose data sets: bits stay bits, dose stays float, and everything is checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from cdm_nnunet.dataset import CHANNEL_NAMES, FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import to_words

_GEOMETRY_TOLERANCE_MM = 1e-3
_MAX_OBLIQUE = 0.9  # |cosine| between an array axis and its patient axis


class CDMReaderWriter(BaseReaderWriter):
    """Reads CT, prescription map and ROI bits of a case, and the dose; writes the dose."""

    supported_file_endings = [FILE_ENDING]  # noqa: RUF012  # a plain list in nnU-Net's base class

    def read_images(self, image_fnames: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The input channels of a case.

        Args:
            image_fnames: Files of channel 0 (CT), 1 (prescription map) and 2 (ROI bits), in this order.

        Returns:
            float32, shape (2 + L, Z, Y, X): CT in HU, prescription in Gy, and the 16-bit words that the type of the ROI
            channel holds. The properties that nnU-Net carries along, with the voxel size (z, y, x) in mm.

        Raises:
            InputError: If a channel is missing or damaged, the grids differ, the ROI channel is not an unsigned type,
                or a value is not finite.
        """
        if len(image_fnames) != len(CHANNEL_NAMES):
            raise InputError(
                f"a case has {len(CHANNEL_NAMES)} channels ({', '.join(CHANNEL_NAMES)}), found {len(image_fnames)} "
                f"for {Path(image_fnames[0]).name if image_fnames else 'no file'}"
            )
        images = [_read(name) for name in image_fnames]
        for name, image in zip(image_fnames[1:], images[1:], strict=True):
            _refuse_other_grid(image, name, images[0], image_fnames[0])
        ct, prescription, bits = (sitk.GetArrayFromImage(image) for image in images)
        if bits.dtype.kind != "u":
            raise InputError(
                f"{image_fnames[2]} has type {bits.dtype}: the ROI channel must have an unsigned integer type, one bit "
                "an ROI; convert the data again"
            )
        for name, values in ((image_fnames[0], ct), (image_fnames[1], prescription)):
            if not np.isfinite(values).all():
                raise InputError(f"{name} has voxels that are NaN or infinite")
        if prescription.min() < 0:
            raise InputError(f"{image_fnames[1]} has a negative prescription")
        if not prescription.any():
            raise InputError(f"{image_fnames[1]} is zero everywhere: no target has a prescription")
        words = to_words(bits, bits.dtype.itemsize * 8)
        data = np.concatenate([np.stack([ct, prescription]).astype(np.float32), words])
        return data, _properties(images[0])

    def read_seg(self, seg_fname: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The reference dose, which stands where nnU-Net expects a segmentation.

        Returns:
            float32, shape (1, Z, Y, X), Gy; and the properties as in :meth:`read_images`.

        Raises:
            InputError: If the file is missing or damaged, is not floating point, or has NaN or negative dose.
        """
        image = _read(seg_fname)
        dose_gy = sitk.GetArrayFromImage(image)
        if dose_gy.dtype.kind != "f":
            raise InputError(f"{seg_fname} has type {dose_gy.dtype}; a dose is floating point, in Gy")
        if not np.isfinite(dose_gy).all():
            raise InputError(f"{seg_fname} has voxels that are NaN or infinite")
        if dose_gy.min() < 0:
            raise InputError(f"{seg_fname} has negative dose (minimum {dose_gy.min():.3g} Gy)")
        return dose_gy.astype(np.float32)[None], _properties(image)

    def write_seg(self, seg: NDArray[np.floating], output_fname: str, properties: dict[str, Any]) -> None:
        """Write a dose.

        Args:
            seg: Shape (Z, Y, X), Gy.
            output_fname: File to write; it appears under its name only when it is complete.
            properties: Those of the case's input images.

        Raises:
            InputError: If ``seg`` is not floating point: it went through a segmentation on the way.
        """
        if seg.dtype.kind != "f":
            raise InputError(f"a dose is floating point, not {seg.dtype}; it was treated as a segmentation on the way")
        image = sitk.GetImageFromArray(seg.astype(np.float32))
        geometry = properties["sitk_stuff"]
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        target = Path(output_fname)
        partial = target.with_name(f".partial_{target.name}")
        try:
            sitk.WriteImage(image, str(partial), True)
            os.replace(partial, target)
        except RuntimeError as error:
            raise InputError(f"{target} could not be written; is the disk full? ({error})") from error
        finally:
            partial.unlink(missing_ok=True)


def _read(name: str) -> sitk.Image:
    if not Path(name).is_file():
        raise InputError(f"{name} is missing")
    try:
        image = sitk.ReadImage(name)
    except RuntimeError as error:
        raise InputError(f"{name} is not a readable image (empty, cut off or damaged)") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} components a "
            "voxel; expected a 3-D scalar image"
        )
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if (np.abs(np.diag(direction)) < _MAX_OBLIQUE).any():
        raise InputError(
            f"{name} is not axial: its array axes are not the patient's left-right, front-back and head-feet axes "
            f"(direction {np.round(direction, 3).tolist()}); resample it to an axial grid"
        )
    return image


def _refuse_other_grid(image: sitk.Image, name: str, reference: sitk.Image, reference_name: str) -> None:
    if image.GetSize() != reference.GetSize():
        raise InputError(f"{name} has size {image.GetSize()}, {Path(reference_name).name} has {reference.GetSize()}")
    for what in ("Spacing", "Origin", "Direction"):
        here = np.array(getattr(image, f"Get{what}")())
        there = np.array(getattr(reference, f"Get{what}")())
        if np.abs(here - there).max() > _GEOMETRY_TOLERANCE_MM:
            raise InputError(
                f"{name} has {what.lower()} {here.tolist()}, {Path(reference_name).name} has {there.tolist()}"
            )


def _properties(image: sitk.Image) -> dict[str, Any]:
    return {
        "sitk_stuff": {
            "spacing": image.GetSpacing(),
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
        },
        "spacing": [float(mm) for mm in image.GetSpacing()[::-1]],
    }
