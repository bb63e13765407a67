"""A study from its file to the comparison of its models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.folders import configuration_in, find_dataset
from cdm_nnunet.parallel import active_engine, usable_cores
from cdm_nnunet.studies.definition import Member, StudyFile, members_of
from cdm_nnunet.studies.jobs import RESULT_FILE, Job, Layout, Place, jobs_of
from cdm_nnunet.studies.running import Told, run_jobs
from cdm_nnunet.studies.status import Row, status_rows

_LOCK = ".study_lock"
_CORES_A_TRAINING = 4


@dataclass(frozen=True)
class Study:
    """A study with its layout, models and jobs.

    Attributes:
        layout: Folders of the study.
        members: The models, the baseline's first.
        jobs: All trainings, and the scoring of each model.
    """

    layout: Layout
    members: tuple[Member, ...]
    jobs: tuple[Job, ...]

    @classmethod
    def of(cls, study: StudyFile, out: Path) -> Study:
        """Prepare a study.

        Raises:
            InputError: If the data set is missing or not planned, a setting is unknown, or a training started with
                other settings.
        """
        raw = find_dataset(study.dataset)
        plans = find_dataset(study.dataset, "nnUNet_preprocessed") / f"{study.plans}.json"
        known = read_json(plans, dict[str, object], f"run: cdm-nnunet plan -d {study.dataset}").get("configurations")
        configuration = configuration_in(known if isinstance(known, Mapping) else {}, study.configuration)
        if not isinstance(known, Mapping) or configuration not in known:
            raise InputError(f"{plans} has no configuration '{study.configuration}'")
        study = study.model_copy(update={"configuration": configuration})
        layout = Layout(study=study, dataset=raw.name, out=out.absolute())
        members = members_of(study)
        for member in members:
            _refuse_unknown_settings(member)
        jobs = jobs_of(layout, members)
        for job in jobs:
            job.refuse_other_settings()
        return cls(layout, members, jobs)

    def status(self) -> list[Row]:
        """Progress of the study."""
        return status_rows(self.jobs, is_running=self._is_locked())

    def _is_locked(self) -> bool:
        lock = self.layout.out / _LOCK
        if not lock.exists():
            return False
        try:
            with locked(lock, ""):
                return False
        except InputError:
            return True

    def run(self, places: Sequence[Place], told: Told) -> dict[str, str]:
        """Run the unfinished jobs, and compare the scored models.

        Args:
            places: Places for simultaneous jobs.
            told: As in :func:`run_jobs`.

        Returns:
            Reasons for unfinished jobs by name.

        Raises:
            InputError: If the study is already running, or the comparison is refused.
        """
        out = self.layout.out
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / _LOCK, f"the study in {out} is already running; see --status"):
            with _ended_by_sigterm():
                faults = run_jobs(self.jobs, places, active_engine(), told)
            self._compare()
        return faults

    def _compare(self) -> None:
        scored = self._scored()
        if len(scored) < 2 or scored[0] != self.members[0].name:
            return
        models = [f"{name}={self.layout.evaluation(name)}" for name in scored]
        out = self.layout.out
        command = [sys.executable, "-m", "cdm_nnunet.cli.main", "compare", *models, "-o", str(out / "comparison")]
        with (out / "comparison.log").open("w", encoding="utf-8") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise InputError(f"the models could not be compared, see {log.name}")

    def _scored(self) -> list[str]:
        """Members whose scores belong to the current definition, not to other folds or cases."""
        return [job.member.name for job in self.jobs if job.fold is None and job.is_done]

    def scores(self) -> dict[str, dict[str, float | None]]:
        """Dose MAE, PTV score and OAR score of each scored member."""
        found: dict[str, dict[str, float | None]] = {}
        for name in self._scored():
            path = self.layout.evaluation(name) / RESULT_FILE
            scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
            found[name] = {key: scores[key] for key in ("dose_mae_gy", "ptv_score", "oar_score")}
        return found

    def estimated_hours(self, places: Sequence[Place]) -> float:
        """Estimated hours of the unfinished trainings, from a few steps of each trainer in the first place.

        Raises:
            InputError: If a trainer can't be started; the reason is in the message.
        """
        seconds: dict[str, float] = {}
        todo = [job for job in self.jobs if job.fold is not None and not job.is_done]
        for job in todo:
            if job.member.training not in seconds:
                seconds[job.member.training] = _epoch_s(job, places[0]) * _epochs(job.member)
        return sum(seconds[job.member.training] for job in todo) / len(places) / 3600


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM end this process like Ctrl-C, so that trainings write their checkpoints."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def places_here(device: str, at_once: int | None) -> list[Place]:
    """Places for jobs on this machine: one per GPU, or shares of the cores.

    Args:
        device: ``cuda`` or ``cpu``.
        at_once: Number of simultaneous jobs on a CPU; None for one per four cores.

    Raises:
        InputError: If there are no GPUs, or fewer cores than places.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("no CUDA device is available; run the study with -device cpu")
        return [Place(device=device, gpu=number) for number in range(torch.cuda.device_count())]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    n_places = at_once or max(usable_cores() // _CORES_A_TRAINING, 1)
    if n_places > usable_cores():
        raise InputError(f"{n_places} trainings at once need as many cores; there are {usable_cores()}")
    return [Place(device=device, cores=frozenset(cores[place::n_places])) for place in range(n_places)]


def _refuse_unknown_settings(member: Member) -> None:
    from cdm_nnunet.trainers.settings import TrainingSettings

    values = {f"CDM_{name.upper()}": str(value) for name, value in member.settings.items()}
    fields = TrainingSettings.__dataclass_fields__
    for name in member.settings:
        if name not in fields or name == "seed":
            raise InputError(f"'{member.training}' has no setting '{name}'; there are {', '.join(sorted(fields))}")
    try:
        TrainingSettings.from_environment(values)
    except InputError as error:
        raise InputError(f"training '{member.training}': {error}") from None


def _epochs(member: Member) -> int:
    from cdm_nnunet.trainers.settings import TrainingSettings

    return int(member.settings.get("num_epochs", TrainingSettings.num_epochs))


def _epoch_s(job: Job, place: Place) -> float:
    study = job.layout.study
    what = (str(study.dataset), study.configuration, str(job.fold), "-tr", job.member.trainer, "-p", study.plans)
    command = [sys.executable, "-m", "cdm_nnunet.cli.main", "train", *what, "-device", place.device]
    done = subprocess.run(
        [*command, "--estimate", "--json"], env=job.environment(place), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{job.name} can't be started: {done.stderr.strip().splitlines()[-1]}")
    with contextlib.suppress(json.JSONDecodeError):
        return float(json.loads(done.stdout)["epoch_s"])
    raise InputError(f"{job.name}: its estimate can't be read")
