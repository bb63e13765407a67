"""nnU-Net reader and writer of dose data sets: exact bits, dose in float, all values checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from cdm_nnunet.dataset import CHANNEL_NAMES, FILE_ENDING
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.roi import to_words


class CDMReaderWriter(BaseReaderWriter):
    """Reads CT, prescription map and ROI bits of a case, and the dose; writes the dose."""

    supported_file_endings = [FILE_ENDING]  # noqa: RUF012  # a plain list in nnU-Net's base class

    def read_images(self, image_fnames: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read the input channels of a case.

        Args:
            image_fnames: Files of channel 0 (CT), 1 (prescription map) and 2 (ROI bits), in this order.

        Returns:
            float32, shape (2 + L, Z, Y, X): CT in HU, prescription in Gy, and the 16-bit words of the ROI
            channel's type. The properties for nnU-Net, with the voxel size (z, y, x) in mm.

        Raises:
            InputError: If a channel is missing or damaged, the grids differ or are not in LPS orientation, the ROI
                channel is not an unsigned type, or a value is not finite.
        """
        if len(image_fnames) != len(CHANNEL_NAMES):
            raise InputError(
                f"a case has {len(CHANNEL_NAMES)} channels ({', '.join(CHANNEL_NAMES)}), found {len(image_fnames)} "
                f"for {Path(image_fnames[0]).name if image_fnames else 'no file'}"
            )
        ct, prescription, bits = (read_image(Path(name)) for name in image_fnames)
        ct.refuse_other_axes()
        ct.refuse_other_grid(prescription)
        ct.refuse_other_grid(bits)
        if bits.values.dtype.kind != "u":
            raise InputError(
                f"{bits.path} has type {bits.values.dtype}: the ROI channel must have an unsigned integer type, one "
                "bit per ROI; convert the data again"
            )
        if prescription.values.min() < 0:
            raise InputError(f"{prescription.path} has a negative prescription")
        if not prescription.values.any():
            raise InputError(f"{prescription.path} is zero everywhere: no target has a prescription")
        return channels_of(ct.values, prescription.values, bits.values), properties_of(ct)

    def read_seg(self, seg_fname: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read the reference dose, which takes the place of nnU-Net's segmentation.

        Returns:
            float32, shape (1, Z, Y, X), Gy; and the properties as in :meth:`read_images`.

        Raises:
            InputError: If the file is missing or damaged, is not floating point, or has NaN or negative dose.
        """
        dose = read_image(Path(seg_fname))
        if dose.values.dtype.kind != "f":
            raise InputError(f"{dose.path} has type {dose.values.dtype}; a dose is floating point, in Gy")
        if dose.values.min() < 0:
            raise InputError(f"{dose.path} has negative dose (minimum {dose.values.min():.3g} Gy)")
        return dose.values.astype(np.float32)[None], properties_of(dose)

    def read_case(
        self, image_fnames: Sequence[str], seg_fname: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
        """Read the input channels and the reference dose of a case.

        Returns:
            As :meth:`read_images`, :meth:`read_seg`, and the properties of the former.

        Raises:
            InputError: As both, or if the dose has another grid.
        """
        data, properties = self.read_images(image_fnames)
        dose_gy, dose_properties = self.read_seg(seg_fname)
        ct, dose = image_of(image_fnames[0], data[0], properties), image_of(seg_fname, dose_gy[0], dose_properties)
        ct.refuse_other_grid(dose)
        return data, dose_gy, properties

    def write_seg(self, seg: NDArray[np.floating], output_fname: str, properties: dict[str, Any]) -> None:
        """Write a dose; the file appears under its name only when it is complete.

        Args:
            seg: Shape (Z, Y, X), Gy.
            output_fname: File to write.
            properties: Properties of the case's input images.

        Raises:
            InputError: If ``seg`` is not floating point, because it was processed as a segmentation.
            OSError: If the file can't be written.
        """
        if seg.dtype.kind != "f":
            raise InputError(f"a dose is floating point, not {seg.dtype}; it was treated as a segmentation before")
        write_image(image_of(output_fname, seg.astype(np.float32), properties))


def channels_of(
    ct_hu: NDArray[Any], prescription_gy: NDArray[Any], roi_bits: NDArray[np.unsignedinteger]
) -> NDArray[np.float32]:
    """The input channels of a case, (2 + L, Z, Y, X), as :meth:`CDMReaderWriter.read_images`, from arrays (Z, Y, X)."""
    words = to_words(roi_bits, roi_bits.dtype.itemsize * 8)
    return np.concatenate([np.stack([ct_hu, prescription_gy]).astype(np.float32), words])


def properties_of(image: Image) -> dict[str, Any]:
    """Geometry of an image in nnU-Net's properties."""
    return {
        "sitk_stuff": {
            "spacing": image.grid.spacing_xyz_mm,
            "origin": tuple(image.grid.origin_xyz_mm.tolist()),
            "direction": image.grid.direction,
        },
        "spacing": list(image.grid.spacing_zyx_mm),
    }


def image_of(path: str, values: NDArray[np.float32], properties: Mapping[str, Any]) -> Image:
    """Image of an array, (Z, Y, X), with the geometry in the reader's properties."""
    geometry = properties["sitk_stuff"]
    grid = Grid.of_image(values.shape, geometry["spacing"][::-1], geometry["origin"], geometry["direction"])
    return Image(values, grid, Path(path))
