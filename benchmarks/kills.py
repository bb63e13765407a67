"""Kills at random moments, and two of every command at once: tests of robustness against faults of the machine.

    python benchmarks/kills.py [--kills 60] [--pairs 1] [--seed 0] [-o FOLDER] [--json]

Synthetic patients are converted, planned, trained (``3d_coarse``, a few short epochs on the CPU), predicted and
evaluated once undisturbed. Then each trial restores the state before one of these commands, starts it, kills it
(SIGKILL) and runs the same command again, a training with ``--c``. Half of the trainings are killed while a checkpoint
is being written, half of the predictions continue with ``--continue_prediction``. The second run must succeed:

train     with all epochs, continuing from the newest epoch in a checkpoint at the kill; no checkpoint is damaged
plan      with the files of the undisturbed run: plans, fingerprint and values of preprocessed cases equal to the bit
predict   with the doses and records of the undisturbed run; with ``--continue_prediction``, finished doses are kept
evaluate  with the result of the undisturbed run

None may leave a process, or files that the undisturbed run does not have. Then two of the same command start within a
second: both must succeed, or one ends with status 2 and one line; and the outcome must be that of one command.

Commands are forked from a process that has imported everything, so that kills fall into the work.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ID, NAME = "541", "Dataset541_Phantoms"
EPOCHS = 4
LIMIT_S = 1800  # (on a busy machine a command of seconds takes minutes)
LINGER_S = 120  # (a starting worker notices only after its imports that its parent has ended)
SETTINGS = {
    "CDM_NUM_EPOCHS": str(EPOCHS), "CDM_NUM_ITERATIONS": "2", "CDM_NUM_VAL_ITERATIONS": "1", "CDM_LOSS_START": "0",
    "CDM_SEED": "1", "CDM_LEARNING_RATE": "0.05", "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1",
}  # fmt: skip
RAW, PREPROCESSED, RESULTS = "data/raw", "data/preprocessed", "data/results"
FOLD = f"{RESULTS}/{NAME}/nnUNetTrainerCDM__nnUNetPlans__3d_coarse/fold_0"
COMMANDS = {
    "convert": "convert synthetic -d 542 -n Converted --patients 2 --test-patients 1 -np 1",
    "inspect": "inspect dicom exports -o inspection -np 1",
    "plan": f"plan -d {ID} -c 3d_coarse --coarse-spacing 10 --base-features 4 --gpu-memory 1 -np 1",
    "train": f"train {ID} 3d_coarse 0 -device cpu",
    "predict": f"predict -i {RAW}/{NAME}/imagesTs -o predictions -d {ID} -c 3d_coarse -device cpu -np 0 --disable_tta",
    "evaluate": f"evaluate -d {ID} -i predictions -o evaluation -np 1 --pictures 1",
}
OUTPUTS = {
    "convert": f"{RAW}/Dataset542_Converted", "inspect": "inspection", "plan": f"{PREPROCESSED}/{NAME}", "train": FOLD,
    "predict": "predictions", "evaluate": "evaluation",
}  # fmt: skip
SHARES = {"train": 0.4, "plan": 0.2, "predict": 0.2, "evaluate": 0.2}  # of the kills
CHANGING = re.compile(  # (rows are written as cases end, and a kill may leave a partial line)
    r"report\.html|progress\.png|debug\.json|training_log_.*|\.scored_cases|.*_args\.json|.*\.(pth|png)"
)
TIMES = re.compile(rb'"(\w*_at|created|date|seconds|\w*_s)": [^,\n]+')


class LostError(Exception):
    """A trial lost or left files."""


@dataclass(frozen=True)
class Ended:
    status: int
    said: str
    seconds: float


class Workshop:
    """A folder in which commands run, and the states before each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.states = folder / "run", folder / "states"
        self.usual_s: dict[str, float] = {}

    def begin(self, command: str) -> tuple[multiprocessing.process.BaseProcess, Path]:
        said = self.folder.parent / f"said_{time.monotonic_ns()}.txt"
        process = multiprocessing.get_context("fork").Process(target=_command, args=(command, self.folder, said))
        process.start()
        return process, said

    def run(self, command: str) -> Ended:
        begun = time.monotonic()
        process, said = self.begin(command)
        return _end(process, said, begun)

    def restore(self, name: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.states / name, self.folder)

    def prepare(self) -> None:
        """All commands once, with the state before each and after all."""
        from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
        from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
        from cdm_nnunet.dicom.phantom import demonstration_phantom, write_phantom

        place = DatasetPlace(self.folder / RAW, int(ID), "Phantoms")
        convert(find_synthetic(n_training=3, n_test=3, coarseness=2.0), place)
        write_phantom(demonstration_phantom(), self.folder / "exports" / "patient")
        for name, command in COMMANDS.items():
            shutil.copytree(self.folder, self.states / name)
            ended = self.run(command)
            if ended.status != 0:
                raise SystemExit(f"{name} fails without a disturbance:\n{ended.said[-3000:]}")
            self.usual_s[name] = ended.seconds
        shutil.copytree(self.folder, self.states / "after")

    def refuse_other_outcome(self, name: str) -> None:
        """Raise :class:`LostError` unless the output of a command is that of the undisturbed run."""
        is_left, is_due = (_files(base / OUTPUTS[name]) for base in (self.folder, self.states / "after"))
        if name in ("train", "inspect"):  # a training has a log for each start and draws other patches; keys are random
            logs = ("training_log_", "tensorboard/")
            is_left, is_due = ({f: "" for f in fs if not any(log in f for log in logs)} for fs in (is_left, is_due))
        if unlike := sorted(f for f in is_left.keys() | is_due.keys() if is_left.get(f) != is_due.get(f)):
            raise LostError(f"other than undisturbed: {', '.join(unlike[:5])}")

    def kill(self, name: str, draw: random.Random) -> str:
        """One trial; returns the moment of the kill."""
        is_continued = name == "predict" and draw.random() < 0.5
        is_writing = name == "train" and draw.random() < 0.5
        command = COMMANDS[name] + (" --continue_prediction" if is_continued else "")
        while True:
            self.restore(name)
            begun = time.monotonic()
            process, said = self.begin(command)
            if is_writing:
                self._await_checkpoint(process, nth=draw.randrange(EPOCHS), after_s=draw.uniform(0, 0.004))
            else:
                process.join(draw.uniform(0, self.usual_s[name]))
            if process.is_alive():
                break
            self.usual_s[name] = min(self.usual_s[name], time.monotonic() - begun)  # it came too late
        group, moment = process.pid or 0, "while it ran"
        process.kill()
        process.join()
        _refuse_lingering(group)
        if is_writing and any((self.folder / FOLD).glob(".checkpoint_*.partial_*")):
            moment = "inside checkpoint writing"
        epochs = self._epochs() if name == "train" else 0
        kept = self._finished_doses() if is_continued else {}
        again = self.run(command + (" --c" if name == "train" else ""))
        if again.status != 0:
            raise LostError(f"killed {moment}; status {again.status}: {again.said.strip()[-600:]}")
        if name == "train":
            self._refuse_lost_epochs(epochs, again)
        if is_continued and {dose: (self.folder / dose).stat().st_mtime_ns for dose in kept} != kept:
            raise LostError("a finished dose was predicted again")
        self.refuse_other_outcome(name)
        said.unlink()
        return moment

    def _await_checkpoint(self, process: multiprocessing.process.BaseProcess, nth: int, after_s: float) -> None:
        """Wait until the process is writing its nth checkpoint."""
        seen: set[int] = set()
        while process.is_alive() and len(seen) <= nth:
            with contextlib.suppress(FileNotFoundError):
                seen.update(e.inode() for e in os.scandir(self.folder / FOLD) if e.name.startswith(".checkpoint_"))
            time.sleep(0.0003)
        time.sleep(after_s)

    def _epochs(self) -> int:
        """The most epochs in a checkpoint; each checkpoint must be complete."""
        from cdm_nnunet.errors import InputError
        from cdm_nnunet.nnunet.checkpoint import read_checkpoint

        try:
            found = [read_checkpoint(path).epoch for path in (self.folder / FOLD).glob("checkpoint_*.pth")]
        except InputError as error:
            raise LostError(str(error)) from error
        return max(found, default=0)

    def _refuse_lost_epochs(self, epochs: int, again: Ended) -> None:
        going_on = re.search(r"going on from \S+ epoch (\d+)", again.said)
        begins = int(going_on.group(1)) if going_on else 0
        if begins < epochs:
            raise LostError(f"a checkpoint held {epochs} epochs, and the training went on from {begins}")
        if self._epochs() != EPOCHS:
            raise LostError(f"the training ended with {self._epochs()} of {EPOCHS} epochs")

    def _finished_doses(self) -> dict[str, int]:
        records = (self.folder / "predictions").glob("*.prediction.json")
        doses = [f"predictions/{path.name.removesuffix('.prediction.json')}.nii.gz" for path in records]
        return {dose: (self.folder / dose).stat().st_mtime_ns for dose in doses}

    def pair(self, name: str, draw: random.Random) -> str:
        """Two simultaneous commands; returns their ends."""
        self.restore(name)
        begun = time.monotonic()
        first = self.begin(COMMANDS[name])
        time.sleep(draw.uniform(0, min(1.0, self.usual_s[name] / 2)))
        second = self.begin(COMMANDS[name])
        ended = [_end(*each, begun) for each in (first, second)]
        refused = [each for each in ended if each.status != 0]
        for each in refused:
            lines = [line for line in each.said.splitlines() if "error: " in line]
            if each.status != 2 or len(lines) != 1 or "Traceback" in each.said:
                raise LostError(f"status {each.status}: {each.said.strip()[-600:]}")
        if len(refused) == 2:
            raise LostError(f"neither ended well: {refused[0].said.strip()[-600:]}")
        self.refuse_other_outcome(name)
        return "one refused: " + refused[0].said.strip().splitlines()[-1][-200:] if refused else "both ended well"


