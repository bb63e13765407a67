"""Check whether a study has arrived completely."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.index import FolderIndex, index_folder
from cdm_nnunet.dicom.plan_choice import NOTHING_CHOSEN, Choice
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.errors import InputError
from cdm_nnunet.node.store import Study


@dataclass(frozen=True)
class Missing:
    """Missing parts of a study.

    Attributes:
        parts: Missing parts, as the conversion reports them; empty if nothing is missing.
        images: Number of CT images that the structure set lists and that have not arrived.
    """

    parts: str = ""
    images: int = 0

    def __bool__(self) -> bool:
        return bool(self.parts or self.images)

    def __str__(self) -> str:
        listed = f"without {counted(self.images, 'image')} that the structure set lists" if self.images else ""
        return "; ".join(filter(None, (self.parts, listed)))


def missing_in(
    study: Study, needed: Collection[str], choice: Choice = NOTHING_CHOSEN, pseudonyms: Pseudonyms | None = None
) -> Missing:
    """Read the headers of a study, and pair the files as the conversion does.

    Args:
        study: The study.
        needed: Modalities that the study must have.
        choice: Choice among several plans and series.
        pseudonyms: Make the names that ``choice`` uses.
    """
    try:
        index = index_folder(study.folder / "files")
    except InputError as error:
        return Missing(str(error))
    there = {entry.modality for entry in index.entries}
    lacking = [part for part in needed if part not in there]
    if lacking:
        return Missing(f"no {', no '.join(lacking)}")
    problems = [
        problem
        for files in index.patients(needed=("RTSTRUCT",), choice=choice, pseudonyms=pseudonyms)
        for problem in files.problems
    ]
    return Missing("; ".join(problems), _images_missing(index))


def _images_missing(index: FolderIndex) -> int:
    there = {entry.sop_uid for entry in index.entries}
    listed = {uid for entry in index.entries if entry.modality == "RTSTRUCT" for uid in entry.images}
    return len(listed - there)
