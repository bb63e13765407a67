"""``cdm-nnunet study``: several trainings of one data set, from training to comparison."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

if TYPE_CHECKING:
    from cdm_nnunet.studies.jobs import Job, State

SUMMARY = "train several trainers, folds and seeds, score and compare them: one file, one command, resumable"
EXAMPLE = "cdm-nnunet study study.yaml -o study --dry-run"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("study", type=Path, metavar="FILE", help="YAML file of the study")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="output folder")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: cuda, one training a GPU")
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="with -device cpu: trainings at a time (default: one for 4 cores)"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS|FILE", help="Dask cluster to train on: tcp://HOST:PORT, or a YAML file"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="only show what is done, running, failed and waiting")
    what.add_argument(
        "--dry-run", action="store_true", help="only show the number of trainings, and their estimated hours"
    )


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Run the study, or report on it."""
    from cdm_nnunet.folders import folder
    from cdm_nnunet.parallel import active_engine
    from cdm_nnunet.parallel.cluster import on_cluster
    from cdm_nnunet.studies.definition import read_study
    from cdm_nnunet.studies.jobs import Place
    from cdm_nnunet.studies.run import Study, places_here

    if args.at_once is not None and (args.at_once < 1 or args.device != "cpu" or args.scheduler):
        raise InputError("--at-once is a number from 1 on, goes with -device cpu, and not with --scheduler")
    study = Study.of(read_study(args.study), args.o)
    trainings = [job for job in study.jobs if job.fold is not None]
    record: dict[str, Any] = {"study": str(args.study), "output": str(args.o), "n_trainings": len(trainings)}
    if args.status:
        return {**record, "jobs": [asdict(row) for row in study.status()]}
    if args.dry_run:
        places = places_here(args.device, args.at_once)
        todo = sum(not job.is_done for job in trainings)
        return {**record, "n_to_do": todo, "at_once": len(places), "hours": study.estimated_hours(places)}
    reads = (folder("nnUNet_raw"), folder("nnUNet_preprocessed"))
    with on_cluster(args.scheduler, reads=reads, writes=(args.o,), needs_gpu=args.device == "cuda"):
        engine = active_engine()
        places = (
            places_here(args.device, args.at_once) if engine is None else [Place(device=args.device)] * engine.n_workers
        )
        faults = study.run(places, _tell)
    record |= {"jobs": [asdict(row) for row in study.status()], "scores": study.scores(), "not_done": faults}
    if faults:
        record["error"] = f"not done: {len(faults)} of {counted(len(study.jobs), 'job')}: " + "; ".join(
            f"{name}: {fault}" for name, fault in faults.items()
        )
    return record


def render(record: Mapping[str, Any]) -> str:
    """The states of the jobs, and the scores."""
    if "hours" in record:
        return (
            f"{counted(record['n_trainings'], 'training')}, {record['n_to_do']} to do, {record['at_once']} at once: "
            f"about {_time(record['hours'])} on this machine, without predictions and scores"
        )
    width = max(len(row["job"]) for row in record["jobs"])
    lines = [
        f"{row['job']:<{width}}  {row['state']:<8}"
        f"{'' if row['hours'] is None else format(row['hours'], '.2f') + ' h':>9}  {row['remark']}".rstrip()
        for row in record["jobs"]
    ]
    if scores := record.get("scores"):
        width = max(len(name) for name in scores)
        lines += ["", f"{'':<{width}}  dose MAE (Gy)  PTV score  OAR score"]
        lines += [
            f"{name:<{width}}  {_number(one['dose_mae_gy']):>13}  {_number(one['ptv_score']):>9}  "
            f"{_number(one['oar_score']):>9}"
            for name, one in scores.items()
        ]
        lines.append(f"\ncomparison: {record['output']}/comparison/compare.html")
    return "\n".join(lines)


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _tell(job: Job, state: State | None) -> None:
    word = "begins" if state is None else f"{state.state} after {state.seconds / 60:.0f} min"
    # To stderr: the command line sends it there. One string, so that lines of two jobs never mix.
    print(f"{time.strftime('%H:%M:%S')} {job.name}: {word}\n", end="", flush=True)
