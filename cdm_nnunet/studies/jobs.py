"""Steps of a study: commands of this package in separate processes, each with a log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import folder
from cdm_nnunet.studies.definition import Member, StudyFile

RESULT_FILE = "result.json"
_VARIABLES = "CDM_"
_ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # statuses of a command ended by SIGTERM
_RUNNING: set[subprocess.Popen[bytes]] = set()  # commands of this process, which end with it


@dataclass(frozen=True, kw_only=True)
class Place:
    """Resources of a job on this machine.

    Attributes:
        device: ``cuda`` or ``cpu``.
        gpu: Number of its GPU, None for all.
        cores: Cores that it may use; empty for all.
    """

    device: str
    gpu: int | None = None
    cores: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Folders of a study.

    Attributes:
        study: The study.
        dataset: Name of the data set's folder.
        out: Folder of the study.
    """

    study: StudyFile
    dataset: str
    out: Path

    def member(self, name: str) -> Path:
        """Folder of a member."""
        return self.out / name

    def fold(self, member: Member, fold: int) -> Path:
        """nnU-Net's folder of a training."""
        model = f"{member.trainer}__{self.study.plans}__{self.study.configuration}"
        return self.member(member.name) / "results" / self.dataset / model / f"fold_{fold}"

    def evaluation(self, name: str) -> Path:
        """Folder of a member's scores."""
        return self.member(name) / "evaluation"


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a job, stored next to its log.

    Attributes:
        state: ``running``, ``done``, ``failed``, or ``stopped`` by SIGTERM.
        seconds: Duration of its runs that ended.
        asked: Its definition, to notice a changed study.
    """

    state: str
    seconds: float
    asked: dict[str, str | list[int] | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training of one fold, or (fold None) the prediction and scoring of a member.

    Attributes:
        layout: Layout of the study.
        member: The member.
        fold: Fold, or None.
    """

    layout: Layout
    member: Member
    fold: int | None

    @property
    def name(self) -> str:
        """Name for messages and files."""
        return f"{self.member.name}, {'scores' if self.fold is None else f'fold {self.fold}'}"

    @property
    def log(self) -> Path:
        """Log of its commands."""
        return self.layout.member(self.member.name) / f"{self._stem}.log"

    @property
    def _stem(self) -> str:
        return "scores" if self.fold is None else f"fold_{self.fold}"

    @property
    def state(self) -> State | None:
        """Its state so far; None if it never started."""
        path = self.log.with_suffix(".json")
        return read_json(path, State, "remove it to start again") if path.exists() else None

    @property
    def seconds(self) -> float:
        """Duration of all its runs; of one that runs or was killed, up to the last line of its log."""
        state = self.state
        if state is None:
            return 0.0
        if state.state != "running" or not self.log.exists():
            return state.seconds
        begun = self.log.with_suffix(".json").stat().st_mtime
        return state.seconds + max(self.log.stat().st_mtime - begun, 0.0)

    @property
    def asked(self) -> dict[str, str | list[int] | None]:
        """Everything that determines its outcome."""
        study, member = self.layout.study, self.member
        asked: dict[str, str | list[int] | None] = {
            "dataset": self.layout.dataset,
            "configuration": study.configuration,
            "plans": study.plans,
            "trainer": member.trainer,
            "settings": json.dumps(member.settings, sort_keys=True),
            "seed": str(member.seed),
            "starts_from": member.starts_from,
        }
        if member.pretrained is not None:
            asked["pretrained"] = member.pretrained
        if self.fold is None:
            asked |= {"folds": sorted(study.folds), "predict": study.predict, "template": study.template}
        return asked

    @property
    def is_done(self) -> bool:
        """Whether its outcome exists and belongs to the current definition."""
        state = self.state
        return state is not None and state.state == "done" and state.asked == self.asked

    def refuse_other_settings(self) -> None:
        """Refuse to continue a training, or to count it as done, with other settings than at its start.

        Raises:
            InputError: If it started with other settings.
        """
        state = self.state
        if state is None or self.fold is None or state.asked == self.asked:  # (scores are recomputed)
            return
        changed = [key for key in self.asked if state.asked.get(key) != self.asked[key]]
        raise InputError(
            f"{self.name} started with another {', '.join(changed)} ({state.asked.get(changed[0])}, now "
            f"{self.asked[changed[0]]}); rename the training, or choose another folder"
        )

    def run(self, place: Place) -> State:
        """Run the job; prints go to the log.

        Returns:
            Its final state; a failing command does not raise.
        """
        spent = self.seconds
        begun = time.monotonic()

        def keep(state: str) -> State:
            kept = State(state=state, seconds=spent + time.monotonic() - begun, asked=self.asked)
            write_json(self.log.with_suffix(".json"), asdict(kept))
            return kept

        self.log.parent.mkdir(parents=True, exist_ok=True)
        keep("running")
        steps = self._train(place) if self.fold is not None else self._score(place)
        status = next((status for step in steps if (status := self._command(step, place))), 0)
        return keep("done" if status == 0 else "stopped" if status in _ENDED else "failed")

    def _train(self, place: Place) -> Sequence[Sequence[str]]:
        study = self.layout.study
        start: tuple[str, ...] = ()
        if any(self.layout.fold(self.member, int(self.fold or 0)).glob("checkpoint_*.pth")):
            start = ("--c",)
        elif self.member.starts_from is not None:
            start = ("-pretrained_weights", str(self._start()))
        elif self.member.pretrained is not None:
            start = ("-pretrained_weights", self.member.pretrained)
        what = (str(study.dataset), study.configuration, str(self.fold), "-tr", self.member.trainer, "-p", study.plans)
        return [("train", *what, "-device", place.device, *start)]

    def _start(self) -> Path:
        name = str(self.member.starts_from)
        found = sorted(self.layout.member(name).glob(f"results/*/*/fold_{self.fold}/checkpoint_final.pth"))
        if len(found) != 1:
            raise InputError(f"{self.name}: the weights of '{name}' to start from are missing")
        return found[0]

    def _score(self, place: Place) -> Sequence[Sequence[str]]:
        study, dataset = self.layout.study, str(self.layout.study.dataset)
        doses = self.layout.member(self.member.name) / "predictions"
        shutil.rmtree(self.layout.evaluation(self.member.name), ignore_errors=True)
        template = () if study.template is None else ("--template", study.template)
        score = ("-o", str(self.layout.evaluation(self.member.name)), "-np", str(len(place.cores) or 2), *template)
        evaluate = ("evaluate", "-d", dataset, "-i", str(doses), *score)
        if study.predict == "test":
            model = ("-c", study.configuration, "-tr", self.member.trainer, "-p", study.plans, "-device", place.device)
            images = folder("nnUNet_raw") / self.layout.dataset / "imagesTs"
            predict = ("predict", "-i", str(images), "-o", str(doses), "-d", dataset, *model)
            # Test cases have a reference dose, so cases outside the training data count too.
            return [(*predict, "--continue_prediction", "--allow-outside", "-f", *map(str, study.folds)), evaluate]
        shutil.rmtree(doses, ignore_errors=True)
        doses.mkdir(parents=True)
        for fold in study.folds:
            for path in sorted((self.layout.fold(self.member, fold) / "validation").iterdir()):
                if path.name.endswith((".nii.gz", ".prediction.json")):
                    (doses / path.name).symlink_to(path.resolve())
        return [evaluate]

    def _command(self, arguments: Sequence[str], place: Place) -> int:
        with self.log.open("a", encoding="utf-8") as log:
            print(f"\n$ cdm-nnunet {' '.join(arguments)}", file=log, flush=True)
            process = subprocess.Popen(
                [sys.executable, "-m", "cdm_nnunet.cli.main", *arguments],
                env=self.environment(place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # (Ctrl-C goes to the study, which sends SIGTERM: that writes a checkpoint)
            )
            _RUNNING.add(process)
            try:
                if place.cores and hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(process.pid, place.cores)  # (before it starts others, which inherit it)
                return process.wait()
            finally:
                _RUNNING.discard(process)

    def environment(self, place: Place) -> Mapping[str, str]:
        """Variables for its commands: only the study's settings, and results in a folder of the member."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
        settings = {f"{_VARIABLES}{name.upper()}": str(value) for name, value in self.member.settings.items()}
        gpu = {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": str(place.gpu)}
        loaders = {"nnUNet_n_proc_DA": str(max(len(place.cores) - 1, 1))} if place.cores else {}
        results = {"nnUNet_results": str(self.layout.member(self.member.name) / "results")}
        seed = {f"{_VARIABLES}SEED": str(self.member.seed)}
        return {**loaders, **kept, **settings, **seed, **gpu, **results}


def end_commands() -> None:
    """End all commands of jobs in this process; a training writes a checkpoint before it ends."""
    for process in list(_RUNNING):
        process.terminate()


def jobs_of(layout: Layout, members: Sequence[Member]) -> tuple[Job, ...]:
    """All jobs, ordered so that each follows those that it needs, as far as the names allow."""
    folds = [Job(layout=layout, member=member, fold=fold) for fold in layout.study.folds for member in members]
    return (*folds, *(Job(layout=layout, member=member, fold=None) for member in members))


def needed_by(job: Job, jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Jobs that must be done before a job can start."""
    if job.fold is None:
        return tuple(other for other in jobs if other.member == job.member and other.fold is not None)
    return tuple(other for other in jobs if (other.member.name, other.fold) == (job.member.starts_from, job.fold))
