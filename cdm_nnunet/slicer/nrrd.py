"""NRRD files for 3D Slicer.

The format: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name by which SimpleITK is known
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error, replacing
from cdm_nnunet.geometry.grid import Grid

_TYPES = {"int16": "int16", "uint8": "uint8", "float32": "float"}
_COMPRESSION = 4


def write_nrrd(path: Path, values: NDArray[Any], grid: Grid, fields: Mapping[str, str] | None = None) -> None:
    """Write an array with its position in the patient; the file is complete or absent.

    Args:
        path: The file.
        values: Shape (z, y, x), or (z, y, x, layers); int16, uint8 or float32.
        grid: Grid of (z, y, x), with equally spaced voxels.
        fields: Further entries of the header.

    Raises:
        InputError: If a field can't be written in a header line.
        OSError: If the file can't be written, or reads back differently.
    """
    header = "\n".join([*_geometry(values, grid), *map(_field, (fields or {}).items())])
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    with replacing(path, ".nrrd") as partial:
        partial.write_bytes(header.encode() + b"\n\n" + gzip.compress(data, _COMPRESSION, mtime=0))
        _refuse_difference(path, partial, values)


def _geometry(values: NDArray[Any], grid: Grid) -> list[str]:
    steps_mm = np.array(grid.spacing_xyz_mm)[:, None] * grid.axes
    sizes, directions, kinds = list(values.shape[2::-1]), [_vector(step) for step in steps_mm], ["domain"] * 3
    if values.ndim == 4:  # (the fastest axis comes first)
        sizes, directions, kinds = [values.shape[3], *sizes], ["none", *directions], ["list", *kinds]
    return [
        "NRRD0005",
        f"type: {_TYPES[values.dtype.name]}",
        f"dimension: {values.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(grid.origin_xyz_mm)}",
    ]


def _vector(values: Iterable[float]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _field(entry: tuple[str, str]) -> str:
    key, text = entry
    if not text.isprintable() or ":=" in key:
        raise InputError(f"'{key}' of an NRRD file can't be {text!r}")
    return f"{key}:={text}"


def _refuse_difference(path: Path, partial: Path, values: NDArray[Any]) -> None:
    try:
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(partial)))
    except RuntimeError as error:
        raise_write_error(path, values.nbytes, error)
    if not np.array_equal(written.reshape(values.shape), values):
        raise_write_error(path, values.nbytes, None)