def _command(command: str, folder: Path, said: Path) -> None:
    """One command of ``cdm-nnunet`` in this process, forked for it."""
    from cdm_nnunet.cli.main import main

    os.setpgid(0, 0)
    os.chdir(folder)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(command.split()))


def _end(process: multiprocessing.process.BaseProcess, said: Path, begun: float) -> Ended:
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        raise LostError(f"it hangs: {said.read_text(errors='replace')[-600:]}")
    ended = Ended(process.exitcode or 0, said.read_text(errors="replace"), time.monotonic() - begun)
    said.unlink()
    return ended


def _refuse_lingering(group: int) -> None:
    until = time.monotonic() + LINGER_S
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    raise LostError(f"processes of it still ran {LINGER_S} s after the kill")


def _files(folder: Path) -> dict[str, str]:
    """Digests of files by path; empty where what is in them may differ from run to run."""

    def digest(path: Path) -> str:
        if path.suffix == ".b2nd":  # the threads that compress it leave its blocks in any order
            import blosc2

            return hashlib.sha256(blosc2.open(path, mode="r")[:].tobytes()).hexdigest()
        return hashlib.sha256(TIMES.sub(b"", path.read_bytes())).hexdigest()

    return {
        str(path.relative_to(folder)): "" if CHANGING.fullmatch(path.name) else digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def trials(workshop: Workshop, n_kills: int, n_pairs: int, seed: int) -> dict[str, object]:
    draw = random.Random(seed)
    jobs: list[tuple[str, Callable[[str, random.Random], str]]] = []
    for name, share in SHARES.items():
        jobs += [(name, workshop.kill)] * round(share * n_kills)
    draw.shuffle(jobs)
    jobs += [(name, workshop.pair) for name in COMMANDS] * n_pairs
    outcomes: Counter[str] = Counter()
    lost: list[str] = []
    for name, trial in jobs:
        kind = f"{name}, {'killed' if trial == workshop.kill else 'two at once'}"
        try:
            told = f"{kind}: {trial(name, draw)}"
            outcomes[told] += 1
        except LostError as error:
            told = f"{kind}: LOST: {error}"
            lost.append(told)
        print(f"{time.strftime('%H:%M:%S')} {told}", file=sys.stderr, flush=True)
    return {"trials": len(jobs), "outcomes": dict(sorted(outcomes.items())), "lost": lost}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="kills in all (default: 60)")
    parser.add_argument("--pairs", type=int, default=1, help="pairs of each command (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", type=Path, help="folder to work in, kept (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.o or Path(temporary)).resolve()
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
        (folder / "run").mkdir(parents=True)
        os.environ.update(SETTINGS)
        for variable, where in (("raw", RAW), ("preprocessed", PREPROCESSED), ("results", RESULTS)):
            os.environ[f"nnUNet_{variable}"] = str(folder / "run" / where)
        import cdm_nnunet.cli.main
        import cdm_nnunet.evaluation.run
        import cdm_nnunet.nnunet.predictor
        import cdm_nnunet.trainers  # noqa: F401  (they are imported once, for all that is forked)

        workshop = Workshop(folder)
        workshop.prepare()
        result = trials(workshop, args.kills, args.pairs, args.seed)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        for outcome, n in result["outcomes"].items():
            print(f"{n:4d}  {outcome}")
        print(f"{result['trials']} trials, {len(result['lost'])} lost something")
        print("\n".join(result["lost"]))
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
