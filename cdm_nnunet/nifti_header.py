"""The header of a NIfTI-1 file, checked before a voxel is unpacked: size, type, voxel size and orientation.

Other readers repair a damaged header silently: a voxel size of zero becomes 1 mm, one of two different orientations is
used, and a missing one becomes the identity. Layout: ``nifti1.h`` of the NIfTI Data Format Working Group.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError, numbers

MAX_VOXEL_BYTES = 2 * 2**30
SAME_POSITION_VOXELS = 0.1  # maximum distance of a corner between two descriptions of the grid
_HEADER_BYTES = 348
_FIRST_VOXEL = 352  # at the earliest: after the header and four bytes that announce extensions
_LAST_OFFSET = 2**24
_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1"},
    **{512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_UNITS = {0: "unknown", 1: "metres", 2: "mm", 3: "micrometres"}
_MM = (0, 2)  # (mm if not stated, as in all tools)
_RIGHT_ANGLE = 1e-3  # cosine
_QUATERNION_ROUNDING = 1e-5
_MIN_PIXDIM_MM, _MAX_PIXDIM_MM = 1e-3, 1e3

Affine = NDArray[np.float64]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """Content of a header.

    Attributes:
        path: The file.
        shape: Number of voxels (x, y, z).
        dtype: Stored type of the voxels.
        offset: Their offset in the unpacked file, bytes.
        is_scaled: Whether stored values have to be scaled by slope and intercept.
        affine: Shape (4, 4): from voxel indices (x, y, z, 1) to positions in mm; x to the right, y to the front, z to
            the head.
    """

    path: Path
    shape: Shape
    dtype: np.dtype[Any]
    offset: int
    is_scaled: bool
    affine: Affine

    @property
    def n_bytes(self) -> int:
        """Size of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    def refuse_other_affine(self, affine: Affine, what: str) -> None:
        """Check that another affine gives the same voxel positions.

        Args:
            affine: The other affine.
            what: Its name, for messages.

        Raises:
            InputError: If a corner of the image differs by more than a tenth of a voxel.
        """
        _refuse_other(self.path, self.shape, ("header", self.affine), (what, affine))


def read_voxels(path: Path) -> tuple[NiftiHeader, NDArray[Any]]:
    """The header and the stored voxels, shape (Z, Y, X), of a NIfTI-1 file, ``.nii`` or compressed.

    No more is unpacked than the header announces, and nothing if that exceeds a limit.

    Raises:
        InputError: If the file is missing, empty, damaged, cut off or longer than its header says, or the header is not
            that of a three-dimensional image of real numbers, with a voxel size, in mm, and one orientation.
    """
    try:
        if not path.is_file():  # (a pipe would block forever)
            raise InputError(f"{path} is missing or not a file")
        if path.suffix == ".nii":
            with path.open("rb") as file:
                return _read(file, path)
        with gzip.open(path) as packed:
            return _read(packed, path)  # type: ignore[arg-type]  # (gzip's own class, which reads bytes)
    except PermissionError:
        raise InputError(f"{path} may not be read (permission denied)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or cut off ({error}); write it again") from error


def _read(file: BinaryIO, path: Path) -> tuple[NiftiHeader, NDArray[Any]]:
    start = file.read(_FIRST_VOXEL)
    if not start:
        raise InputError(f"{path} is empty; write it again")
    header = _parse(start, path)
    _skip_extensions(file, header, start)
    content = file.read(header.n_bytes)
    n_voxels = math.prod(header.shape)
    if len(content) < header.n_bytes:
        raise InputError(
            f"{path} is cut off: {len(content)} bytes for {n_voxels} voxels of {8 * header.dtype.itemsize} bits; write "
            "it again"
        )
    if file.read(1):  # (compares the checksum at the end of the file)
        raise InputError(
            f"{path} is longer than the {n_voxels} voxels in its header: one of them is damaged; write it again"
        )
    return header, np.frombuffer(content, header.dtype).reshape(header.shape[::-1])


