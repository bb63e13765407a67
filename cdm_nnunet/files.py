"""Atomic writes, locks, and failures to write with their reason."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cdm_nnunet.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula in a spreadsheet


@contextlib.contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """Write a file beside its place; it takes the place when the block ends without an error.

    Args:
        path: The file; its folder is made where it is missing.
        ending: Of the name to write to, for a library that tells formats by it.

    Yields:
        The path to write to. It is on the disk (fsync) before it takes the place.

    Raises:
        OSError: If it can't be written. What was there before stays.
    """
    with aside(path, ending) as partial:
        yield partial
        flush_file(partial)
        os.replace(partial, path)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Have what a file holds on the disk.

    Raises:
        OSError: If that can't be done.
    """
    _flush(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)  # (Windows flushes what may be written)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # (not every system opens folders)
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Keep other processes out; the system drops the lock with the process, however that ends.

    Args:
        path: The lock's file; its folder must exist.
        busy: What to say where another process holds the lock.

    Raises:
        InputError: If another process holds it.
    """
    with path.open("w") as lock:
        if sys.platform == "win32":
            import msvcrt

            try:
                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                raise InputError(busy) from None
        else:
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(busy) from None
            except OSError as error:  # (some network file systems have no locks)
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the folder, where the system has locks for folders."""
    with contextlib.ExitStack() as held:
        if sys.platform != "win32":
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            with contextlib.suppress(OSError):  # (some network file systems have no locks)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file (UTF-8); its folder is made where it is missing.

    Args:
        path: The file.
        text: Its content.
        private: Only the owner may read it, at any moment.

    Raises:
        OSError: If it can't be written. What was there before stays.
    """
    with replacing(path) as partial:
        _write(partial, text, private)


def write_private_once(path: Path, text: str) -> None:
    """Write a text file that only its owner may read, unless it is there; of several writers at once, one wins.

    Raises:
        OSError: If it can't be written. Nothing of it remains.
    """
    with aside(path) as partial, contextlib.suppress(FileExistsError):
        _write(partial, text, private=True)
        flush_file(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(partial, path)


def write_json(path: Path, content: Any, *, private: bool = False) -> None:
    """Write a JSON file, as :func:`write_text`.

    Raises:
        ValueError: If a number is not finite, which JSON can't say.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n", private=private)


def _write(path: Path, text: str, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    # (the name of a file, in a message, may be no text)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)


@contextlib.contextmanager
def aside(path: Path, ending: str = "") -> Iterator[Path]:
    """A temporary name beside a file; leftovers under it, also those of killed processes, are removed.

    Args:
        path: The file; its folder is made where it is missing.
        ending: Of the name, for a library that tells formats by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{path.name}.partial_{platform.node()}_"
    for left_over in path.parent.glob(f"{glob.escape(own)}*"):
        if not _is_running(left_over.name.removeprefix(own).split(".")[0]):
            left_over.unlink(missing_ok=True)
    partial = path.with_name(f"{own}{os.getpid()}{ending}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def passing_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder that is removed with the work, also when this process is killed.

    A small process waits for the end of this one and removes the folder. If that is killed too, the next call for the
    same parent does.

    Args:
        parent: Where to make it; made where it is missing.
        prefix: Beginning of its name.
    """
    parent.mkdir(parents=True, exist_ok=True)
    owner = f"{prefix}{platform.node()}_"
    for left_over in parent.glob(f"{owner}*_*"):
        if not _is_running(left_over.name.removeprefix(owner).split("_")[0]):
            shutil.rmtree(left_over, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{owner}{os.getpid()}_", dir=parent))
    remover = subprocess.Popen(
        [sys.executable, "-I", "-c", _REMOVE_AT_THE_END, str(made)], stdin=subprocess.PIPE, start_new_session=True
    )
    with remover:  # (which closes its input, and waits)
        yield made


def _is_running(process: str) -> bool:
    if sys.platform == "win32":  # (where os.kill with 0 is Ctrl-C)
        return _is_running_on_windows(process)
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError, OverflowError):
        return True
    return True


def _is_running_on_windows(process: str) -> bool:
    if sys.platform == "win32" and process.isdigit():
        import ctypes

        kernel, status = ctypes.windll.kernel32, ctypes.c_ulong()
        handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, int(process))
        if not handle:
            return bool(kernel.GetLastError() == _ACCESS_DENIED)
        try:
            return not kernel.GetExitCodeProcess(handle, ctypes.byref(status)) or status.value == _STILL_ACTIVE
        finally:
            kernel.CloseHandle(handle)
    return True


_QUERY_LIMITED_INFORMATION, _ACCESS_DENIED, _STILL_ACTIVE = 0x1000, 5, 259  # of the Windows API
_REMOVE_AT_THE_END = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    r"""A CSV table, in which no text becomes a formula when a spreadsheet opens it; None is an empty field.

    Args:
        columns: Heads.
        rows: As many values a row.

    Example:
        >>> csv_text(["roi", "dose_gy"], [["=1+1", -2.5], ["Cord", None]])
        "roi,dose_gy\n'=1+1,-2.5\nCord,\n"
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for v in row])
    return text.getvalue()


def raise_write_error(path: Path, n_bytes: int, cause: BaseException | None) -> NoReturn:
    """Find out why a library could not write a file, by writing as many bytes without it, and raise that.

    Args:
        path: The file.
        n_bytes: About how large it was to be.
        cause: What the library raised, if it did.

    Raises:
        OSError: Always, naming the file.
    """
    probe = path.with_name(f".probe_{os.getpid()}_{path.name}")
    try:
        with probe.open("wb") as file:
            file.write(bytes(n_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from cause
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    raise OSError(errno.EIO, "the written file does not read back unchanged", str(path)) from cause
