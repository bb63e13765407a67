"""Grouping of files by person: by PatientID, or by study and references if it is empty or the same for everybody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.entry import FileEntry

STUDY = "study "  # prefix of the name of a patient without PatientID
_PLACEHOLDER = re.compile(
    r"(anon|anonym)\w*|unknown|none|null|nil|n/?a|na|removed|deidentified|de-identified|dummy|patient|x+|0+|-+|\?+",
    re.IGNORECASE,
)


def by_person(entries: Sequence[FileEntry]) -> dict[str, list[FileEntry]]:
    """Group files by PatientID; files without one by study, together with the studies that they refer to.

    Args:
        entries: Files of a folder.

    Returns:
        Files by PatientID or ``study UID``, in the order of these names.
    """
    found: dict[str, list[FileEntry]] = {}
    for entry in entries:
        if entry.patient:
            found.setdefault(entry.patient, []).append(entry)
    for group in connected([entry for entry in entries if not entry.patient]):
        images = [entry for entry in group if entry.modality == "CT"]
        found[STUDY + min(entry.study_uid for entry in images or group)] = group
    return {name: found[name] for name in sorted(found)}


def connected(entries: Sequence[FileEntry]) -> list[list[FileEntry]]:
    """Group files that are in one study or refer to each other, directly or through others."""
    studies: dict[str, set[str]] = {}  # by UID of an object or series
    for entry in entries:
        for uid in (entry.sop_uid, entry.series_uid):
            studies.setdefault(uid, set()).add(entry.study_uid)
    first = {entry.study_uid: entry.study_uid for entry in entries}  # representative study of the group, by study
    for entry in entries:
        for uid in entry.refers_to:
            for study in studies.get(uid, ()):
                one, other = first[entry.study_uid], first[study]
                if one != other:
                    first = {key: one if value == other else value for key, value in first.items()}
    found: dict[str, list[FileEntry]] = {}
    for entry in entries:
        found.setdefault(first[entry.study_uid], []).append(entry)
    return list(found.values())


def several_persons(patient: str, entries: Sequence[FileEntry], choice: str) -> tuple[str, str]:
    """Message if one PatientID may stand for several persons.

    Args:
        patient: PatientID.
        entries: Its files.
        choice: Choice among its plans.

    Returns:
        A problem and a note; both may be empty.
    """
    sets = [group for group in connected(entries) if any(entry.modality == "RTSTRUCT" for entry in group)]
    if len(sets) < 2:
        return "", ""
    what = f"{len(sets)} sets of files that don't refer to each other have one PatientID"
    if _PLACEHOLDER.fullmatch(patient.strip()) and choice != "each":
        mend = "give each person an ID, or take every plan as a case ('each' under 'plans' of the mapping)"
        return f"{what}, '{patient}', which looks like a placeholder: {mend}", ""
    return "", f"{what}: a second course, or several persons?"


def without_images(persons: Mapping[str, Sequence[FileEntry]], modalities: Sequence[str]) -> list[str]:
    """Messages about persons without any of the modalities that a case needs."""
    aside = [entries for entries in persons.values() if not any(entry.modality in modalities for entry in entries)]
    if not aside:
        return []
    kinds = ", ".join(sorted({entry.modality for entries in aside for entry in entries}))
    count = sum(len(entries) for entries in aside)
    of_whom = counted(len(aside), "patient")
    return [f"ignored: {counted(count, 'file')} ({kinds}) of {of_whom} without {', '.join(modalities)}"]
