"""The queue on disk: studies with their stages, the quarantine, and the record of what was sent.

    queue/incoming/             temporary files; emptied at every start
    queue/studies/NAME/files/   the objects of a study; each has the SHA-256 of its data set as its name
    queue/studies/NAME/state.json   its stage; a study without this file still accepts objects
    queue/studies/NAME/dose.dcm     its RTDOSE
    queue/quarantine/NAME/      a study that failed, with reason.txt
    queue/sent/ID.json          deliveries of one RTDOSE; kept after the study is removed

Every file is written under a temporary name, flushed to disk and renamed, so that a process may end at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cdm_nnunet.documents import plain, read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import flush_file, flush_folder, locked, write_json, write_text

Stage = Literal["closed", "predicted", "done", "failed"]
_META_START, _META_LENGTH = 144, slice(140, 144)  # of a file: after the element with the length of the header
_MAGIC, _GROUP_LENGTH = slice(128, 132), bytes.fromhex("02000000")


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """State of a study.

    Attributes:
        stage: ``closed`` (accepts no more objects), ``predicted`` (has its RTDOSE), ``done`` (sent) or ``failed``.
        begun: Number of started predictions.
        dose_uid: SOPInstanceUID of its RTDOSE; empty before it is predicted.
        dose_sha256: SHA-256 of its RTDOSE file.
        reason: Why it failed.
    """

    stage: Stage
    begun: int = 0
    dose_uid: str = ""
    dose_sha256: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Delivery of an RTDOSE to one destination.

    Attributes:
        state: ``sending`` from the first try, ``sent`` once the destination has confirmed it.
        tries: Number of tries.
        at: Time of the last change, in seconds since 1970.
    """

    state: Literal["sending", "sent"]
    tries: int
    at: float


@dataclass(frozen=True)
class Study:
    """A study in the queue.

    Attributes:
        folder: The folder; its name holds a hash of the patient and the time of the first object.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the study, for the log."""
        return self.folder.name

    @property
    def objects(self) -> list[Path]:
        """Its objects, in the order of their contents."""
        with contextlib.suppress(FileNotFoundError):
            return sorted((self.folder / "files").iterdir())
        return []

    @property
    def dose(self) -> Path:
        """Path of its RTDOSE."""
        return self.folder / "dose.dcm"

    @property
    def inputs_digest(self) -> str:
        """SHA-256 over the contents of all objects, independent of their order."""
        return hashlib.sha256(" ".join(path.name for path in self.objects).encode()).hexdigest()

    def state(self) -> StudyState | None:
        """Its state; None while it accepts objects.

        Raises:
            InputError: If the file is damaged.
        """
        path = self.folder / "state.json"
        return read_json(path, StudyState) if path.exists() else None

    def set(self, state: StudyState) -> StudyState:
        """Write its state."""
        write_json(self.folder / "state.json", plain(state), private=True)
        return state


