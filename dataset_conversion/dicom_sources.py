"""Source files of each case, in a list that identifies patients and stays with their data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json

_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Sources:
    """Files of a case in the source list."""

    ct: tuple[str, ...]
    structures: str | None
    plans: tuple[str, ...]


def sources_path(local: Path, dataset: str) -> Path:
    """Path of a data set's source list in the local folder."""
    return local / f"{dataset}_sources.json"


def write_sources(path: Path, cases: Iterable[PatientFiles], pseudonyms: Pseudonyms) -> None:
    """Write the source list, readable only by its owner."""
    write_json(path, {files.case_name: _record(files, pseudonyms) for files in cases}, private=True)


def _record(files: PatientFiles, pseudonyms: Pseudonyms) -> dict[str, object]:
    return {
        "patient_id": files.patient,
        "uids": {pseudonyms.uid(uid): uid for uid in files.uids.values()},
        "ct": [str(path.resolve()) for path in files.ct],
        "structures": None if files.structures is None else str(files.structures.resolve()),
        "plans": [str(path.resolve()) for path in files.plans],
        "doses": [str(path.resolve()) for path in files.doses],
    }


def read_sources(path: Path, case: str) -> tuple[Path, ...]:
    """Files of a case that a predicted dose refers to: CT, structure set, plans.

    Raises:
        InputError: If the source list is damaged, lacks the case, or the files are missing.
    """
    expected = "expected the list of source files of a conversion (DatasetNNN_NAME_sources.json)"
    content = read_json(path, dict[str, _Sources], expected, max_bytes=_MAX_BYTES)
    if case not in content:
        raise InputError(f"{path} has no case '{case}'; name the prediction CASE.nii.gz, or give the DICOM folder")
    record = content[case]
    structures = () if record.structures is None else (record.structures,)
    files = tuple(Path(file) for file in (*record.ct, *structures, *record.plans))
    gone = [file for file in files if not os.path.isfile(file)]  # (a name may be too long for the system)
    if gone:
        raise InputError(f"{counted(len(gone), 'file')} of case '{case}' missing, for example {gone[0]}")
    return files
