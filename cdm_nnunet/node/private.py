"""Privacy of the queue: files readable by their owner only, and log lines without identity."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdm_nnunet.dicom.files import read_file
from cdm_nnunet.errors import InputError

_IDENTITY = ("PatientID", "PatientName", "OtherPatientIDs", "AccessionNumber", "StudyID", "PatientBirthDate")
_PARTS = re.compile(r"[\^=\\,\s]+")
_UID = re.compile(r"\b[0-2](?:\.\d+){3,}\b")
_DATE = re.compile(r"\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_SHORTEST = 3  # characters of a part of a name; shorter parts occur in too many words


@contextlib.contextmanager
def private_process(temporary: Path) -> Iterator[None]:
    """Make all files of this process readable by their owner only, and keep temporary files within the queue.

    Args:
        temporary: Folder for temporary files.
    """
    umask, known = os.umask(0o077), tempfile.tempdir
    tempfile.tempdir = str(temporary)
    loggers = [logging.getLogger(name) for name in ("pydicom", "pynetdicom")]
    spoke = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False  # (their logs contain names of patients)
    try:
        yield
    finally:
        os.umask(umask)
        tempfile.tempdir = known
        for logger, before in zip(loggers, spoke, strict=True):
            logger.propagate = before


def identity_of(files: Sequence[Path]) -> frozenset[str]:
    """Identifying texts in the headers of some files: ids, names and their parts."""
    found = set[str]()
    for path in files:
        try:
            header = read_file(path, pixels=False, keywords=_IDENTITY)
        except InputError:
            continue  # (unreadable files are reported elsewhere)
        for keyword in _IDENTITY:
            text = str(header.get(keyword) or "").strip()
            found |= {text, *_PARTS.split(text)}
    return frozenset(text for text in found if len(text) >= _SHORTEST)


def without_identity(text: str, identity: frozenset[str]) -> str:
    """Remove everything that identifies the patient from a message: ids, parts of names, UIDs and dates.

    Example:
        >>> without_identity("plan of 20260101 (1.2.840.1) of DOE^JANE", frozenset({"DOE^JANE", "DOE", "JANE"}))
        'plan of [date] ([uid]) of [identity]'
    """
    for known in sorted(identity, key=len, reverse=True):
        text = re.sub(re.escape(known), "[identity]", text, flags=re.IGNORECASE)
    return _DATE.sub("[date]", _UID.sub("[uid]", text))
