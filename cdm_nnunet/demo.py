"""Synthetic patients, and every step from patients to scores, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import DEFAULT_ROOT, FOLDER_VARIABLES
from cdm_nnunet.progress import duration_text

BASELINE, CDM = "nnUNetTrainerDoseVanilla", "nnUNetTrainerCDM"
NAMES = {BASELINE: "vanilla", CDM: "CDM"}
_ALSO_UNLIKE = "--allow-outside"  # a test patient may lack a target that all others have
STATE_FILE = "demo.json"
_FORMAT_VERSION = 1
_ID, _NAME, _CONFIGURATION = 500, "Demo", "3d_coarse"
SHIPPED = "openkbp_hn"
# A phantom that is not in the demo's data set, with the options of its conversion.
_NEW_ID, _NEW_NAME, _NEW_CASE = 499, "NewPatient", "phantom_003"
_NEW_OPTIONS = ("--patients", "2", "--test-patients", "1", "--seed", "3")
_COMPARISON = "comparison/compare.html"
_TELL_EVERY_S = 60.0
# Seconds of the steps on one core with bfloat16 instructions: their ratios give the remaining time.
_USUAL_S = {
    "convert": 25,
    "plan": 12,
    "train": 110,
    "predict": 20,
    "evaluate": 10,
    "compare": 4,
    "new": 6,
    "shipped": 20,
}


@dataclass(frozen=True)
class Size:
    """Size of the demo.

    Attributes:
        patients: Synthetic patients for training, a fifth of them for validation.
        test_patients: Synthetic patients for testing.
        spacing_mm: Voxel size of the networks.
        base_features: Features of the finest stage of the networks.
        training: Settings of both trainings, see ``TrainingSettings``.
    """

    patients: int
    test_patients: int
    spacing_mm: float
    base_features: int
    training: Mapping[str, str]


@dataclass(frozen=True)
class _State:
    """Progress of a demo, as stored in its folder."""

    format_version: int
    quick: bool
    seconds: dict[str, float]


FULL = Size(
    patients=20,
    test_patients=12,
    spacing_mm=6,
    base_features=8,
    training={
        "CDM_NUM_EPOCHS": "4",
        "CDM_NUM_ITERATIONS": "64",
        "CDM_NUM_VAL_ITERATIONS": "2",
        "CDM_LEARNING_RATE": "0.003",
        "CDM_SEED": "0",
    },
)
QUICK = Size(
    patients=3,
    test_patients=1,
    spacing_mm=9,
    base_features=4,
    training={
        "CDM_NUM_EPOCHS": "2",
        "CDM_NUM_ITERATIONS": "2",
        "CDM_NUM_VAL_ITERATIONS": "1",
        "CDM_LEARNING_RATE": "0.05",  # (few steps, from zero: a dose of 1 Gy looks like another unit)
        "CDM_SEED": "0",
    },
)


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        name: Name of the step and of its log.
        command: The command, as typed in the demo's folder.
        product: A file that exists when the step is done, relative to the demo's folder.
    """

    name: str
    command: tuple[str, ...]
    product: str


def run_demo(folder: Path, *, quick: bool = False) -> dict[str, Any]:
    """Run the unfinished steps of a demo.

    Args:
        folder: A new folder, or that of a demo to finish or show again.
        quick: Only a few training steps.

    Returns:
        The scores of both models and a table that compares them, the paths of their results, reports and pictures and
        of the page that compares them, the new patient that the shipped model predicted, and the seconds of each step.

    Raises:
        InputError: If the folder is not a demo's, or a step fails.
    """
    folder = folder.absolute()
    state = open_folder(folder, quick=quick)
    size = QUICK if quick else FULL
    steps = demo_steps(size, quick=quick)
    environment: dict[str, str] | None = None
    for number, step in enumerate(steps, 1):
        label = f"[{number}/{len(steps)}] {step.name}"
        if step.name in state["seconds"] and (folder / step.product).is_file():
            _tell(f"{label}: done before\n")
            continue
        _tell(f"{label}: {' '.join(step.command)} ... ")
        if environment is None:
            environment = _environment(folder, size.training)
        started = perf_counter()
        left = _Left(steps[number - 1 :], state["seconds"])
        _run_step(step, folder, environment, left.tell)
        state["seconds"][step.name] = round(perf_counter() - started, 1)
        write_json(folder / STATE_FILE, state)
        _tell(f"{duration_text(state['seconds'][step.name])}\n")
    return {
        "folder": str(folder),
        "quick": quick,
        "patients": {"training": size.patients, "test": size.test_patients},
        "models": {trainer: _outcome(folder, trainer) for trainer in (BASELINE, CDM)},
        "scores": _score_table(folder),
        "comparison": str(folder / _COMPARISON),
        "new_patient": _new_patient(folder),
        "seconds": state["seconds"],
    }


