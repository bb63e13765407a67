"""What is in a folder of DICOM files: indexed by UID, paired through references, whatever the files are called."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import items_of, read_file, text_of
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json

MODALITIES = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")
_HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "ReferencedFrameOfReferenceSequence", "ReferencedStructureSetSequence"),
    *("ReferencedRTPlanSequence", "DoseSummationType"),
)
_CACHE_VERSION = 1
_SAVED_EVERY = 2000


@dataclass(frozen=True)
class FileEntry:
    """What the header of a file says.

    Attributes:
        path: The file.
        modality: CT, RTSTRUCT, RTPLAN, RTDOSE or another.
        patient: PatientID.
        sop_uid: SOPInstanceUID.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_uid: FrameOfReferenceUID; empty where it is not given.
        refers_to: UIDs: series of a structure set, structure set of a plan, plan of a dose.
    """

    path: str
    modality: str
    patient: str
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_uid: str
    refers_to: tuple[str, ...]


@dataclass(frozen=True)
class PatientFiles:
    """The files of a patient that belong together.

    Attributes:
        patient: PatientID; it must not leave this machine.
        ct: Images of the series that was drawn on.
        structures: Structure set.
        plan: Plan, or None.
        doses: Dose of the plan, or of each beam.
        problems: Why the patient can't be converted; empty where nothing is wrong.
        notes: What was left aside.
    """

    patient: str
    ct: tuple[Path, ...] = ()
    structures: Path | None = None
    plan: Path | None = None
    doses: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def case_name(self) -> str:
        """A name that says nothing about the patient and stays the same: from a hash of PatientID."""
        return "case_" + hashlib.sha256(self.patient.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class FolderIndex:
    """All files of a folder.

    Attributes:
        folder: The folder.
        entries: Its DICOM files, in the order of their paths.
        unread: Files that are no DICOM files or damaged, with the reason.
    """

    folder: Path
    entries: tuple[FileEntry, ...]
    unread: Mapping[str, str]

    def patients(self, *, with_dose: bool = True) -> tuple[PatientFiles, ...]:
        """The files of each patient, paired; in the order of PatientID.

        Args:
            with_dose: Pair doses too, and call a patient without one a problem. Without it doses are left aside.
        """
        ids = sorted({entry.patient for entry in self.entries if entry.modality in MODALITIES})
        return tuple(
            _pair(patient, [entry for entry in self.entries if entry.patient == patient], with_dose) for patient in ids
        )


def index_folder(
    folder: Path, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> FolderIndex:
    """Read the headers of all files in a folder and its subfolders; links are not followed.

    Args:
        folder: Any tree.
        cache: JSON file in which headers are kept: an interrupted run goes on, and a later one reads what has changed.
            It holds PatientID: keep it where the patients' data are.
        progress: Called with the number of files done and in all.

    Raises:
        InputError: If there is no such folder or no DICOM file in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    paths = sorted(_files(folder))
    known = _read_cache(cache)
    kept: dict[str, dict[str, object]] = {}
    entries, unread = [], {}
    for done, path in enumerate(paths, 1):
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        row = known.get(str(path))
        if row is None or row["stamp"] != stamp:
            row = {"stamp": stamp, **_read_row(path)}
        kept[str(path)] = row
        if "error" in row:
            unread[str(path)] = str(row["error"])
        else:
            fields = dict(row["entry"])  # type: ignore[call-overload]  # (a JSON object)
            entries.append(FileEntry(**{**fields, "refers_to": tuple(fields["refers_to"])}))
        if cache is not None and done % _SAVED_EVERY == 0:
            write_json(cache, {"version": _CACHE_VERSION, "files": {**known, **kept}})
        if progress is not None:
            progress(done, len(paths))
    if cache is not None:
        write_json(cache, {"version": _CACHE_VERSION, "files": kept})
    if not entries:
        raise InputError(f"{folder} has no DICOM file among its {len(paths)} files")
    return FolderIndex(folder, tuple(entries), unread)


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in names:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink() and not name.startswith(".") and name != "DICOMDIR":
                yield path


def _read_row(path: Path) -> dict[str, object]:
    try:
        return {"entry": asdict(_entry(path))}
    except InputError as error:
        return {"error": str(error)}


def _entry(path: Path) -> FileEntry:
    header = read_file(path, pixels=False, keywords=_HEADER)
    return FileEntry(
        str(path),
        text_of(header, "Modality", path),
        text_of(header, "PatientID", path),
        text_of(header, "SOPInstanceUID", path),
        text_of(header, "StudyInstanceUID", path),
        text_of(header, "SeriesInstanceUID", path),
        text_of(header, "FrameOfReferenceUID", path, "") or next(_frames(header, path), ""),
        tuple(dict.fromkeys(_references(header, path))),
    )


def _frames(header: Dataset, path: Path) -> Iterator[str]:
    for frame in items_of(header, "ReferencedFrameOfReferenceSequence", path):
        yield text_of(frame, "FrameOfReferenceUID", path, "")


