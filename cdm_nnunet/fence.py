"""A fence around one patient or case: what nobody foresaw in it is refused, and does not end the others."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdm_nnunet.errors import InputError


@contextmanager
def fenced(what: str, log: Path, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an exception that nobody foresaw into an :class:`InputError`.

    Args:
        what: Patient, case or file, for the log.
        log: File that the traceback is appended to, readable by its owner alone: it may name patients.
        passing: Exceptions that pass, beside InputError; for example OSError, where a full disk must end the run.

    Raises:
        InputError: With the exception in words and the log's path.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, *passing)):
            raise
        _append(log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{traceback.format_exc()}\n")
        raise InputError(f"internal error ({type(error).__name__}: {error}); left out, see {log}") from error


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(text)
