"""The user's choice among several structure sets and CT series of a patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.errors import InputError

AMBIGUOUS = "ambiguous, keep one, or choose it by label or UID in the mapping ('{}' of the patient, under 'patients')"


@dataclass(frozen=True)
class FileChoice:
    """Choice for a patient.

    Attributes:
        structures: StructureSetLabel or SOPInstanceUID of a structure set; empty if none was chosen.
        ct: SeriesDescription or SeriesInstanceUID of a CT series; empty if none was chosen.
    """

    structures: str = ""
    ct: str = ""

    def applied(self, entries: Sequence[FileEntry]) -> list[FileEntry]:
        """Remove the structure sets and CT series that were not chosen from a patient's files.

        Raises:
            InputError: If the choice matches no file or several.
        """
        kept = _kept(entries, "RTSTRUCT", self.structures, lambda entry: entry.sop_uid)
        return _kept(kept, "CT", self.ct, lambda entry: entry.series_uid)


def described(entries: Sequence[FileEntry], uid_of: Callable[[FileEntry], str]) -> str:
    """Describe structure sets or CT series for a message: label and number of images, with UIDs if labels are equal."""
    by_uid: dict[str, list[FileEntry]] = {}
    for entry in entries:
        by_uid.setdefault(uid_of(entry), []).append(entry)
    labels = [found[0].label for found in by_uid.values()]
    clear = all(labels) and len(set(labels)) == len(labels)
    return ", ".join(
        (f"'{found[0].label}'" if found[0].label else "without a label")
        + (f" of {counted(len(found), 'image')}" if found[0].modality == "CT" else "")
        + ("" if clear else f" ({uid})")
        for uid, found in by_uid.items()
    )


def _kept(
    entries: Sequence[FileEntry], modality: str, choice: str, uid_of: Callable[[FileEntry], str]
) -> list[FileEntry]:
    """All files except those of a modality that were not chosen."""
    if not choice:
        return list(entries)
    those = [entry for entry in entries if entry.modality == modality]
    chosen = {uid_of(entry) for entry in those if choice in (entry.label, uid_of(entry))}
    if len(chosen) != 1:
        what = "structure set" if modality == "RTSTRUCT" else "CT series"
        why = f"stands for {len(chosen)} of them; give the UID" if chosen else "does not exist"
        raise InputError(
            f"the mapping chooses {what} '{choice}', which {why}: there are {described(those, uid_of) or 'none'}"
        )
    return [entry for entry in entries if entry.modality != modality or uid_of(entry) in chosen]