def _skip_extensions(file: BinaryIO, header: NiftiHeader, start: bytes) -> None:
    """Go to the first voxel; bytes before it must be extensions, or zeros if there are none."""
    between = file.read(header.offset - _FIRST_VOXEL)
    if start[_HEADER_BYTES:] == bytes(4):
        if any(between):
            raise InputError(
                f"{header.path}: its header says that the voxels begin at byte {header.offset}, but there "
                "are other data before them; write it again"
            )
        return
    order = _byte_order(start)
    at = 0
    while at < len(between):
        size = struct.unpack_from(f"{order}i", between.ljust(at + 4, b"\0"), at)[0]
        if size < 16 or size % 16:
            break
        at += size
    if at != len(between) or not at:
        raise InputError(
            f"{header.path}: the extensions of its header do not end where its voxels begin, at byte "
            f"{header.offset}; write it again"
        )


def _parse(start: bytes, path: Path) -> NiftiHeader:
    order = _byte_order(start)
    if order is None or len(start) < _FIRST_VOXEL or start[344:348] != b"n+1\0":
        raise InputError(f"{path} is not a compressed NIfTI-1 file")

    def values(kind: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(f"{order}{kind}", start, at)

    shape = _shape(values("8h", 40), path)
    code, bits = values("2h", 70)
    if code not in _TYPES:
        raise InputError(f"{path} has voxels of NIfTI type {code}: complex, in colour or unknown; expected one number")
    dtype = np.dtype(f"{order}{_TYPES[code]}")
    if bits != 8 * dtype.itemsize:
        raise InputError(
            f"{path}: its header says {bits} bits per voxel, and a type of {8 * dtype.itemsize} bits; write it again"
        )
    if math.prod(shape) * dtype.itemsize > MAX_VOXEL_BYTES:
        raise InputError(
            f"{path}: {math.prod(shape)} voxels of {bits} bits are more than the {MAX_VOXEL_BYTES // 2**30} GiB that "
            "an image may have; crop it, or store it in a smaller type"
        )
    (offset,) = values("f", 108)
    if not (_FIRST_VOXEL <= offset <= _LAST_OFFSET and offset == int(offset)):
        raise InputError(f"{path}: its header says that the voxels begin at byte {offset:g}; write it again")
    is_scaled = _is_scaled(values("2f", 112), path)
    grid = _Grid(path, shape, _pixdim(values("8f", 76), start[123], path))
    affine = grid.affine(values("2h", 252), values("6f", 256), values("12f", 280))
    return NiftiHeader(path, shape, dtype, int(offset), is_scaled, affine)


def _byte_order(start: bytes) -> str | None:
    return next((order for order in "<>" if start[:4] == struct.pack(f"{order}i", _HEADER_BYTES)), None)


def _shape(dim: tuple[int, ...], path: Path) -> Shape:
    """The three sizes; further axes must have one element."""
    n_axes, x, y, z, *further = dim
    if not 3 <= n_axes <= 7 or any(size != 1 for size in further[: n_axes - 3]):
        raise InputError(f"{path} is not a three-dimensional image with one value per voxel (its sizes: {dim[1:]})")
    if min(x, y, z) < 1:
        raise InputError(f"{path} has no voxels or a damaged header (its sizes: {(x, y, z)})")
    return x, y, z


def _is_scaled(slope_intercept: tuple[float, ...], path: Path) -> bool:
    slope, intercept = slope_intercept
    if slope_intercept in ((0, 0), (1, 0)):
        return False
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise InputError(
            f"{path}: its header scales values by {slope:g} and adds {intercept:g}, which is not a scaling; "
            "write it again"
        )
    return True


def _pixdim(pixdim: tuple[float, ...], units: int, path: Path) -> tuple[float, ...]:
    """Qfac and the voxel size (x, y, z), mm."""
    qfac, *sizes = pixdim[:4]
    if units & 7 not in _MM:
        raise InputError(f"{path} gives its voxel size in {_UNITS.get(units & 7, 'an unknown unit')}; write it in mm")
    if not all(_MIN_PIXDIM_MM <= size <= _MAX_PIXDIM_MM for size in sizes):
        raise InputError(
            f"{path}: the voxel size (x, y, z) in its header (pixdim) is {numbers(sizes)} mm, which is not a voxel "
            "size; write it again"
        )
    return qfac, *sizes


@dataclass(frozen=True)
class _Grid:
    """Size and pixdim of an image, which determine its two orientations."""

    path: Path
    shape: Shape
    pixdim: tuple[float, ...]  # qfac, and the voxel size (x, y, z) in mm

    def affine(self, codes: tuple[int, ...], quaternion: tuple[float, ...], rows: tuple[float, ...]) -> Affine:
        """The orientation on which qform and sform agree."""
        q_code, s_code = codes
        sform = self._sform(np.array(rows)) if s_code > 0 else None
        qform = self._qform(np.array(quaternion[:3]), np.array(quaternion[3:])) if q_code > 0 else None
        if sform is not None and qform is not None:
            _refuse_other(self.path, self.shape, ("sform", sform), ("qform", qform))
        found = qform if sform is None else sform
        if found is None:
            raise InputError(
                f"{self.path} does not give the orientation of the patient: the codes of its qform and sform are "
                f"{q_code} and {s_code}; left and right would be a guess. Convert it again from DICOM, or set "
                "one of them"
            )
        return found

    def _sform(self, rows: Affine) -> Affine:
        affine = np.eye(4)
        affine[:3] = rows.reshape(3, 4)
        if not np.isfinite(affine).all():
            raise InputError(f"{self.path}: the sform in its header has numbers that are not finite; write it again")
        sizes_mm = np.array(self.pixdim[1:])
        lengths_mm = np.linalg.norm(affine[:3, :3], axis=0)
        # (distance in voxels of the last voxel of an axis from its position by pixdim)
        off = np.abs(lengths_mm / sizes_mm - 1) * (np.array(self.shape) - 1)
        if off.max() > SAME_POSITION_VOXELS or not lengths_mm.all():
            raise InputError(
                f"{self.path}: the voxel size (x, y, z) in its header is {numbers(sizes_mm)} mm by pixdim and "
                f"{numbers(lengths_mm)} mm by its sform; write it again with one of them"
            )
        cosines = affine[:3, :3] / lengths_mm
        if np.abs(cosines.T @ cosines - np.eye(3)).max() > _RIGHT_ANGLE:
            raise InputError(
                f"{self.path}: the axes of the image are not at right angles (its sform is sheared); resample it to "
                "a grid with right angles"
            )
        return affine

    def _qform(self, bcd: Affine, offset_mm: Affine) -> Affine:
        square = float(bcd @ bcd)
        is_finite = np.isfinite(bcd).all() and np.isfinite(offset_mm).all()
        if not is_finite or square > 1 + _QUATERNION_ROUNDING or self.pixdim[0] not in (-1.0, 0.0, 1.0):
            raise InputError(
                f"{self.path}: the qform in its header is not a rotation (quaternion {numbers(bcd)}, offset "
                f"{numbers(offset_mm)}, qfac {self.pixdim[0]:g}); write it again"
            )
        a = math.sqrt(max(0.0, 1 - square))
        b, c, d = (float(part) for part in bcd / max(1.0, math.sqrt(square)))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine = np.eye(4)
        affine[:3, :3] = rotation * self.pixdim[1:] * np.array((1, 1, -1 if self.pixdim[0] < 0 else 1))
        affine[:3, 3] = offset_mm
        return affine


def _refuse_other(path: Path, shape: Shape, one: tuple[str, Affine], two: tuple[str, Affine]) -> None:
    (name, affine), (other_name, other) = one, two
    x, y, z = (size - 1 for size in shape)
    corners = np.array([(i, j, k, 1) for i in (0, x) for j in (0, y) for k in (0, z)])
    apart_mm = float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())
    voxel_mm = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    if not apart_mm <= SAME_POSITION_VOXELS * voxel_mm:
        axes = ("left-right", "front-back", "head-feet")
        turned = [axis for row, axis in enumerate(axes) if _runs(affine, row) != _runs(other, row)]
        how = f" and differ in {' and '.join(turned)}" if turned else ""
        raise InputError(
            f"{path}: its {name} and its {other_name} place voxels up to {apart_mm:.3g} mm apart{how}: nothing says "
            "which is right; write it again with one of them, or both equal"
        )


def _runs(affine: Affine, row: int) -> tuple[int, bool]:
    """The image axis closest to each axis of the patient, and whether the directions agree."""
    axis = int(np.abs(affine[row, :3]).argmax())
    return axis, bool(affine[row, axis] > 0)
