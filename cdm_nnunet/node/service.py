"""Run a node: on the network until it is stopped, or once with a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced
from cdm_nnunet.node.intake import Intake
from cdm_nnunet.node.predicting import Load, load_model, node_pseudonyms
from cdm_nnunet.node.private import private_process
from cdm_nnunet.node.sending import NotDeliveredError, echo, refuse_without_network
from cdm_nnunet.node.settings import NodeSettings
from cdm_nnunet.node.steps import ModelUnusableError, Outcome, Steps, Tell
from cdm_nnunet.node.store import Queue, Study, StudyState, read_state

_POLL_S = 0.2
_AGAIN_S = 60.0
_PARTS = ("CT", "RTSTRUCT", "RTPLAN")


def run_node(settings: NodeSettings, tell: Tell, stop: threading.Event, load: Load | None = None) -> Outcome:
    """Listen, predict and send until the node is stopped.

    Args:
        settings: Settings of the node.
        tell: Writes a line to the log.
        stop: Ends the node when it is set.
        load: Loads the model before the first prediction; the model of the settings by default.

    Raises:
        InputError: If another node uses the queue, the address is taken, the model can't be loaded, or pynetdicom is
            missing.
    """
    refuse_without_network()
    from cdm_nnunet.node.receiving import listening

    if not settings.callers:
        raise InputError("the node has no callers: nobody may send to it")
    with _at_work(settings, tell, load) as steps:
        intake = Intake(steps.queue, settings.limits, steps.pseudonyms)

        def give_up(study: Study, reason: str) -> None:
            intake.close(study, StudyState(stage="failed", reason=reason))

        try:
            with listening(settings, intake, tell, give_up), _sending(steps, stop):
                tell(f"listening on {settings.host}:{settings.port} as {settings.ae_title}")
                while not stop.wait(_POLL_S):
                    for study in steps.queue.studies():
                        with _guarded(steps, study, stop):
                            steps.close_when_complete(study, intake)
                            steps.work_on(study)
        except KeyboardInterrupt:  # (may come at any moment)
            tell("stopped")
    return steps.outcome


def run_once(settings: NodeSettings, folder: Path, tell: Tell, load: Load | None = None) -> Outcome:
    """Predict the patients in a folder and those waiting in the queue, and send their doses.

    Args:
        settings: Settings of the node; it does not listen.
        folder: DICOM files, at any depth; they are copied.
        tell: As in :func:`run_node`.
        load: As in :func:`run_node`.

    Raises:
        InputError: If another node uses the queue, the model can't be loaded, or the folder has no DICOM files.
    """
    if not all(one.folder for one in settings.destinations.values()):
        refuse_without_network()
    with _at_work(settings, tell, load) as steps:
        _take_folder(steps, folder)
        while waiting := [study for study in steps.queue.studies() if read_state(study) is not None]:
            for study in waiting:
                steps.work_on(study)
                steps.send(study)
            if all((state := read_state(study)) and state.stage == "predicted" for study in waiting):
                time.sleep(_POLL_S)  # (a destination can't be reached)
    return steps.outcome


def check_node(settings: NodeSettings, tell: Tell, load: Load | None = None) -> list[str]:
    """Load the model and check that every destination answers.

    Args:
        settings: Settings of the node.
        tell: As in :func:`run_node`.
        load: As in :func:`run_node`.

    Returns:
        Faults of destinations.

    Raises:
        InputError: If the model can't be loaded.
    """
    refuse_without_network()
    (load or (lambda: load_model(settings)))()
    tell("the model is intact")
    faults = []
    for name, destination in settings.destinations.items():
        try:
            echo(destination, settings.ae_title, settings.tls)
            tell(f"{name} answers")
        except NotDeliveredError as error:
            faults.append(f"{name}: {error}")
    return faults


@contextmanager
def _at_work(settings: NodeSettings, tell: Tell, load: Load | None) -> Iterator[Steps]:
    queue = Queue(Path(settings.queue))
    with private_process(queue.incoming), queue.held():
        yield Steps(settings, queue, load or (lambda: load_model(settings)), tell, node_pseudonyms(settings))


def _take_folder(steps: Steps, folder: Path) -> None:
    index = index_folder(folder)
    for line in unread_lines(index.unread):
        steps.tell(f"not read: {line}")
    taken = 0
    for person, entries in index.persons.items():
        files = [Path(entry.path) for entry in entries if entry.modality in _PARTS]
        if files:
            study = steps.queue.closed_study(steps.pseudonyms.patient(person), files)
            steps.tell(f"{study.name}: {counted(len(study.objects), 'object')}")
            taken += 1
    if not taken:
        raise InputError(f"{folder} has no {', '.join(_PARTS)} of any patient")


@contextmanager
def _guarded(steps: Steps, study: Study, stop: threading.Event) -> Iterator[None]:
    """Log an unforeseen error, such as a full disk, and try again; the node continues."""
    try:
        with fenced(study.name, steps.queue.root / "errors.log", passing=(ModelUnusableError,)):
            yield
    except ModelUnusableError:
        raise
    except (InputError, OSError) as error:
        steps.tell_of(study, f"not done, next try in {_AGAIN_S:.0f} s: {error}")
        stop.wait(_AGAIN_S)


@contextmanager
def _sending(steps: Steps, stop: threading.Event) -> Iterator[None]:
    """Send in parallel to the predictions, so that a slow destination does not delay them."""

    def work() -> None:
        while not stop.wait(_POLL_S):
            for study in steps.queue.studies():
                with _guarded(steps, study, stop):
                    steps.send(study)

    thread = threading.Thread(target=work, name="sending", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)