@dataclass(frozen=True)
class Queue:
    """The folder of a node.

    Attributes:
        root: The folder.
    """

    root: Path
    _parts: tuple[str, ...] = field(default=("incoming", "studies", "quarantine", "sent"), repr=False)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folders, lock the queue, and remove files that a killed process left incomplete.

        Raises:
            InputError: If another process uses the queue.
        """
        for folder in (self.root, *(self.root / part for part in self._parts)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.root / "lock", f"another node works on {self.root}; stop it first"):
            for left_over in self.incoming.iterdir():
                remove(left_over)
            for gone in (self.root / "studies").glob(".*"):
                remove(gone)
            yield

    @property
    def incoming(self) -> Path:
        """Folder of temporary files."""
        return self.root / "incoming"

    def studies(self) -> list[Study]:
        """All unfinished studies, the oldest first."""
        found = [Study(path) for path in (self.root / "studies").iterdir() if not path.name.startswith(".")]
        return sorted(found, key=lambda study: (study.name.rpartition("_")[2], study.name))

    def new_study(self, patient: str) -> Study:
        """Make the folder of a study that accepts objects.

        Args:
            patient: Name of the patient.
        """
        study = Study(self.root / "studies" / self._new_name(patient))
        (study.folder / "files").mkdir(mode=0o700, parents=True)
        return study

    def closed_study(self, patient: str, files: Sequence[Path]) -> Study:
        """Make a closed study from copies of some files; it is complete or absent.

        Args:
            patient: Name of the patient.
            files: DICOM files.
        """
        study = Study(self.incoming / self._new_name(patient))
        (study.folder / "files").mkdir(mode=0o700, parents=True)
        for path in files:
            copy = Path(shutil.copyfile(path, study.folder / "copy"))
            flush_file(copy)
            place_object(copy, study, f"{data_set_digest(copy)}.dcm")
        study.set(StudyState(stage="closed"))
        place = self.root / "studies" / study.name
        os.rename(study.folder, place)
        flush_folder(place.parent)
        return Study(place)

    def _new_name(self, patient: str) -> str:
        while True:
            now = time.time()
            name = f"{patient}_{time.strftime('%Y%m%dT%H%M%S', time.localtime(now))}{int(now % 1 * 1000):03d}"
            if not any((self.root / part / name).exists() for part in self._parts):
                return name
            time.sleep(0.001)

    def quarantine(self, study: Study, reason: str) -> Path:
        """Move a study to quarantine, with the reason in one line.

        Returns:
            Its new folder.
        """
        line = " ".join(reason.split())
        known = read_state(study) or StudyState(stage="failed")
        study.set(replace(known, stage="failed", begun=0, reason=line))
        write_text(study.folder / "reason.txt", f"{line}\n", private=True)
        place = self.root / "quarantine" / study.name
        os.rename(study.folder, place)
        flush_folder(place.parent)
        return place

    def retry(self, name: str) -> Study:
        """Return a study from quarantine as a closed one; an existing dose is sent, not predicted again.

        A running node continues with it.

        Raises:
            InputError: If there is no study of this name.
        """
        study = Study(self.root / "quarantine" / name)
        if Path(name).name != name or not (study.folder / "files").is_dir():
            raise InputError(f"{self.root / 'quarantine'} has no study '{name}'")
        known = read_state(study)
        has_dose = known is not None and known.dose_uid and study.dose.is_file()
        study.set(replace(known, stage="predicted", reason="") if known and has_dose else StudyState(stage="closed"))
        (study.folder / "reason.txt").unlink(missing_ok=True)
        place = self.root / "studies" / name
        os.rename(study.folder, place)
        flush_folder(place.parent)
        return Study(place)

    def remove(self, study: Study) -> None:
        """Remove a finished study."""
        gone = study.folder.with_name(f".{study.name}")
        os.rename(study.folder, gone)
        remove(gone)

    def deliveries(self, dose_uid: str) -> dict[str, Delivery]:
        """Deliveries of an RTDOSE by destination.

        Raises:
            InputError: If the record is damaged.
        """
        path = self._record(dose_uid)
        return read_json(path, dict[str, Delivery]) if path.exists() else {}

    def is_sent(self, dose_uid: str, destinations: Mapping[str, object]) -> bool:
        """Whether an RTDOSE was sent to all destinations."""
        known = self.deliveries(dose_uid)
        return all(name in known and known[name].state == "sent" for name in destinations)

    def note_delivery(self, dose_uid: str, destination: str, state: Literal["sending", "sent"]) -> Delivery:
        """Record that an RTDOSE is about to be sent, or was sent."""
        known = self.deliveries(dose_uid)
        tries = known[destination].tries if destination in known else 0
        known[destination] = Delivery(state=state, tries=tries + (state == "sending"), at=time.time())
        write_json(self._record(dose_uid), {name: plain(one) for name, one in known.items()}, private=True)
        return known[destination]

    def _record(self, dose_uid: str) -> Path:
        return self.root / "sent" / f"{hashlib.sha256(dose_uid.encode()).hexdigest()[:32]}.json"


def data_set_digest(path: Path) -> str:
    """SHA-256 of the data set in a DICOM file, without the file header, which depends on the writer."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(_META_START)
        has_header = head[_MAGIC] == b"DICM" and head[132:136] == _GROUP_LENGTH
        file.seek(_META_START + int.from_bytes(head[_META_LENGTH], "little") if has_header else 0)
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_object(temporary: Path, study: Study, name: str) -> Path:
    """Move a file on disk into a study; it is complete or absent.

    Args:
        temporary: The file, on the same disk.
        study: The study.
        name: Its name in the study.
    """
    place = study.folder / "files" / name
    os.replace(temporary, place)
    flush_folder(place.parent)
    return place


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_state(study: Study) -> StudyState | None:
    """The state of a study: failed if its file is damaged, None if the study was removed."""
    try:
        return study.state()
    except InputError as error:
        return StudyState(stage="failed", reason=str(error)) if study.folder.exists() else None
