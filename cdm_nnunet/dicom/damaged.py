"""Assignment of unreadable files to patients, so that a missing file is always noticed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.files import damage_told, refuse_bomb
from cdm_nnunet.errors import InputError

_PATIENT_ID = Tag("PatientID")
_SUFFIXES = (".dcm", ".dicom", ".ima", ".dc3")


@dataclass(frozen=True)
class DamagedFile:
    """A DICOM file that could not be read.

    Attributes:
        path: The file.
        reason: The reason.
        patient: PatientID; empty if it can't be read.
        modality: Modality; empty if it can't be read.
    """

    path: str
    reason: str
    patient: str = ""
    modality: str = ""


def was_dicom(path: Path, *, looks_so: bool) -> bool:
    """Whether an unreadable file was a DICOM file, by its first bytes or its name; also an empty file without suffix.

    Args:
        path: The file.
        looks_so: Whether its first bytes are those of a DICOM file.
    """
    if looks_so or path.suffix.lower() in _SUFFIXES:
        return True
    return path.is_file() and path.stat().st_size == 0 and not path.suffix


def what_remains(path: Path) -> Mapping[str, str]:
    """``patient`` and ``modality`` of a damaged file, if readable."""
    found: dict[str, str] = {}
    with contextlib.suppress(InputError), damage_told(str(path), ""), path.open("rb") as file:
        refuse_bomb(path)
        header = read_partial(file, stop_when=_is_beyond, force=True)
        for name, keyword in (("patient", "PatientID"), ("modality", "Modality")):
            found[name] = str(header.get(keyword, "") or "").strip().strip("\0")
    return found


def _is_beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _PATIENT_ID)


def named_like_dicom(unread: Mapping[str, str], entries: Iterable[FileEntry]) -> list[DamagedFile]:
    """Unread files whose names differ only in digits from DICOM files in the same folder, such as IM0007."""
    known = {_without_digits(entry.path) for entry in entries}
    return [DamagedFile(path, reason) for path, reason in unread.items() if _without_digits(path) in known]


def _without_digits(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    return folder, re.sub(r"\d+", "#", name)


def owners(persons: Mapping[str, Iterable[FileEntry]]) -> Mapping[str, frozenset[str]]:
    """Persons with readable files in each folder, by the names of :func:`cdm_nnunet.dicom.persons.by_person`."""
    found: dict[str, set[str]] = {}
    for person, entries in persons.items():
        for entry in entries:
            found.setdefault(os.path.dirname(entry.path), set()).add(person)
    return {folder: frozenset(patients) for folder, patients in found.items()}


def of_patient(
    patient: str, owned: Mapping[str, frozenset[str]], damaged: Iterable[DamagedFile]
) -> tuple[list[DamagedFile], list[DamagedFile]]:
    """Damaged files that belong to a patient, and those that may.

    A file without a readable PatientID belongs to the persons of the readable files in its folder.

    Args:
        patient: PatientID.
        owned: Result of :func:`owners`.
        damaged: All damaged files.
    """
    sure, perhaps = [], []
    for file in damaged:
        around = owned.get(os.path.dirname(file.path), frozenset())
        if file.patient == patient or (not file.patient and around == {patient}):
            sure.append(file)
        elif not file.patient and patient in around:
            perhaps.append(file)
    return sure, perhaps
