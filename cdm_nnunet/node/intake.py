"""Received objects are collected as studies, one per patient; a study is open until it is closed for prediction."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cdm_nnunet.dicom.files import read_file, text_of
from cdm_nnunet.dicom.persons import STUDY
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import flush_file
from cdm_nnunet.node.settings import Limits
from cdm_nnunet.node.store import Queue, Study, StudyState, data_set_digest, place_object

_MB = 2**20
_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID")


class Sender(Protocol):
    """An association; it may send objects while it is alive."""

    def is_alive(self) -> bool:
        """Whether the association is still open."""


class RefusedObjectError(InputError):
    """An object that was refused.

    Attributes:
        status: Status that the sender receives (C-STORE).
        study: The study that the object would make too large; None if that is not the reason.
    """

    def __init__(self, message: str, status: int, study: Study | None = None) -> None:
        super().__init__(message)
        self.status, self.study = status, study


@dataclass
class _Open:
    """A study that accepts objects."""

    study: Study
    sizes: dict[str, int]
    changed: float
    senders: list[Sender] = field(default_factory=list)


@dataclass(frozen=True)
class ObjectHeader:
    """Identity of the object in a file.

    Attributes:
        sop_class: SOPClassUID.
        sop_uid: SOPInstanceUID.
        person: PatientID; ``study UID`` if PatientID is empty.
    """

    sop_class: str
    sop_uid: str
    person: str


def header_of(path: Path) -> ObjectHeader:
    """Read the identity of the object in a file.

    Raises:
        InputError: If that can't be read.
    """
    header = read_file(path, pixels=False, keywords=_KEYWORDS)
    sop_class, sop_uid = (text_of(header, keyword, path) for keyword in _KEYWORDS[:2])
    patient = text_of(header, "PatientID", path, "")
    return ObjectHeader(sop_class, sop_uid, patient or STUDY + text_of(header, "StudyInstanceUID", path))


class Intake:
    """Adds objects to the open studies of their patients.

    Args:
        queue: Folder of the studies; those that an earlier process left open still accept objects.
        limits: Limits of a study.
        pseudonyms: Make the names.
        clock: Returns monotonic time in seconds.
    """

    def __init__(
        self, queue: Queue, limits: Limits, pseudonyms: Pseudonyms, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue, self.limits, self.pseudonyms, self.clock = queue, limits, pseudonyms, clock
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        for study in queue.studies():
            if not (study.folder / "state.json").exists():
                sizes = {path.name: path.stat().st_size for path in study.objects}
                self._open[study.name.rpartition("_")[0]] = _Open(study, sizes, clock())

    def take(self, temporary: Path, header: ObjectHeader, sender: Sender) -> Study:
        """Add a file to a study; it is on disk when this returns.

        Args:
            temporary: The file, on the disk of the queue; it is moved.
            header: Identity of the object.
            sender: Who sent it.

        Raises:
            RefusedObjectError: If the disk or the study is full.
        """
        size, patient = temporary.stat().st_size, self.pseudonyms.patient(header.person)
        if shutil.disk_usage(self.queue.root).free < self.limits.free_disk_mb * _MB + size:
            raise RefusedObjectError("the disk of the queue is full", 0xA700)
        flush_file(temporary)
        name = f"{data_set_digest(temporary)}.dcm"
        with self._lock:
            one = self._open.get(patient)
            if one is None:
                one = self._open[patient] = _Open(self.queue.new_study(patient), {}, self.clock())
            one.senders = [known for known in one.senders if known.is_alive() and known is not sender] + [sender]
            self._refuse_more(one, name, size)
            place_object(temporary, one.study, name)
            one.sizes[name], one.changed = size, self.clock()
        return one.study

    def _refuse_more(self, one: _Open, name: str, size: int) -> None:
        sizes = {**one.sizes, name: size}
        if len(sizes) > self.limits.objects:
            raise RefusedObjectError(f"a study of more than {self.limits.objects} objects", 0xA700, one.study)
        if sum(sizes.values()) > self.limits.study_mb * _MB:
            raise RefusedObjectError(f"a study of more than {self.limits.study_mb} MB", 0xA700, one.study)

    def quiet_for(self, study: Study) -> float | None:
        """Seconds since the last object of an open study; None while one of its associations is open."""
        with self._lock:
            one = self._find(study)
            if one is None or any(sender.is_alive() for sender in one.senders):
                return None
            return self.clock() - one.changed

    def close(self, study: Study, state: StudyState, n_objects: int | None = None) -> bool:
        """Close a study: it accepts no more objects.

        Args:
            study: The study.
            state: Its new state.
            n_objects: Number of objects when it was checked; None skips the comparison.

        Returns:
            Whether it was closed; False if more objects have arrived.
        """
        with self._lock:
            one = self._find(study)
            if one is None or (n_objects is not None and len(one.sizes) != n_objects):
                return False
            study.set(state)
            self._open = {patient: other for patient, other in self._open.items() if other is not one}
            return True

    def _find(self, study: Study) -> _Open | None:
        return next((one for one in self._open.values() if one.study == study), None)
