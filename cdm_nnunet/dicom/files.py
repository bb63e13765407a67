"""Read DICOM files and their elements as checked Python values; faults are reported by tag."""

from __future__ import annotations

import contextlib
import functools
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as SequenceOfItems
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.decoding import stored_pixels
from cdm_nnunet.dicom.plain import plain_numbers, plain_text, tag_of
from cdm_nnunet.documents import read_number, stray_character
from cdm_nnunet.errors import InputError

_UNDEFINED = 0xFFFFFFFF
_PIECE = 2**20  # values
_PIXEL_TAG = bytes.fromhex("e07f1000")
_PLAIN_HEADER_BYTES = {ImplicitVRLittleEndian: 8, ExplicitVRLittleEndian: 12}  # of the pixel data element
_KIND_MEMBERS = {
    "text": "AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT",
    "whole number": "US SS UL SL UV SV",
    "number": "FL FD",
    "bytes": "OB OW OF OD OL OV",
    "tag": "AT",
    "sequence": "SQ",
}
_KINDS = {vr: kind for kind, members in _KIND_MEMBERS.items() for vr in members.split()}
_MAX_BYTES = 2**30  # of a deflated file, and of an image's pixels
_META_BYTES = 4096
_SHOWN_CHARACTERS = 150


def read_file(path: Path, *, pixels: bool = True, keywords: Sequence[str] | None = None) -> Dataset:
    """Read a DICOM file.

    Args:
        path: The file; its name does not matter.
        pixels: Read the pixel data too.
        keywords: Read only these elements.

    Raises:
        InputError: If it is missing, is not a DICOM file, or is damaged or cut off.
    """
    tags: list[Any] | None = None if keywords is None else list(keywords)
    if not path.is_file():  # (a pipe would block forever)
        raise InputError(f"{path} is missing or not a file")
    with damage_told(f"{path} is damaged or cut off", "export it again"):
        refuse_bomb(path)
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags)
        except InvalidDicomError:
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=True)
            if "SOPClassUID" not in dataset:
                raise InputError(f"{path} is not a DICOM file") from None
            _name_encoding(dataset)
        if "SOPClassUID" not in dataset and keywords is None:
            raise InputError(f"{path} is cut off or not a DICOM object: it has no {named('SOPClassUID')}")
        _refuse_short_elements(dataset, path)
    return dataset


