"""Compressed pixels: by pydicom if it can, otherwise by GDCM, which is part of SimpleITK."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import generate_uid

_CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7.3"  # grey values of 16 bits without a meaning
_PIXEL_MODULE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "NumberOfFrames", "PixelData"),
)


def stored_pixels(dataset: Dataset) -> NDArray[Any]:
    """Stored pixel values, shape (rows, columns) or (frames, rows, columns).

    Raises:
        RuntimeError: If there is no decoder, or the pixels are damaged.
    """
    try:
        pixels: NDArray[Any] = dataset.pixel_array
    except (RuntimeError, NotImplementedError):
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            raise
        pixels = _by_gdcm(dataset)
    return pixels


def _by_gdcm(dataset: Dataset) -> NDArray[Any]:
    """Decode a copy with only the pixels, so that nothing is rescaled."""
    copy = Dataset()
    copy.SOPClassUID, copy.SOPInstanceUID = _CAPTURE_CLASS, generate_uid()
    copy.file_meta = FileMetaDataset()
    copy.file_meta.MediaStorageSOPClassUID, copy.file_meta.MediaStorageSOPInstanceUID = (
        copy.SOPClassUID,
        copy.SOPInstanceUID,
    )
    copy.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    for keyword in _PIXEL_MODULE:
        if keyword in dataset:
            copy[keyword] = dataset[keyword]
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = (dataset.Rows, dataset.Columns) if frames == 1 else (frames, dataset.Rows, dataset.Columns)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        copy.save_as(path, enforce_file_format=True)
        reader: Any = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        pixels = sitk.GetArrayFromImage(reader.Execute())
    if pixels.size != np.prod(shape) or not np.issubdtype(pixels.dtype, np.integer):
        raise RuntimeError(f"it holds {pixels.shape} values of type {pixels.dtype}, expected {shape}")
    return np.asarray(pixels.reshape(shape))