def _references(header: Dataset, path: Path) -> Iterator[str]:
    for keyword in ("ReferencedStructureSetSequence", "ReferencedRTPlanSequence"):
        for item in items_of(header, keyword, path):
            yield text_of(item, "ReferencedSOPInstanceUID", path)
    for frame in items_of(header, "ReferencedFrameOfReferenceSequence", path):
        for study in items_of(frame, "RTReferencedStudySequence", path):
            for series in items_of(study, "RTReferencedSeriesSequence", path):
                yield text_of(series, "SeriesInstanceUID", path)


def _read_cache(cache: Path | None) -> dict[str, dict[str, object]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
        files: dict[str, dict[str, object]] = content["files"] if content.get("version") == _CACHE_VERSION else {}
        return files
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return {}


def _pair(patient: str, entries: Sequence[FileEntry], with_dose: bool) -> PatientFiles:
    """Follow the references from the plan: dose, structure set, CT; where one is missing, the frame of reference."""
    problems: list[str] = []
    notes: list[str] = []
    entries = _without_copies(entries, problems, notes)
    kinds = {kind: [entry for entry in entries if entry.modality == kind] for kind in MODALITIES}
    others = sorted({entry.modality for entry in entries} - set(MODALITIES))
    if others:
        notes.append(f"left aside: {', '.join(others)}")
    found = PatientFiles(patient)
    if not with_dose:
        kinds["RTDOSE"] = []
    if with_dose and len(kinds["RTPLAN"]) > 1:
        dosed = {uid for dose in kinds["RTDOSE"] for uid in dose.refers_to}
        kinds["RTPLAN"] = [plan for plan in kinds["RTPLAN"] if plan.sop_uid in dosed]
    if len(kinds["RTPLAN"]) > 1:
        what = "plans with a dose" if with_dose else "plans"
        problems.append(f"{len(kinds['RTPLAN'])} {what}: ambiguous, keep one")
    plan = kinds["RTPLAN"][0] if kinds["RTPLAN"] else None
    if plan is None:
        notes.append("no plan (RTPLAN): prescriptions must come from the mapping or the template")
    doses = kinds["RTDOSE"]
    if plan is not None:
        doses = [dose for dose in doses if plan.sop_uid in dose.refers_to or not dose.refers_to]
        if kinds["RTDOSE"] and not doses:
            problems.append("no dose (RTDOSE) refers to the plan")
    if with_dose and not kinds["RTDOSE"]:
        problems.append("no dose (RTDOSE)")
    structures = _structures(kinds["RTSTRUCT"], plan, doses, problems)
    ct = _ct(kinds["CT"], structures, problems, notes)
    frames = {entry.frame_uid for entry in (*ct[:1], *([structures] if structures else []), *doses) if entry.frame_uid}
    if len(frames) > 1:
        problems.append(f"CT, structure set and dose lie in {len(frames)} different frames of reference")
    return replace(
        found,
        ct=tuple(Path(entry.path) for entry in ct),
        structures=None if structures is None else Path(structures.path),
        plan=None if plan is None else Path(plan.path),
        doses=tuple(Path(entry.path) for entry in doses),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _without_copies(entries: Sequence[FileEntry], problems: list[str], notes: list[str]) -> list[FileEntry]:
    """One file for each SOP instance; copies that are equal byte by byte are dropped, others are a problem."""
    first: dict[str, FileEntry] = {}
    copies = 0
    for entry in entries:
        other = first.setdefault(entry.sop_uid, entry)
        if other is entry:
            continue
        if Path(other.path).read_bytes() == Path(entry.path).read_bytes():
            copies += 1
        else:
            problems.append(f"{entry.path} and {other.path} have the same SOPInstanceUID but differ; remove one")
    if copies:
        notes.append(f"{copies} copies of files left aside")
    return list(first.values())


def _structures(
    found: Sequence[FileEntry], plan: FileEntry | None, doses: Sequence[FileEntry], problems: list[str]
) -> FileEntry | None:
    named = [entry for entry in found if plan is not None and entry.sop_uid in plan.refers_to]
    if not named and plan is not None and plan.refers_to and found:
        problems.append("the structure set that the plan refers to is not in the folder")
        return None
    candidates = named or _same_frame(found, doses)
    if len(candidates) == 1:
        return candidates[0]
    what = "no structure set (RTSTRUCT)" if not candidates else f"{len(candidates)} structure sets: ambiguous, keep one"
    problems.append(what)
    return None


def _ct(
    found: Sequence[FileEntry], structures: FileEntry | None, problems: list[str], notes: list[str]
) -> list[FileEntry]:
    named = [entry for entry in found if structures is not None and entry.series_uid in structures.refers_to]
    if not named and structures is not None and structures.refers_to and found:
        problems.append("the CT that the structure set was drawn on is not in the folder")
        return []
    candidates = named or _same_frame(found, [structures] if structures else [])
    series = sorted({entry.series_uid for entry in candidates})
    if len(series) != 1:
        problems.append("no CT" if not series else f"{len(series)} CT series: ambiguous, keep one")
        return []
    others = len({entry.series_uid for entry in found}) - 1
    if others:
        notes.append(f"{others} other CT series left aside")
    return candidates


def _same_frame(found: Sequence[FileEntry], anchors: Iterable[FileEntry]) -> list[FileEntry]:
    frames = {entry.frame_uid for entry in anchors if entry.frame_uid}
    return [entry for entry in found if not frames or not entry.frame_uid or entry.frame_uid in frames]
