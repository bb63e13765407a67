"""Files that are there whole or not at all, and failures to write that are told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, NoReturn


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8); its folder is made where it is missing.

    Raises:
        OSError: If it can't be written. What was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial_{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, as :func:`write_text`.

    Raises:
        ValueError: If a number is not finite, which JSON can't say.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
    raise OSError(errno.EIO, "what was written can't be read back unchanged", str(path)) from cause
