"""What must not leave the queue: files for their owner alone, and log lines without identity."""

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
_SHORTEST = 3  # characters of a part of a name; shorter ones are in every word


@contextlib.contextmanager
def private_process(temporary: Path) -> Iterator[None]:
    """All files that this process makes are for its owner alone, and temporary ones lie within the queue.

    Args:
        temporary: Folder for temporary files.
    """
    umask, known = os.umask(0o077), tempfile.tempdir
    tempfile.tempdir = str(temporary)
    loggers = [logging.getLogger(name) for name in ("pydicom", "pynetdicom")]
    spoke = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False  # (what they log names patients)
    try:
        yield
    finally:
        os.umask(umask)
        tempfile.tempdir = known
        for logger, before in zip(loggers, spoke, strict=True):
            logger.propagate = before


def identity_of(files: Sequence[Path]) -> frozenset[str]:
    """What identifies a patient in the headers of some files: ids, names and their parts."""
    found = set[str]()
    for path in files:
        try:
            header = read_file(path, pixels=False, keywords=_IDENTITY)
        except InputError:
            continue  # (what can't be read was told by others)
        for keyword in _IDENTITY:
            text = str(header.get(keyword) or "").strip()
            found |= {text, *_PARTS.split(text)}
    return frozenset(text for text in found if len(text) >= _SHORTEST)


def without_identity(text: str, identity: frozenset[str]) -> str:
    """A message in which nothing identifies the patient: no id, part of a name, UID or date.

    Example:
        >>> without_identity("plan of 20260101 (1.2.840.1) of DOE^JANE", frozenset({"DOE^JANE", "DOE", "JANE"}))
        'plan of [date] ([uid]) of [identity]'
    """
    for known in sorted(identity, key=len, reverse=True):
        text = re.sub(re.escape(known), "[identity]", text, flags=re.IGNORECASE)
    return _DATE.sub("[date]", _UID.sub("[uid]", text))
