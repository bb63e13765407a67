"""OpenKBP's CSV files: reading, checking, axes, and writing predictions.

A file has the header ``,data`` and lines ``index,value``; the index is the C-order position in a 128 x 128 x 128 array
whose axes run to the patient's back, left and feet. Masks have empty values. Voxels that are not listed are zero.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.documents import read_number
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_text

GRID = (128, 128, 128)
N_VOXELS = 128**3
_HEADER = ",data"
_MASK_LINE = re.compile(rb"(?:-?\d+,\n)*+")
_VALUE_LINE = re.compile(rb"(?:-?\d+,[^,\n]+\n)*+")
_Number = TypeVar("_Number", bound=np.generic)


def read_mask(path: Path) -> NDArray[np.int64]:
    """Indices of the voxels in a mask file; empty if the file has only a header.

    Raises:
        InputError: If the file is missing, has values, or as :func:`read_values`.
    """
    return _checked_index(path, _parse(path, _body(path, _MASK_LINE, "index,"), np.dtype(np.int64)))


def read_values(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and values of a CT or dose file.

    Raises:
        InputError: If the file is missing, empty or cut off, does not consist of ``index,value`` lines below the header
            ``,data``, or an index is out of range or is repeated, or a value is NaN or infinite.
    """
    table = _parse(
        path, _body(path, _VALUE_LINE, "index,value"), np.dtype([("index", np.int64), ("value", np.float64)])
    )
    if not table.size:
        raise InputError(f"{path} names no voxel; is the file cut off?")
    if not np.isfinite(table["value"]).all():
        bad = int(table["index"][~np.isfinite(table["value"])][0])
        raise InputError(f"{path}: the value of index {bad} is NaN or infinite")
    return _checked_index(path, table["index"]), table["value"]


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Voxel size (x, y, z) in mm from ``voxel_dimensions.csv``, whose lines are in the order of OpenKBP's axes.

    Raises:
        InputError: If the file is missing or does not have three lines with a positive number each.
    """
    try:
        back, left, feet = (read_number(line) for line in _read(path).decode("ascii").removesuffix("\n").split("\n"))
        if min(back, left, feet) <= 0:
            raise ValueError("they must be above zero")
    except ValueError as error:
        raise InputError(f"{path}: expected three lines with a voxel size in mm each ({error})") from None
    return left, back, feet


def to_grid(index: NDArray[np.int64], values: NDArray[_Number]) -> NDArray[_Number]:
    """Put values into a volume (z, y, x) whose axes run to the patient's head, back and left; zero elsewhere."""
    flat = np.zeros(N_VOXELS, values.dtype)
    flat[index] = values
    return np.ascontiguousarray(flat.reshape(GRID)[:, :, ::-1].transpose(2, 0, 1))


def from_grid(volume: NDArray[_Number]) -> NDArray[_Number]:
    """A volume (z, y, x) as the flat array that OpenKBP's indices point into: the inverse of :func:`to_grid`."""
    flat: NDArray[_Number] = volume.transpose(1, 2, 0)[:, :, ::-1].reshape(-1)
    return flat


def write_values(path: Path, index: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Write ``index,value`` lines; each float32 with the fewest digits that reproduce it exactly."""
    lines = [f"{i},{value}" for i, value in zip(index.tolist(), values.astype(str).tolist(), strict=True)]
    write_text(path, "\n".join([_HEADER, *lines, ""]))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().replace(b"\r\n", b"\n")
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None


def _body(path: Path, line: re.Pattern[bytes], form: str) -> bytes:
    """The lines below the header, checked against the expected form."""
    text = _read(path)
    if not text:
        raise InputError(f"{path} is empty")
    header, _, body = text.partition(b"\n")
    if header.decode("ascii", "replace") != _HEADER:
        raise InputError(f"{path}: expected the header '{_HEADER}', found '{header[:40].decode('ascii', 'replace')}'")
    if not text.endswith(b"\n"):
        raise InputError(f"{path} ends in the middle of a line; it was cut off, copy it again")
    well_formed = line.match(body)
    end = well_formed.end() if well_formed else 0
    if end < len(body):
        number = 2 + body.count(b"\n", 0, end)
        found = body[end : body.find(b"\n", end)][:40].decode("ascii", "replace")
        raise InputError(f"{path}: line {number} must be '{form}', as published, not {found!r}")
    return body


def _parse(path: Path, body: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not body.strip():
        return np.empty(0, dtype)
    columns = None if dtype.names else 0
    try:
        return np.loadtxt(io.BytesIO(body), dtype, delimiter=",", comments=None, usecols=columns, ndmin=1)
    except ValueError as error:
        raise InputError(f"{path}: below the header, {error}") from None


def _checked_index(path: Path, index: NDArray[np.int64]) -> NDArray[np.int64]:
    if index.size and (index.min() < 0 or index.max() >= N_VOXELS):
        bad = int(index.min() if index.min() < 0 else index.max())
        raise InputError(f"{path}: index {bad} is outside 0 to {N_VOXELS - 1}; the grid is 128 x 128 x 128")
    values, counts = np.unique(index, return_counts=True)
    if values.size != index.size:
        raise InputError(f"{path}: index {int(values[counts > 1][0])} comes {int(counts.max())} times")
    return index