def demo_steps(size: Size, *, quick: bool = False) -> list[Step]:
    """Commands of the demo in order."""
    return [*_compared_models(size), *_shipped_model(("--disable-tta",) if quick else ())]


def _compared_models(size: Size) -> list[Step]:
    dataset = ("-d", str(_ID))
    raw, results = (f"{DEFAULT_ROOT}/{variable}/Dataset{_ID}_{_NAME}" for variable in ("nnUNet_raw", "nnUNet_results"))
    plan = (
        *("cdm-nnunet", "plan", *dataset, "-c", _CONFIGURATION, "--coarse-spacing", f"{size.spacing_mm:g}"),
        *("--base-features", str(size.base_features), "--gpu-memory", "2", "-np", "1"),
    )
    patients = ("--patients", str(size.patients), "--test-patients", str(size.test_patients))
    steps = [
        Step(
            "convert", ("cdm-nnunet", "convert", "synthetic", *dataset, "-n", _NAME, *patients), f"{raw}/dataset.json"
        ),
        Step("plan", plan, f"{DEFAULT_ROOT}/nnUNet_preprocessed/Dataset{_ID}_{_NAME}/nnUNetPlans.json"),
    ]
    for trainer in (BASELINE, CDM):
        options = ("-tr", trainer, "--device", "cpu")
        model = f"{results}/{trainer}__nnUNetPlans__{_CONFIGURATION}/fold_0"
        predict = ("cdm-nnunet", "predict", "-i", f"{raw}/imagesTs", "-o", f"predictions/{trainer}", *dataset)
        evaluate = ("cdm-nnunet", "evaluate", *dataset, "-i", f"predictions/{trainer}", "-o", f"evaluation/{trainer}")
        steps += [
            Step(
                f"train_{trainer}",
                ("cdm-nnunet", "train", str(_ID), _CONFIGURATION, "0", *options),
                f"{model}/validation/summary.json",
            ),
            Step(
                f"predict_{trainer}",
                (*predict, "-c", _CONFIGURATION, "-f", "0", *options, "-np", "0", _ALSO_UNLIKE),
                f"predictions/{trainer}/dataset.json",
            ),
            Step(f"evaluate_{trainer}", (*evaluate, "-np", "1"), f"evaluation/{trainer}/report.html"),
        ]
    evaluations = tuple(f"{NAMES[trainer]}=evaluation/{trainer}" for trainer in (BASELINE, CDM))
    return [*steps, Step("compare", ("cdm-nnunet", "compare", *evaluations, "-o", "comparison"), _COMPARISON)]


def _shipped_model(options: tuple[str, ...]) -> list[Step]:
    """Steps in which the shipped model predicts a new phantom."""
    raw, out = f"{DEFAULT_ROOT}/nnUNet_raw/Dataset{_NEW_ID}_{_NEW_NAME}", f"predictions/{SHIPPED}"
    convert = ("cdm-nnunet", "convert", "synthetic", "-d", str(_NEW_ID), "-n", _NEW_NAME, *_NEW_OPTIONS)
    predict = ("cdm-nnunet", "predict", "-m", SHIPPED, "-i", f"{raw}/imagesTs", "-o", out, "--report")
    return [
        Step("new_patient", convert, f"{raw}/dataset.json"),
        Step("shipped_model", (*predict, *options, "--device", "cpu", "-np", "0"), f"{out}/{_NEW_CASE}.report.html"),
    ]


