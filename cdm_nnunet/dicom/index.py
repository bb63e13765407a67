"""Index of a folder of DICOM files: the headers of all files, under any name, cached for the next run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydicom.dataset import Dataset

from cdm_nnunet.dicom import predicted
from cdm_nnunet.dicom.damaged import DamagedFile, named_like_dicom, of_patient, owners, was_dicom, what_remains
from cdm_nnunet.dicom.drawn import images_of
from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.file_choice import FileChoice
from cdm_nnunet.dicom.files import code_of, items_of, read_file, text_of
from cdm_nnunet.dicom.pairing import MODALITIES, PatientFiles, pair, with_damaged
from cdm_nnunet.dicom.persons import by_person, without_images
from cdm_nnunet.dicom.plan_choice import NOTHING_CHOSEN, Choice
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.errors import InputError
from cdm_nnunet.kept_rows import KeptRows

INDEX_FILE = "index.jsonl"  # in the folder of local files
_HEAD_BYTES = 2048
_LONG_KINDS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OD", b"OF", b"OL", b"OV", b"SV", b"UC", b"UR", b"UV")
_FIRST_GROUPS, _MAX_FIRST_BYTES = (0x0002, 0x0008), 1024  # of the first element, if there is no preamble
NEEDED = ("RTSTRUCT", "RTDOSE")  # with the CT, the files of a training case
_LABELS = {"RTSTRUCT": "StructureSetLabel", "RTPLAN": "RTPlanLabel", "RTDOSE": "DoseSummationType"}
_HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "ReferencedFrameOfReferenceSequence", "ReferencedStructureSetSequence"),
    *("StructureSetROISequence",),
    *("ReferencedRTPlanSequence", "DoseSummationType", "RTPlanLabel", "RTPlanDate", "RTPlanTime"),
    *("ApprovalStatus", "DoseType", "DoseUnits", "Rows", "StructureSetLabel", "SeriesDescription", *predicted.KEYWORDS),
)


@dataclass(frozen=True)
class FolderIndex:
    """All files of a folder.

    Attributes:
        folder: The folder.
        entries: Its DICOM files, in the order of their paths.
        unread: Files that are damaged or not DICOM, with the reason.
        damaged: Unread files that are DICOM.
    """

    folder: Path
    entries: tuple[FileEntry, ...]
    unread: Mapping[str, str]
    damaged: tuple[DamagedFile, ...] = ()

    @functools.cached_property
    def persons(self) -> dict[str, list[FileEntry]]:
        """Files by person, as in :func:`cdm_nnunet.dicom.persons.by_person`."""
        return by_person(self.entries)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on files that belong to no patient of :meth:`patients`."""
        return tuple(without_images(self.persons, MODALITIES))

    @property
    def plans(self) -> tuple[str, ...]:
        """Files of all plans, without duplicates."""
        return tuple({entry.sop_uid: entry.path for entry in self.entries if entry.modality == "RTPLAN"}.values())

    def patients(
        self,
        *,
        needed: Collection[str] = NEEDED,
        choice: Choice = NOTHING_CHOSEN,
        pseudonyms: Pseudonyms | None = None,
    ) -> tuple[PatientFiles, ...]:
        """Paired files of each patient, in the order of PatientID and of the plans' dates.

        If PatientID is empty, a patient is a study with the studies that it refers to.

        Args:
            needed: Modalities that a patient must have besides CT. Doses are ignored if not needed.
            choice: Choice among several plans, doses, structure sets and CT series.
            pseudonyms: Make the names; without a key by default.
        """
        pseudonyms = pseudonyms or Pseudonyms()
        owned = owners(self.persons)
        found: list[PatientFiles] = []
        for patient, own in self.persons.items():
            if not any(entry.modality in MODALITIES for entry in own):
                continue
            name = pseudonyms.patient(patient)
            try:
                entries = choice.files.get(name, FileChoice()).applied(own)
            except InputError as error:
                found.append(PatientFiles(patient, name, name, problems=(str(error),)))
                continue
            sure, perhaps = of_patient(patient, owned, self.damaged)
            cases = pair(patient, entries, needed, choice, pseudonyms)
            found += [with_damaged(files, sure, perhaps, needed) for files in cases]
        return tuple(found)


