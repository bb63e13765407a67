"""A pickled dictionary of arrays in an NPZ file, read without running code from the file.

``numpy.load(..., allow_pickle=True)`` calls any function that a file names. Here a pickle may only create NumPy
arrays and numbers of plain types; everything else is refused before it is called.
"""

from __future__ import annotations

import pickle
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

MAX_BYTES = 4 * 2**30
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_DAMAGE = (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, MemoryError)

_UNREADABLE = (  # exceptions of zipfile and NumPy's header for damaged files
    *(zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, RecursionError),
    *(tokenize.TokenError, SyntaxError),
)


def read_dictionary(path: Path, member: str = "arr_0") -> dict[str, Any]:
    """Read a dictionary written by ``numpy.savez(path, dictionary)``.

    Args:
        path: The file.
        member: Name of the array that contains it.

    Raises:
        InputError: If the file is missing, cut off or not an NPZ file, has a member with a path out of the archive,
            unpacks to more than 4 GiB, or its pickle names anything but arrays and numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _refuse_paths(names, path)
            if f"{member}.npy" not in names:
                raise InputError(f"{path} has no array '{member}'; it has {', '.join(names) or 'none'}")
            info = archive.getinfo(f"{member}.npy")
            if info.file_size > MAX_BYTES:
                raise InputError(f"{path}: '{member}' unpacks to {info.file_size / 2**30:.1f} GiB; expected 4 at most")
            with archive.open(info) as file:
                content = _read_object(file, path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except PermissionError as error:
        raise InputError(f"{path} may not be read ({error.strerror})") from None
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged, cut off or not an NPZ file ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} holds no dictionary with names for keys but {type(content).__name__}")
    return content


def _refuse_paths(names: Iterable[str], path: Path) -> None:
    """Refuse such member names: nothing is unpacked to disk here, but other software may unpack the file."""
    for name in names:
        if not re.fullmatch(r"[^/\\:\0]+", name) or name in (".", ".."):
            raise InputError(f"{path} has the member {name!r}, whose path leads out of the archive: it may be hostile")


def _read_object(file: IO[bytes], path: Path) -> Any:
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read_header(file)
        if dtype != np.dtype(object) or shape != ():
            raise InputError(f"{path} holds an array of {dtype} and shape {shape}; expected one pickled dictionary")
        content = _plain(_Unpickler(file).load())
        return content.item() if isinstance(content, np.ndarray) else content
    except InputError:
        raise
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        raise InputError(f"{path} can't be read: {error}") from error


class _Unpickler(pickle.Unpickler):
    """Refuses every name but those of :data:`_ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"its pickle wants to call {module}.{name}, which no array needs: the file may be hostile"
            )
        return _ALLOWED[module, name]


class _Dtype:
    """A type of numbers, text or objects; NumPy's own class would let a pickle set state that it must not set."""

    def __init__(self, spec: object, *_: object) -> None:
        if not (isinstance(spec, str) and re.fullmatch(r"[|<>=]?(?:[biufU]\d{1,6}|O8)", spec)):
            raise pickle.UnpicklingError(f"its pickle has an array of type {spec!r}, which is neither number nor text")
        self.spec = spec.lstrip("|<>=")
        self.order = spec[0] if spec[0] in "<>" else ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else ""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.spec)


class _Array:
    """An array, made from its bytes or from a list of its objects."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind is not _NDARRAY:
            raise pickle.UnpicklingError("its pickle makes an array in an unusual way")
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, data = state
        order: Literal["F", "C"] = "F" if by_columns else "C"
        if isinstance(data, list):
            values = np.empty(len(data), object)
            for k, value in enumerate(data):
                values[k] = _plain(value)
        else:
            values = np.frombuffer(data, dtype.dtype)
        self.values = values.reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype, 1)[0]


def _plain(value: Any) -> Any:
    """A value with arrays in place of :class:`_Array`."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    return value


_NDARRAY = object()
_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    **{(module, "_reconstruct"): _Array for module in _MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _MULTIARRAY},
}