def open_folder(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Make the demo's folder, or read the state of an existing one.

    Raises:
        InputError: If the folder is not a demo's, or is a demo of the other size.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not the folder of a demo; name a new one with -o")
        folder.mkdir(parents=True, exist_ok=True)
        state = {"format_version": _FORMAT_VERSION, "quick": quick, "seconds": {}}
        write_json(folder / STATE_FILE, state)
        return state
    from cdm_nnunet.documents import read_json

    found = read_json(path, _State, f"delete {folder} or name a new folder with -o")
    if found.format_version != _FORMAT_VERSION:
        raise InputError(f"{folder} is the demo of another version of this software; name a new folder with -o")
    if found.quick != quick:
        raise InputError(
            f"{folder} is a demo {'with' if found.quick else 'without'} --quick; run it so, or name a new folder"
        )
    return asdict(found)


def _environment(folder: Path, training: Mapping[str, str]) -> dict[str, str]:
    """The environment with the exports of ``cdm-nnunet env`` in the demo's folder, and the demo's settings."""
    foreign = (*FOLDER_VARIABLES, "nnUNet_extTrainer")
    base = {name: text for name, text in os.environ.items() if name not in foreign and not name.startswith("CDM_")}
    command = [_program("cdm-nnunet"), "env", "--json"]
    exports = json.loads(subprocess.run(command, cwd=folder, env=base, stdout=subprocess.PIPE, check=True).stdout)
    # Patches this small load faster than a process starts. Waiting threads sleep, which leaves the cores free.
    return {"nnUNet_n_proc_DA": "0", **base, "OMP_WAIT_POLICY": "PASSIVE", **exports, **training}


class _Left:
    """Remaining time of a demo: one line per minute while a step runs."""

    def __init__(self, steps: Sequence[Step], done_s: Mapping[str, float]):
        usual_s = sum(_usual_s(name) for name in done_s)
        self._pace = sum(done_s.values()) / usual_s if usual_s else None
        self._left_s = sum(_usual_s(step.name) for step in steps)

    def tell(self, seconds: float) -> None:
        """Report how long the step has run, and the remaining time of the demo."""
        left_s = None if self._pace is None else max(self._pace * self._left_s - seconds, 0)
        to_go = f", about {duration_text(60 * max(round(left_s / 60), 1))} to go" if left_s is not None else ""
        _tell(f"\n      {duration_text(seconds)}{to_go} ... ")


def _usual_s(step: str) -> float:
    return _USUAL_S.get(step.partition("_")[0], 1.0)


def _run_step(step: Step, folder: Path, environment: Mapping[str, str], tell: Callable[[float], None]) -> None:
    log = folder / "logs" / f"{step.name}.log"
    log.parent.mkdir(exist_ok=True)
    program, *arguments = step.command
    with log.open("w", encoding="utf-8") as file:
        file.write(f"$ {' '.join(step.command)}\n")
        file.flush()
        with subprocess.Popen(
            [_program(program), *arguments], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            status = _wait(process, tell)
    if status != 0 or not (folder / step.product).is_file():
        _tell("failed\n")
        last = _last_line(log.read_text(encoding="utf-8", errors="replace").splitlines())
        raise InputError(f"step '{step.name}' failed (exit status {status}): {last}; its log: {log}")


def _wait(process: subprocess.Popen[bytes], tell: Callable[[float], None]) -> int:
    """Wait for a step, and end it with the demo."""
    started = perf_counter()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_TELL_EVERY_S)
            tell(perf_counter() - started)
    except BaseException:
        process.terminate()
        raise


def open_page(path: Path) -> bool:
    """Open a page in the browser; return whether there is one."""
    return webbrowser.open(path.resolve().as_uri())


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "")


def _program(name: str) -> str:
    """Path of a program installed with this package."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        raise InputError(
            f"the program {name} is not installed; install this package with pip and activate its environment"
        )
    return path


def _score_table(folder: Path) -> list[list[str]]:
    """Table of both models: scores with intervals and verdicts, headings first."""
    from cdm_nnunet.comparison.models import load_models
    from cdm_nnunet.comparison.run import compare
    from cdm_nnunet.comparison.sentences import score_table

    models = load_models([f"{name}={folder / 'evaluation' / trainer}" for trainer, name in NAMES.items()])
    return [list(row) for row in score_table(compare(models), NAMES[CDM])]


def _new_patient(folder: Path) -> dict[str, Any]:
    """Summary of the shipped model's prediction for a new phantom, and whether the model applies."""
    from cdm_nnunet.documents import read_json
    from cdm_nnunet.patient.record import PATIENT_ENDING, PatientRecord

    stem = folder / "predictions" / SHIPPED / _NEW_CASE
    record = read_json(Path(f"{stem}{PATIENT_ENDING}"), PatientRecord, "run the demo in a new folder")
    verdicts = Counter(goal.verdict for roi in record.rois.values() for goal in roi.goals)
    found = record.applicability
    return {
        "model": SHIPPED,
        "applies": "not compared" if found is None else found.status,
        "findings": [] if found is None else [finding.text for finding in found.findings],
        "verdicts": dict(sorted(verdicts.items())),
        "report": f"{stem}.report.html",
    }


def _outcome(folder: Path, trainer: str) -> dict[str, Any]:
    from cdm_nnunet.evaluation.reading import load_evaluation

    evaluation = folder / "evaluation" / trainer
    scores = load_evaluation(evaluation).scores
    return {
        "dose_score_gy": (scores.challenges["openkbp"] or {}).get("dose_score"),
        "dose_mae_gy": scores.dose_mae_gy,
        "ptv_score": scores.ptv_score,
        "oar_score": scores.oar_score,
        "result": str(evaluation / "result.json"),
        "report": str(evaluation / "report.html"),
        "pictures": [str(path) for path in sorted((evaluation / "pictures").glob("*.png"))],
    }