def index_folder(
    folder: Path, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> FolderIndex:
    """Read the headers of all files in a folder and its subfolders; links are followed.

    Args:
        folder: The folder.
        cache: File of headers, one per line: an interrupted run continues, and a later run reads only what has changed.
            It contains PatientID: keep it with the patients' data.
        progress: Called with the number of finished files and of all files.

    Raises:
        InputError: If there is no such folder or no DICOM file in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    index = index_files(sorted(_files(folder)), folder, cache, progress)
    if not index.entries:
        if not index.unread:
            raise InputError(f"{folder} has no files (those whose names begin with a dot are ignored)")
        raise InputError(
            f"no file in {folder} can be read as a DICOM object of a patient: {'; '.join(unread_lines(index.unread))}"
        )
    return index


def index_files(
    paths: Sequence[Path],
    folder: Path | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FolderIndex:
    """Read the headers of files, as :func:`index_folder` does.

    Args:
        paths: The files.
        folder: Their folder, for messages; their common folder by default.
        cache: As in :func:`index_folder`.
        progress: As in :func:`index_folder`.
    """
    folder = folder or Path(os.path.commonpath(paths))
    entries: list[FileEntry] = []
    unread: dict[str, str] = {}
    damaged: list[DamagedFile] = []
    with KeptRows(cache, {"headers": 7}) as kept:
        for done, path in enumerate(paths, 1):
            row = _kept_row(path, kept)
            if "error" in row:
                unread[str(path)] = row["error"]
                if "remains" in row:
                    damaged.append(DamagedFile(str(path), row["error"], **row["remains"]))
            else:
                several = {key: tuple(row[key]) for key in ("refers_to", "images")}
                entries.append(FileEntry(str(path), **{**row, **several}))
            if progress is not None:
                progress(done, len(paths))
    known = {file.path for file in damaged}
    damaged += [file for file in named_like_dicom(unread, entries) if file.path not in known]
    return FolderIndex(folder, tuple(entries), unread, tuple(damaged))


def _files(folder: Path) -> Iterator[Path]:
    """Files of a tree; links are followed, and each linked folder and file is listed once."""
    seen = set[str]()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _is_new(root, name, seen)]
        for name in names:
            path = Path(root) / name
            if name.startswith(".") or name == "DICOMDIR":
                continue
            if (path.is_file() or path.is_symlink()) and _is_new(root, name, seen):  # (a broken link is reported)
                yield path


def _is_new(root: str, name: str, seen: set[str]) -> bool:
    """Whether the target of a path is new."""
    place = os.path.realpath(os.path.join(root, name))
    new = place not in seen
    seen.add(place)
    return new


def _kept_row(path: Path, kept: KeptRows) -> Mapping[str, Any]:
    try:
        status = path.stat()
    except OSError as error:
        what = "is a link to a missing file" if path.is_symlink() else f"can't be read ({error.strerror})"
        return {"error": f"{path} {what}"}
    stamp = [status.st_size, status.st_mtime_ns]
    row = kept.get(str(path), stamp)
    if row is None:
        row = _read_row(path)
        kept.set(str(path), stamp, row)
    return row


def _looks_like_dicom(path: Path) -> bool:
    """Whether the first bytes can be those of a DICOM file, so that large files of other kinds are not parsed.

    With a preamble, ``DICM`` stands at byte 128; without one, the file begins with an element of a low group, and the
    next has a higher tag.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return True  # (reading it reports the reason)
    return head[128:132] == b"DICM" or any(_begins_with_elements(head, order) for order in ("little", "big"))


def _begins_with_elements(head: bytes, order: Literal["little", "big"]) -> bool:
    """Whether the first bytes of a file can be DICOM elements without a preamble."""

    def number(start: int, end: int) -> int:
        return int.from_bytes(head[start:end], order)

    is_explicit = head[4:6].isalpha()
    length = number(6, 8) if is_explicit else number(4, 8)
    if number(0, 2) not in _FIRST_GROUPS or not (is_explicit or length <= _MAX_FIRST_BYTES):
        return False
    second = 8 + length
    if (is_explicit and head[4:6] in _LONG_KINDS) or second + 4 > len(head):
        return True
    return (number(second, second + 2), number(second + 2, second + 4)) > (number(0, 2), number(2, 4))


def _read_row(path: Path) -> dict[str, Any]:
    """Fields of an entry without its path, or the reason why there are none."""
    looks_so = _looks_like_dicom(path)
    if not looks_so:
        error = f"{path} is not a DICOM file"
        return {"error": error, "remains": {}} if was_dicom(path, looks_so=False) else {"error": error}
    try:
        return {key: value for key, value in asdict(_entry(path)).items() if key != "path"}
    except InputError as error:
        return {"error": str(error), "remains": dict(what_remains(path))}
    except Exception as error:  # noqa: BLE001  # (one file must not prevent the reading of all others)
        message = f"{path} can't be read ({type(error).__name__}: {error}); export it again"
        return {"error": message, "remains": dict(what_remains(path))}


def _entry(path: Path) -> FileEntry:
    header = read_file(path, pixels=False, keywords=_HEADER)
    modality = text_of(header, "Modality", path)
    return FileEntry(
        str(path),
        modality,
        text_of(header, "PatientID", path, ""),
        text_of(header, "SOPInstanceUID", path),
        text_of(header, "StudyInstanceUID", path),
        text_of(header, "SeriesInstanceUID", path),
        _frame(header, modality, path),
        tuple(uid for uid in dict.fromkeys(_references(header, modality, path)) if uid),
        (code_of if modality == "RTDOSE" else text_of)(header, _LABELS.get(modality, "SeriesDescription"), path, ""),
        text_of(header, "RTPlanDate", path, "") + text_of(header, "RTPlanTime", path, ""),
        text_of(header, "SOPClassUID", path, ""),
        code_of(header, "ApprovalStatus", path, "") if modality == "RTPLAN" else "",
        code_of(header, "DoseType", path, "") if modality == "RTDOSE" else "",
        "Rows" in header or modality != "RTDOSE",
        modality == "RTDOSE" and predicted.is_prediction(header, path),
        images=tuple(_listed_images(header, path)),
        is_relative=modality == "RTDOSE" and code_of(header, "DoseUnits", path, "") == "RELATIVE",
    )


def _frame(header: Dataset, modality: str, path: Path) -> str:
    """Frame of reference: of the ROIs, otherwise of the file; empty if ROIs lie in several."""
    rois = items_of(header, "StructureSetROISequence", path) if modality == "RTSTRUCT" else ()
    of_rois = {text_of(roi, "ReferencedFrameOfReferenceUID", path, "") for roi in rois} - {""}
    if of_rois:
        return next(iter(of_rois)) if len(of_rois) == 1 else ""
    frames = items_of(header, "ReferencedFrameOfReferenceSequence", path)
    listed = [text_of(frame, "FrameOfReferenceUID", path, "") for frame in frames]
    return text_of(header, "FrameOfReferenceUID", path, "") or next(iter(listed), "")


def _references(header: Dataset, modality: str, path: Path) -> Iterator[str]:
    """Series of a structure set, structure set of a plan, plans of a dose; a plan may name earlier plans too."""
    keyword = {"RTPLAN": "ReferencedStructureSetSequence", "RTDOSE": "ReferencedRTPlanSequence"}.get(modality)
    for item in () if keyword is None else items_of(header, keyword, path):
        yield text_of(item, "ReferencedSOPInstanceUID", path, "")
    for series in _listed_series(header, path):
        yield text_of(series, "SeriesInstanceUID", path, "")


def _listed_series(header: Dataset, path: Path) -> Iterator[Dataset]:
    for frame in items_of(header, "ReferencedFrameOfReferenceSequence", path):
        for study in items_of(frame, "RTReferencedStudySequence", path):
            yield from items_of(study, "RTReferencedSeriesSequence", path)


def _listed_images(header: Dataset, path: Path) -> Iterator[str]:
    """CT images of the series that a structure set lists."""
    for series in _listed_series(header, path):
        yield from sorted(images_of(items_of(series, "ContourImageSequence", path), path)[0])
