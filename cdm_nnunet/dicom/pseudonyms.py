"""Names for patients and UIDs that can't be traced back without a key, which stays with the patients' data.

A plain hash of PatientID is not enough: ids are short, and all of them can be tried in seconds.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cdm_nnunet.dicom.persons import STUDY
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json, write_private_once

KEY_FILE = "pseudonyms.key"
NAMES_FILE = "names.json"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Names by keyed hash.

    Attributes:
        key: The secret; without one, names are the same at every site and can be traced back.
        keep_ids: Use PatientID as the name.
    """

    key: bytes = field(default=b"", repr=False)
    keep_ids: bool = False

    def patient(self, patient_id: str) -> str:
        """Name of a patient; without PatientID, a hash of the study's UID.

        Example:
            >>> Pseudonyms().patient("1234"), Pseudonyms(b"secret").patient("1234")
            ('case_c035d01adf', 'case_2b7690b9d4')
        """
        keep = self.keep_ids and not patient_id.startswith(STUDY)
        return patient_id if keep else f"case_{self._hash('patient', patient_id)[:10]}"

    def uid(self, uid: str) -> str:
        """Pseudonym of a UID."""
        return self._hash("uid", uid)[:16]

    def _hash(self, kind: str, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self.key, person=kind.encode()).hexdigest()


def read_pseudonyms(folder: Path, *, keep_ids: bool = False, make: bool = True) -> Pseudonyms:
    """The pseudonyms of a folder.

    Args:
        folder: Folder of the key; it must stay with the patients' data.
        keep_ids: As in :class:`Pseudonyms`.
        make: Make a key if there is none; otherwise names are made without a key.

    Raises:
        InputError: If the key is damaged.
    """
    path = folder / KEY_FILE
    if not path.exists():
        if not make:
            return Pseudonyms(keep_ids=keep_ids)
        write_private_once(path, secrets.token_hex(_KEY_BYTES) + "\n")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path} is damaged: restore it, or remove it to give all patients new names")
    return Pseudonyms(key, keep_ids)


def write_names(folder: Path, patient_ids: Iterable[str], pseudonyms: Pseudonyms) -> Path:
    """Write the PatientID of each name to a file that only its owner can read.

    Args:
        folder: Folder that stays with the patients' data.
        patient_ids: PatientIDs; may have duplicates.
        pseudonyms: Make the names.
    """
    path = folder / NAMES_FILE
    write_json(path, {pseudonyms.patient(patient): patient for patient in sorted(set(patient_ids))}, private=True)
    return path
