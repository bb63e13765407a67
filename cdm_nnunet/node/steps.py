"""The steps of a node for a study; each ends with a state on disk, from which the next process continues."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, read_mapping
from cdm_nnunet.dicom.dose_uids import set_dose_uids
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.files import replacing
from cdm_nnunet.node.completeness import Missing, missing_in
from cdm_nnunet.node.intake import Intake
from cdm_nnunet.node.predicting import Load, PatientPredictor, PredictedDose, dose_uid
from cdm_nnunet.node.private import identity_of, without_identity
from cdm_nnunet.node.sending import NotDeliveredError, deliver
from cdm_nnunet.node.settings import NodeSettings
from cdm_nnunet.node.store import Queue, Study, StudyState, file_digest, read_state, remove

_MOST_BEGUN = 3
_LONGEST_WAIT_S = 3600.0

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """Results of studies.

    Attributes:
        sent: Names of studies whose dose was sent to all destinations.
        failed: Reasons by name of the studies in quarantine, without identity.
    """

    sent: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class ModelUnusableError(InputError):
    """The model can't be loaded: the node ends; no study is the cause."""


class Steps:
    """The steps of a node.

    Args:
        settings: Its settings.
        queue: Its queue, which this process holds.
        load: Loads the model before the first prediction.
        tell: Writes a line to the log.
        pseudonyms: Make the names of patients.
    """

    def __init__(self, settings: NodeSettings, queue: Queue, load: Load, tell: Tell, pseudonyms: Pseudonyms) -> None:
        self.settings, self.queue, self.tell, self.pseudonyms = settings, queue, tell, pseudonyms
        self.outcome = Outcome()
        mapping = DicomMapping({}) if settings.mapping is None else read_mapping(Path(settings.mapping))
        self._choice = replace(mapping, match_geometry=settings.match_geometry).choice
        self._load = load
        self._model: PatientPredictor | None = None
        self._looked: dict[str, tuple[int, Missing]] = {}
        self._next_try: dict[tuple[str, str], float] = {}  # by study and destination
        self._identity: dict[str, tuple[int, frozenset[str]]] = {}
        self._tries: dict[tuple[str, str], int] = {}

    def close_when_complete(self, study: Study, intake: Intake) -> None:
        """Close a study when it is complete and no object has arrived for a while."""
        quiet_s = intake.quiet_for(study)
        if quiet_s is None or quiet_s < self.settings.quiet_s:
            return
        n_objects = len(study.objects)
        if self._looked.get(study.name, (0,))[0] != n_objects:
            missing = missing_in(study, self.settings.needed, self._choice, self.pseudonyms)
            self._looked[study.name] = n_objects, missing
            self.tell_of(study, counted(n_objects, "object") + (f"; waits for more: {missing}" if missing else ""))
        missing = self._looked[study.name][1]
        if missing and quiet_s < self.settings.incomplete_after_s:
            return
        state = StudyState(stage="failed", reason=missing.parts) if missing.parts else StudyState(stage="closed")
        if intake.close(study, state, n_objects):
            del self._looked[study.name]

    def work_on(self, study: Study) -> None:
        """Predict a closed study, and move a failed one to quarantine; do nothing for others.

        Raises:
            ModelUnusableError: If the model can't be loaded.
        """
        state = read_state(study)
        if state is None:
            return
        if state.stage == "failed":
            self._put_aside(study, state.reason)
        elif state.stage == "closed":
            if state.begun >= _MOST_BEGUN:
                self._put_aside(
                    study, f"its prediction was started {state.begun} times and ended the program each time"
                )
            else:
                self._predict(study, state)

    def send(self, study: Study) -> None:
        """Send the dose of a predicted study, and remove the study when all destinations have it."""
        state = read_state(study)
        if state is None or state.stage not in ("predicted", "done"):
            return
        if state.stage == "predicted":
            try:
                self._send_to_all(study, state)
            except InputError as error:
                self._put_aside(study, str(error))
                return
            if not self.queue.is_sent(state.dose_uid, self.settings.destinations):
                return
            study.set(replace(state, stage="done"))
        self.queue.remove(study)
        self.outcome.sent.append(study.name)
        self._identity.pop(study.name, None)

    def _predict(self, study: Study, state: StudyState) -> None:
        model = self._loaded()
        uid = dose_uid(study.inputs_digest, model.identity)
        if self.queue.is_sent(uid, self.settings.destinations):
            self.tell_of(study, "the same objects were predicted and sent before; not sent again")
            study.set(replace(state, stage="done", dose_uid=uid))
            return
        study.set(replace(state, begun=state.begun + 1))
        try:
            with fenced(study.name, self.queue.root / "errors.log"):
                self._predict_into(study, uid, model)
        except InputError as error:
            self._put_aside(study, str(error))
        except (OSError, KeyboardInterrupt, SystemExit):  # (a full disk is not caught here: not the study's fault)
            study.set(state)
            raise

    def _predict_into(self, study: Study, uid: str, model: PatientPredictor) -> None:
        work = study.folder / "predicting"
        remove(work)
        done = model.predict_patient(study.folder / "files", work)
        series_uid = dose_uid(study.inputs_digest, model.identity, "series")
        set_dose_uids(done.file, study.dose, uid, series_uid)
        links = self._keep_reports(study, done)
        remove(work)
        study.set(StudyState(stage="predicted", dose_uid=uid, dose_sha256=file_digest(study.dose)))
        notes = f"; {'; '.join(done.notes)}" if done.notes else ""
        self.tell_of(study, f"predicted, up to {done.maximum_gy:.2f} Gy; not for treatment{notes}")
        for link in links:
            self.tell(f"{study.name}: {link}")

    def _keep_reports(self, study: Study, done: PredictedDose) -> list[Path]:
        """Move record and report, if present, to their folder."""
        if self.settings.reports is None:
            return []
        kept = []
        for path in done.beside:
            place = Path(self.settings.reports) / f"{study.name}{''.join(path.suffixes)}"
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(place) as partial:
                shutil.copyfile(path, partial)
            kept.append(place)
        return kept

    def _loaded(self) -> PatientPredictor:
        if self._model is None:
            try:
                self._model = self._load()
            except InputError as error:
                raise ModelUnusableError(str(error)) from error
        return self._model

    def _send_to_all(self, study: Study, state: StudyState) -> None:
        if file_digest(study.dose) != state.dose_sha256:
            raise InputError("the RTDOSE in the queue is not the one that was predicted; is the disk intact?")
        failed = []
        for name in self.settings.destinations:
            known = self.queue.deliveries(state.dose_uid).get(name)
            if known is not None and known.state == "sent":
                continue
            if time.monotonic() < self._next_try.get((study.name, name), 0.0):
                continue
            reason = self._try(study, state, name)
            tries = self._tries[study.name, name] = self._tries.get((study.name, name), 0) + 1
            if reason and tries >= self.settings.retries.tries:
                failed.append(f"'{name}' did not accept it in {tries} tries: {reason}")
            elif reason:
                wait_s = min(self.settings.retries.wait_s * 2 ** min(tries - 1, 20), _LONGEST_WAIT_S)
                self._next_try[study.name, name] = time.monotonic() + wait_s
                self.tell_of(study, f"not sent to {name}, next try in {wait_s:.0f} s: {reason}")
        if failed:
            raise InputError("; ".join(failed))

    def _try(self, study: Study, state: StudyState, name: str) -> str:
        """Send to one destination; returns the reason if that failed."""
        settings = self.settings
        self.queue.note_delivery(state.dose_uid, name, "sending")
        file_name = f"{study.name.rpartition('_')[0]}_{state.dose_uid[-8:]}"
        try:
            with fenced(f"{study.name} to {name}", self.queue.root / "errors.log", passing=(NotDeliveredError,)):
                warning = deliver(study.dose, file_name, settings.destinations[name], settings.ae_title, settings.tls)
        except (NotDeliveredError, InputError, OSError) as error:
            return str(error)
        self.queue.note_delivery(state.dose_uid, name, "sent")
        self.tell_of(study, f"sent to {name}" + (f"; {warning}" if warning else ""))
        return ""

    def _put_aside(self, study: Study, reason: str) -> None:
        line = without_identity(reason.replace(str(study.folder), study.name), self._identity_of(study))
        self.queue.quarantine(study, reason)
        self.outcome.failed[study.name] = line
        self._identity.pop(study.name, None)
        self.tell(f"{study.name}: in quarantine: {line}")

    def tell_of(self, study: Study, text: str) -> None:
        """Log a line about a study, without anything that identifies the patient."""
        self.tell(f"{study.name}: {without_identity(text, self._identity_of(study))}")

    def _identity_of(self, study: Study) -> frozenset[str]:
        objects = study.objects
        known = self._identity.get(study.name)
        if known is None or known[0] != len(objects):
            known = self._identity[study.name] = len(objects), identity_of(objects)
        return known[1]
