"""Atomic writes, locks, and write errors with their reason."""

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

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # characters that start a formula in a spreadsheet


@contextlib.contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """Write a file under a temporary name; rename it when the block ends without an error.

    Args:
        path: The file; its folder is made if missing.
        ending: Extension of the temporary name, for a library that chooses the format by it.

    Yields:
        The path to write to. It is flushed to disk (fsync) before it is renamed.

    Raises:
        OSError: If it can't be written. An existing file is kept.
    """
    with aside(path, ending) as partial:
        yield partial
        flush_file(partial)
        os.replace(partial, path)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Flush the content of a file to disk.

    Raises:
        OSError: If that can't be done.
    """
    _flush(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)  # (Windows: opened for writing)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the system can."""
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
    """Lock out other processes; the system releases the lock when the process ends, for any reason.

    Args:
        path: The lock's file; its folder must exist.
        busy: Message if another process holds the lock.

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
    """Wait until no other process is in this block for the same folder, if the system can lock folders."""
    with contextlib.ExitStack() as held:
        if sys.platform != "win32":
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            with contextlib.suppress(OSError):  # (some network file systems have no locks)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file (UTF-8); its folder is made if missing.

    Args:
        path: The file.
        text: Its content.
        private: Only the owner can read it, at every moment.

    Raises:
        OSError: If it can't be written. An existing file is kept.
    """
    with replacing(path) as partial:
        _write(partial, text, private)


def write_private_once(path: Path, text: str) -> None:
    """Write a text file that only its owner may read, unless it exists; of several simultaneous writers, one wins.

    Raises:
        OSError: If it can't be written. No partial file remains.
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
        ValueError: If a number is not finite, which JSON can't express.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n", private=private)


def _write(path: Path, text: str, private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    # (the name of a file in a message may be invalid text)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)


@contextlib.contextmanager
def aside(path: Path, ending: str = "") -> Iterator[Path]:
    """A temporary name next to a file; leftovers with such names, also of killed processes, are removed.

    Args:
        path: The file; its folder is made if missing.
        ending: Extension of the name, for a library that chooses the format by it.
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
    """A temporary folder that is removed after the block, also if this process is killed.

    A small process waits for the end of this one and removes the folder. If it is killed too, the next call for the
    same parent removes it.

    Args:
        parent: Folder to make it in; made if missing.
        prefix: Prefix of its name.
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
    with remover:  # (closes its input, and waits)
        yield made


def _is_running(process: str) -> bool:
    if sys.platform == "win32":  # (there, os.kill with 0 is Ctrl-C)
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
    r"""A CSV table, in which a spreadsheet reads no text as a formula; None is an empty field.

    Args:
        columns: Column headings.
        rows: Rows of as many values.

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
    """Find the reason why a library could not write a file, by writing as many bytes without it, and raise it.

    Args:
        path: The file.
        n_bytes: Approximate size.
        cause: Exception of the library, if any.

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
