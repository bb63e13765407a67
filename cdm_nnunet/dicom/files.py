"""DICOM files as data sets, and their elements as checked Python values: what is missing or damaged is told by tag."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cdm_nnunet.dicom.decoding import stored_pixels
from cdm_nnunet.errors import InputError

_UNDEFINED = 0xFFFFFFFF
_PIECE = 2**20  # values
_PIXEL_TAG = bytes.fromhex("e07f1000")
_PLAIN_HEADER_BYTES = {ImplicitVRLittleEndian: 8, ExplicitVRLittleEndian: 12}  # of the pixels' element
DAMAGE = (EOFError, struct.error, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, IndexError)


def read_file(path: Path, *, pixels: bool = True, keywords: Sequence[str] | None = None) -> Dataset:
    """Read a DICOM file.

    Args:
        path: The file; its name does not matter.
        pixels: Read the pixel data too.
        keywords: Read these elements only.

    Raises:
        InputError: If it is missing, is no DICOM file, or is damaged or cut off.
    """
    tags: list[Any] | None = None if keywords is None else list(keywords)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # (values that break the standard; those in use are checked here)
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
            except InvalidDicomError:
                dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=True)
                if "SOPClassUID" not in dataset:
                    raise
                _name_encoding(dataset)
            if "SOPClassUID" not in dataset and keywords is None:
                raise InputError(f"{path} is cut off or no DICOM object: it has no {named('SOPClassUID')}")
    except InputError:
        raise
    except InvalidDicomError as error:
        raise InputError(f"{path} is no DICOM file") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path} is missing or no file") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read: {error.strerror}") from error
    except DAMAGE as error:
        raise InputError(f"{path} is damaged or cut off ({error}); export it again") from error
    for tag in dataset.keys():  # noqa: SIM118  # (iterating the data set would parse every element)
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is not None and len(raw.value) < raw.length < _UNDEFINED:
            raise InputError(
                f"{path} is cut off: {len(raw.value)} of {raw.length} bytes of element {tag}; export it again"
            )
    return dataset


def _name_encoding(dataset: Dataset) -> None:
    """State the encoding that was recognised in a file without a header of its own, as some systems write them."""
    is_implicit, is_little = dataset.original_encoding
    if "TransferSyntaxUID" not in dataset.file_meta and is_little:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian


def named(keyword: str) -> str:
    """An element for a message.

    Example:
        >>> named("DoseGridScaling")
        'DoseGridScaling (3004,000E)'
    """
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text_of(dataset: Dataset, keyword: str, where: object, default: str | None = None) -> str:
    """Text of an element, without blanks around it.

    Args:
        dataset: Data set or item of a sequence.
        keyword: Keyword of the element.
        where: File, for the message.
        default: Returned where the element is missing or empty; None refuses that.

    Raises:
        InputError: If it is missing or empty and there is no default.
    """
    value = _value(dataset, keyword, where)
    if isinstance(value, MultiValue):  # (a backslash separates values; in a name it is a character)
        value = "\\".join(str(part) for part in value)
    text = "" if value is None else str(value).strip().strip("\0")
    if text:
        return text
    if default is None:
        raise InputError(f"{where} lacks {named(keyword)}")
    return default


def numbers_of(dataset: Dataset, keyword: str, where: object, count: int | None = None) -> NDArray[np.float64]:
    """Numbers of an element, shape (count,).

    Args:
        dataset: Data set or item of a sequence.
        keyword: Keyword of the element.
        where: File, for the message.
        count: How many there must be; None takes any number from 1.

    Raises:
        InputError: If they are missing, not finite, or of another count.
    """
    value = _value(dataset, keyword, where)
    if value is None or value == "":
        raise InputError(f"{where} lacks {named(keyword)}")
    try:
        numbers = np.atleast_1d(np.asarray(value, np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {named(keyword)} is not a number: {value!r}") from error
    if not np.isfinite(numbers).all() or numbers.size == 0 or (count is not None and numbers.size != count):
        raise InputError(f"{where}: {named(keyword)} has the values {value}; expected {count or 'finite'} numbers")
    return numbers


def number_of(dataset: Dataset, keyword: str, where: object, default: float | None = None) -> float:
    """The one number of an element; ``default`` where it is missing or empty, as :func:`text_of`.

    Raises:
        InputError: If it is missing and there is no default, or not one finite number.
    """
    if default is not None and _value(dataset, keyword, where) in (None, ""):
        return default
    return float(numbers_of(dataset, keyword, where, 1)[0])


def items_of(dataset: Dataset, keyword: str, where: object) -> Sequence[Dataset]:
    """Items of a sequence; none where it is missing."""
    value = _value(dataset, keyword, where)
    return () if value is None else tuple(value)


def raw_numbers(dataset: Dataset, keyword: str, where: object) -> NDArray[np.float64]:
    """Numbers of a long element of decimal strings, from its bytes: many times as fast as one by one.

    Raises:
        InputError: If they are not finite numbers.
    """
    tag = tag_for_keyword(keyword)
    raw = dataset.get_item(Tag(tag or 0)) if tag is not None and tag in dataset else None
    if raw is None or raw.value is None:
        return np.empty(0)
    try:
        if isinstance(raw.value, bytes):
            text = raw.value.decode("ascii").strip(" \0")
            numbers = np.array(text.split("\\"), np.float64) if text else np.empty(0)
        else:
            numbers = np.atleast_1d(np.asarray(raw.value, np.float64))
    except ValueError as error:
        raise InputError(f"{where}: {named(keyword)} is not a list of numbers ({error})") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: {named(keyword)} has numbers that are not finite")
    return numbers


def pixels_of(dataset: Dataset, where: object) -> NDArray[Any]:
    """Stored pixel values, shape (rows, columns) or (frames, rows, columns).

    Raises:
        InputError: If there are none, they are cut off, or they are compressed and can't be decoded.
    """
    if "PixelData" not in dataset:
        raise InputError(f"{where} lacks {named('PixelData')}")
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", ()):
        raise InputError(f"{where} lacks {named('TransferSyntaxUID')} in its header; export it again")
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        raise InputError(f"{where} has an unknown {named('TransferSyntaxUID')}, '{syntax}'; export it again")
    rows, columns, bits = (int(number_of(dataset, key, where)) for key in ("Rows", "Columns", "BitsAllocated"))
    frames = int(number_of(dataset, "NumberOfFrames", where, 1))
    if number_of(dataset, "SamplesPerPixel", where, 1) != 1:
        raise InputError(f"{where} is a colour image, not one value a voxel")
    expected = rows * columns * frames * bits // 8
    if not syntax.is_compressed and len(dataset.PixelData or b"") < expected:
        raise InputError(
            f"{where} is cut off: {len(dataset.PixelData or b'')} bytes of pixels, expected {expected}; export it again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = stored_pixels(dataset)
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{where}: the pixels, compressed as {syntax.name}, can't be decoded; are they damaged? Export without "
            "compression"
        ) from error
    except DAMAGE as error:
        raise InputError(f"{where}: the pixels can't be read ({error}); export it again") from error
    return values


def stored_range(path: Path) -> tuple[float, float]:
    """Lowest and highest stored pixel value, read in pieces where the pixels are not compressed.

    Raises:
        InputError: As :func:`pixels_of`.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        element = file.read(0 if syntax is None else _PLAIN_HEADER_BYTES.get(syntax, 0))
        bits = int(number_of(header, "BitsAllocated", path))
        if not element.startswith(_PIXEL_TAG) or bits not in (8, 16, 32):
            values = pixels_of(read_file(path), path)
            return float(values.min()), float(values.max())
        rows, columns = (int(number_of(header, key, path)) for key in ("Rows", "Columns"))
        count = rows * columns * int(number_of(header, "NumberOfFrames", path, 1))
        kind = np.dtype(f"<{'i' if number_of(header, 'PixelRepresentation', path, 0) else 'u'}{bits // 8}")
        low, high = np.inf, -np.inf
        for start in range(0, count, _PIECE):
            piece = np.fromfile(file, kind, min(_PIECE, count - start))
            if piece.size < min(_PIECE, count - start):
                raise InputError(f"{path} is cut off: {start + piece.size} of {count} pixels; export it again")
            low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    return low, high


def _value(dataset: Dataset, keyword: str, where: object) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.get(keyword)
    except DAMAGE as error:
        raise InputError(f"{where}: {named(keyword)} can't be read ({error})") from error