@contextlib.contextmanager
def damage_told(message: str, mend: str) -> Iterator[None]:
    """Convert any exception of pydicom on a damaged file to a one-line error.

    Raises:
        InputError: For every exception except a lack of memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # (values that break the standard; those in use are checked here)
            yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{message}: it may not be read ({error.strerror})") from error
    except RecursionError as error:
        raise InputError(f"{message} (its sequences are nested too deeply); {mend}") from error
    except Exception as error:  # pydicom does not document what it may raise, and files can be anything
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{message} ({told[:_SHOWN_CHARACTERS]}); {mend}") from error


def _refuse_short_elements(dataset: Dataset, path: Path) -> None:
    for tag in dataset.keys():  # noqa: SIM118  # (iterating the data set would parse every element)
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is not None and len(raw.value) < raw.length < _UNDEFINED:
            raise InputError(
                f"{path} is cut off: {len(raw.value)} of {raw.length} bytes of element {tag}; export it again"
            )


def refuse_bomb(path: Path) -> None:
    """Check the unpacked size of a deflated file, without unpacking all of it."""
    with path.open("rb") as file:
        if DeflatedExplicitVRLittleEndian.encode() not in file.read(_META_BYTES):
            return
        file.seek(0)
        packed = file.read()
    start = 144 + int.from_bytes(packed[140:144], "little")  # (after the group length, and the group)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacker.decompress(packed[start:], _MAX_BYTES)
    if unpacker.unconsumed_tail:
        raise InputError(f"{path} unpacks to more than {_MAX_BYTES // 2**30} GiB; export it without compression")


def _name_encoding(dataset: Dataset) -> None:
    """State the detected encoding of a file without file header; some systems write such files."""
    is_implicit, is_little = dataset.original_encoding
    if "TransferSyntaxUID" not in dataset.file_meta and is_little:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian


@functools.cache
def named(keyword: str) -> str:
    """Name and tag of an element, for a message.

    Example:
        >>> named("DoseGridScaling")
        'DoseGridScaling (3004,000E)'
    """
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text_of(dataset: Dataset, keyword: str, where: object, default: str | None = None) -> str:
    """Text of an element, without blanks around it.

    Args:
        dataset: Data set or sequence item.
        keyword: Keyword of the element.
        where: File, for the message.
        default: Returned if the element is missing or empty; None refuses that.

    Raises:
        InputError: If it is missing or empty and there is no default.
    """
    if text := plain_text(dataset, keyword):
        return text
    value = _value(dataset, keyword, where)
    if isinstance(value, MultiValue):  # (a backslash separates values; in a name it is a character)
        value = "\\".join(str(part) for part in value)
    if isinstance(value, bytes | SequenceOfItems):
        raise InputError(f"{where}: {named(keyword)} is not text; the file is damaged, export it again")
    text = "" if value is None else str(value).strip().strip("\0")
    if "\0" in text:
        raise InputError(f"{where}: {named(keyword)} is damaged ({text[:_SHOWN_CHARACTERS]!r}); export the file again")
    if text:
        return text
    if default is None:
        raise InputError(f"{where} lacks {named(keyword)}")
    return default


def code_of(dataset: Dataset, keyword: str, where: object, default: str | None = None) -> str:
    """Text of an element that should be in capitals; some software writes lower case. As :func:`text_of`."""
    return text_of(dataset, keyword, where, default).upper()


def numbers_of(dataset: Dataset, keyword: str, where: object, count: int | None = None) -> NDArray[np.float64]:
    """Numbers of an element, shape (count,).

    Args:
        dataset: Data set or sequence item.
        keyword: Keyword of the element.
        where: File, for the message.
        count: Required number of values; None accepts 1 or more.

    Raises:
        InputError: If values are missing, not finite, or of another number.
    """
    plain = plain_numbers(dataset, keyword)
    if plain is not None and count in (None, len(plain)):
        return np.array(plain, np.float64)
    value = _value(dataset, keyword, where)
    if value is None or value == "":
        raise InputError(f"{where} lacks {named(keyword)}")
    try:
        for part in value if isinstance(value, MultiValue) else (value,):
            if written := getattr(part, "original_string", None):
                read_number(written)
        numbers = np.atleast_1d(np.asarray(value, np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {named(keyword)} is not a number: {str(value)[:_SHOWN_CHARACTERS]!r}") from error
    if not np.isfinite(numbers).all() or numbers.size == 0 or (count is not None and numbers.size != count):
        expected = "finite numbers" if count is None else counted(count, "number")
        raise InputError(f"{where}: {named(keyword)} has the values {value}; expected {expected}")
    return numbers


def number_of(dataset: Dataset, keyword: str, where: object, default: float | None = None) -> float:
    """The only number of an element; ``default`` if it is missing or empty, as in :func:`text_of`.

    Raises:
        InputError: If it is missing and there is no default, or not one finite number.
    """
    plain = plain_numbers(dataset, keyword)
    if plain is not None and len(plain) == 1:
        return plain[0]
    if default is not None and _value(dataset, keyword, where) in (None, ""):
        return default
    return float(numbers_of(dataset, keyword, where, 1)[0])


def items_of(dataset: Dataset, keyword: str, where: object) -> Sequence[Dataset]:
    """Items of a sequence; none if it is missing."""
    value = _value(dataset, keyword, where)
    if value is not None and not isinstance(value, SequenceOfItems):
        raise InputError(f"{where}: {named(keyword)} is not a sequence; the file is damaged, export it again")
    return () if value is None else tuple(value)


def raw_numbers(dataset: Dataset, keyword: str, where: object) -> NDArray[np.float64]:
    """Numbers of a long element of decimal strings, from its bytes: much faster than one by one.

    Raises:
        InputError: If they are not finite numbers.
    """
    with damage_told(f"{where}: {named(keyword)} is not a list of numbers", "export the file again"):
        raw = dataset.get_item(tag_of(keyword))
        if raw is None or raw.value is None:
            return np.empty(0)
        _refuse_other_kind(raw.VR, keyword, where)
        if isinstance(raw.value, bytes):
            text = raw.value.decode("ascii").strip(" \0")
            if (stray := stray_character(text.replace("\\", " "))) is not None:
                raise InputError(f"{where}: {named(keyword)} has {stray!r} among its numbers; export the file again")
            numbers = np.array(text.split("\\"), np.float64) if text else np.empty(0)
        else:
            numbers = np.atleast_1d(np.asarray(raw.value, np.float64))
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: {named(keyword)} has numbers that are not finite")
    return numbers


def pixels_of(dataset: Dataset, where: object) -> NDArray[Any]:
    """Stored pixel values, shape (rows, columns) or (frames, rows, columns).

    Raises:
        InputError: If they are missing, cut off, or can't be decoded.
    """
    if "PixelData" not in dataset:
        raise InputError(f"{where} lacks {named('PixelData')}")
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", ()):
        raise InputError(f"{where} lacks {named('TransferSyntaxUID')} in its header; export it again")
    with damage_told(f"{where}: the pixels can't be read", "export the file again"):
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_transfer_syntax:
            raise InputError(f"{where} has an unknown {named('TransferSyntaxUID')}, '{syntax}'; export it again")
        expected = _expected_bytes(dataset, where)
        n_bytes = len(dataset.PixelData or b"")
        if not syntax.is_compressed and n_bytes < expected:
            raise InputError(f"{where} is cut off: {n_bytes} bytes of pixels, expected {expected}; export it again")
        try:
            values = stored_pixels(dataset)
        except (RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"{where}: the pixels, compressed as {syntax.name}, can't be decoded; are they damaged? Export without "
                "compression"
            ) from error
    return values


def _expected_bytes(dataset: Dataset, where: object) -> int:
    rows, columns, bits = (int(number_of(dataset, key, where)) for key in ("Rows", "Columns", "BitsAllocated"))
    frames = int(number_of(dataset, "NumberOfFrames", where, 1))
    if number_of(dataset, "SamplesPerPixel", where, 1) != 1:
        raise InputError(f"{where} is a colour image, not one value per voxel")
    expected = rows * columns * frames * bits // 8
    if min(rows, columns, frames, bits) < 1 or expected > _MAX_BYTES:
        raise InputError(
            f"{where}: {frames} frames of {rows} x {columns} pixels of {bits} bits are not an image, or one "
            f"of more than {_MAX_BYTES // 2**30} GiB"
        )
    return expected


def stored_range(path: Path) -> tuple[float, float]:
    """Lowest and highest stored pixel value, read in pieces if the pixels are not compressed.

    Raises:
        InputError: As :func:`pixels_of`.
    """
    read_file(path, pixels=False)
    with damage_told(f"{path} is damaged or cut off", "export it again"), path.open("rb") as file:
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
    with damage_told(f"{where}: {named(keyword)} can't be read", "export the file again"):
        tag = tag_of(keyword)
        if tag not in dataset:
            return None
        element = dataset[tag]
        _refuse_other_kind(element.VR, keyword, where)
        return element.value


def _refuse_other_kind(vr: str | None, keyword: str, where: object) -> None:
    """Check that the VR in the file is of the standard's kind: bytes of a text, read as a number, give a wrong value.

    All text VRs count as one kind, and so do integers. An unknown VR (UN) is taken as the standard's.
    """
    if vr in _KINDS and _KINDS[vr] not in _kinds_of(keyword):
        raise InputError(
            f"{where}: {named(keyword)} has the type {vr} in the file and {dictionary_VR(keyword)} by the standard; "
            "the file is damaged, export it again"
        )


@functools.cache
def _kinds_of(keyword: str) -> frozenset[str | None]:
    return frozenset(_KINDS.get(part) for part in dictionary_VR(keyword).split(" or "))
