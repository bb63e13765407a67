"""The OpenKBP study: what each loss buys and costs on real head-and-neck patients.

    python benchmarks/openkbp_study.py OPENKBP OUT prepare pretrain settings losses report

OPENKBP is the data's folder (train-pats, validation-pats), OUT everything else. Steps run in the order given; each can
be stopped and run again, in parallel too: what is done is skipped, a training goes on from its last checkpoint.

``prepare``   convert, plan; adds a fold inside the training patients (136 + 33) on which settings are chosen
``pretrain``  MAE on that fold until it has converged: an underfitted network hides what a loss does
``settings``  fine-tunes with one setting of the CDM loss changed at a time, scored inside the training patients
``losses``    fine-tunes with every loss and seed for equal steps on all training patients, scored on the published
              validation patients, compared with the MAE fine-tuned alike
``report``    tables of the last two, as Markdown on stdout

``--only NAME ...`` restricts runs by name, ``--device cuda --configuration 3d_fullres`` runs it all at full scale,
``--base-features`` and ``--batch-size`` take another network than the small one for CPUs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DATASET_ID = 501
DATASET = f"Dataset{DATASET_ID}_OpenKBP"
PUBLISHED_FOLD = 0
VANILLA, MAE, CDM = "nnUNetTrainerDoseVanilla", "nnUNetTrainerDoseMAE", "nnUNetTrainerCDM"
N_INNER_VALIDATION = 33


@dataclass(frozen=True)
class Run:
    """One training: fine-tuned from the converged MAE unless ``scratch``."""

    name: str
    trainer: str
    settings: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    scratch: bool = False


# One change at a time.
SETTINGS = (
    Run("mae", MAE),
    Run("cdm", CDM),
    Run("weight_0.1", CDM, {"CDM_LOSS_WEIGHT": "0.1"}),
    Run("weight_2", CDM, {"CDM_LOSS_WEIGHT": "2"}),
    Run("weight_5", CDM, {"CDM_LOSS_WEIGHT": "5"}),
    Run("window_0", CDM, {"CDM_WINDOW_PERCENT": "0"}),
    Run("window_15", CDM, {"CDM_WINDOW_PERCENT": "15"}),
    Run("sigmoid_0.3_gy", CDM, {"CDM_SIGMOID_WIDTH_GY": "0.3"}),
    Run("sigmoid_3_gy", CDM, {"CDM_SIGMOID_WIDTH_GY": "3"}),
    Run("v_as_dose", CDM, {"CDM_V_FORM": "dose"}),
    Run("v_both", CDM, {"CDM_V_FORM": "both"}),
    Run("whole_rois_only", CDM, {"CDM_PARTIAL_ROIS": "whole"}),
    Run("all_rois_alike", CDM, {"CDM_PARTIAL_ROIS": "all"}),
    Run("every_scale", CDM, {"CDM_DEEP_SUPERVISION": "all"}),
    Run("from_the_middle", CDM, {"CDM_LOSS_START": "0.5"}),
)
LOSSES = (
    *(Run(f"mae_seed_{seed}", MAE, seed=seed) for seed in range(3)),
    *(Run(f"cdm_seed_{seed}", CDM, seed=seed) for seed in range(3)),
    Run("mse", "nnUNetTrainerDoseMSE"),
    Run("dvh", "nnUNetTrainerDoseDVH"),
    Run("moment", "nnUNetTrainerDoseMoment"),
    Run("sorted", "nnUNetTrainerDoseSorted"),
    *(Run(f"vanilla_from_scratch_seed_{seed}", VANILLA, seed=seed, scratch=True) for seed in range(3)),
    *(Run(f"mae_from_scratch_seed_{seed}", MAE, seed=seed, scratch=True) for seed in range(3)),
    *(Run(f"cdm_from_scratch_seed_{seed}", CDM, seed=seed, scratch=True) for seed in range(3)),
)


@dataclass(frozen=True)
class Study:
    """Where everything lies, and how long a training is."""

    openkbp: Path
    out: Path
    device: str
    configuration: str
    base_features: int
    batch_size: int | None  # as many as the memory takes
    pretrain_epochs: int
    epochs: int

    @property
    def raw(self) -> Path:
        return self.out / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.out / "nnUNet_preprocessed" / DATASET

    @property
    def inner_fold(self) -> int:
        splits = json.loads((self.raw / "splits_final.json").read_text())
        return splits.index(inner_split(splits))

    def fold_folder(self, results: Path, trainer: str, fold: int) -> Path:
        return results / DATASET / f"{trainer}__nnUNetPlans__{self.configuration}" / f"fold_{fold}"

    @property
    def pretrained(self) -> Path:
        return self.fold_folder(self.out / "pretrain", MAE, self.inner_fold) / "checkpoint_final.pth"

    def environment(self, results: Path | None = None, **settings: str) -> dict[str, str]:
        folders = {name: str(self.out / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        if results is not None:
            folders["nnUNet_results"] = str(results)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CDM_", "nnUNet_"))}
        loaders = {"nnUNet_n_proc_DA": "1"} if self.device == "cpu" else {}
        return {**kept, **folders, **loaders, **settings}


def inner_split(splits: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """A split of the published training patients: none of those that results are reported on is in it."""
    training = sorted(splits[PUBLISHED_FOLD]["train"])
    if len(training) <= N_INNER_VALIDATION:
        sys.exit(f"the study needs more than {N_INNER_VALIDATION} training patients; there are {len(training)}")
    inner = random.Random(1).sample(training, N_INNER_VALIDATION)
    return {"train": [case for case in training if case not in inner], "val": sorted(inner)}


def prepare(study: Study) -> None:
    splits_file = study.raw / "splits_final.json"
    if not (study.raw / "dataset.json").is_file():
        command("convert", study, "convert", "openkbp", str(study.openkbp), "-d", str(DATASET_ID), "-n", "OpenKBP")
    splits = json.loads(splits_file.read_text())
    if (fold := inner_split(splits)) not in splits:
        splits_file.write_text(json.dumps([*splits, fold]))
    if is_planned(study):
        return
    options = ["--gpu-memory", "24", "--base-features", str(study.base_features)]
    if study.batch_size is not None:
        options += ["--batch-size", str(study.batch_size)]
    command("plan", study, "plan", "-d", str(DATASET_ID), "-c", study.configuration, *options)


def is_planned(study: Study) -> bool:
    """Whether the data are there, made with the options that are asked for; a folder with others is refused."""
    path = study.preprocessed / "nnUNetPlans.json"
    if not path.is_file():
        return False
    plan = json.loads(path.read_text())["configurations"][study.configuration]
    if not (study.preprocessed / plan["data_identifier"]).is_dir():
        return False
    found = (plan["architecture"]["arch_kwargs"]["features_per_stage"][0], plan["batch_size"])
    if found != (study.base_features, study.batch_size or found[1]):
        sys.exit(f"{study.out} was planned with {found[0]} features and batches of {found[1]}; take another folder")
    return True


def pretrain(study: Study) -> None:
    run = Run("pretrain", MAE, scratch=True)
    train(study, run, study.out / "pretrain", study.inner_fold, study.pretrain_epochs)


def settings(study: Study, only: Sequence[str]) -> None:
    for run in chosen(SETTINGS, only):
        finish(study, run, "settings", study.inner_fold)


def losses(study: Study, only: Sequence[str]) -> None:
    for run in chosen(LOSSES, only):
        finish(study, run, "losses", PUBLISHED_FOLD)
    folder = study.out / "losses"
    done = [run.name for run in LOSSES if (folder / run.name / "evaluation" / "result.json").is_file()]
    baseline = next((name for name in done if name.startswith("mae_")), None)
    if baseline is not None and len(done) > 1:
        models = [f"{name}={folder / name / 'evaluation'}" for name in (baseline, *(n for n in done if n != baseline))]
        command("compare", study, "compare", *models, "-o", str(study.out / "comparison"))


def finish(study: Study, run: Run, stage: str, fold: int) -> None:
    """Train, which ends with doses of the fold's validation cases, and score those on the patients' own grids."""
    folder = study.out / stage / run.name
    if (folder / "evaluation" / "result.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        claim = (folder / "claimed").open("x")
    except FileExistsError:
        print(f"{stage} {run.name}: running elsewhere or stopped; remove {folder / 'claimed'} to go on", flush=True)
        return
    with claim:
        validation = train(study, run, folder, fold, study.epochs)
        evaluate = ("evaluate", "-d", str(DATASET_ID), "-i", str(validation), "-o", str(folder / "evaluation"))
        command(f"{stage}_{run.name}_evaluate", study, *evaluate, "--pictures", "0")


def train(study: Study, run: Run, results: Path, fold: int, epochs: int) -> Path:
    """Train unless that is done, from the last checkpoint if there is one; the folder of validation doses."""
    folder = study.fold_folder(results, run.trainer, fold)
    if (folder / "validation" / "summary.json").is_file():
        return folder / "validation"
    values = {"CDM_NUM_EPOCHS": str(epochs), "CDM_NUM_ITERATIONS": "50", "CDM_NUM_VAL_ITERATIONS": "5"}
    start: tuple[str, ...] = ()
    if not run.scratch:
        values["CDM_LEARNING_RATE"] = "3e-4"
        start = ("-pretrained_weights", str(study.pretrained))
    if (folder / "checkpoint_latest.pth").is_file() or (folder / "checkpoint_final.pth").is_file():
        start = ("--c",)
    environment = study.environment(results, CDM_SEED=str(run.seed), **{**values, **run.settings})
    arguments = (str(DATASET_ID), study.configuration, str(fold), "-tr", run.trainer, "-device", study.device)
    command(f"{results.name}_train", study, "train", *arguments, *start, environment=environment)
    return folder / "validation"


def command(log: str, study: Study, *arguments: str, environment: dict[str, str] | None = None) -> None:
    path = study.out / "logs" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"cdm-nnunet {' '.join(arguments)}", end=" ... ", flush=True)
    started = time.monotonic()
    with path.open("a") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "cdm_nnunet.cli.main", *arguments],
            env=environment or study.environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        sys.exit(f"failed with status {done.returncode}; see {path}")


def chosen(runs: Sequence[Run], only: Sequence[str]) -> Iterator[Run]:
    return (run for run in runs if not only or run.name in only)


def report(study: Study) -> None:
    columns = ("dose score (Gy)", "DVH score (Gy)", "PTV score", "of it D (Gy)", "of it V (%)", "OAR score (Gy)")
    for stage, runs in (("settings", SETTINGS), ("losses", LOSSES)):
        print(f"\n| {stage} | " + " | ".join(columns) + " |\n" + "| --- " * (len(columns) + 1) + "|")
        for run in runs:
            path = study.out / stage / run.name / "evaluation" / "result.json"
            if path.is_file():
                scores = json.loads(path.read_text())["scores"]
                target = scores["parts"]["target"]
                row = (
                    scores["openkbp"]["dose_score"],
                    scores["openkbp"]["dvh_score"],
                    scores["ptv_score"],
                    target["dose_gy"]["mean_absolute"],
                    target["volume_percent"]["mean_absolute"],
                    scores["oar_score"],
                )
                print(f"| {run.name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("steps", nargs="+", choices=("prepare", "pretrain", "settings", "losses", "report"))
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="runs of 'settings' and 'losses'")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--configuration", default="3d_coarse", choices=("3d_coarse", "3d_packed", "3d_fullres"))
    parser.add_argument("--base-features", type=int, metavar="N", help="default: 16; 32 at 3d_fullres")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: 2; by memory at 3d_fullres")
    parser.add_argument("--pretrain-epochs", type=int, default=80, metavar="N", help="of 50 steps (default: 80)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of 50 steps, a fine-tuning (default: 8)")
    args = parser.parse_args()
    names = {run.name for run in (*SETTINGS, *LOSSES)}
    if unknown := set(args.only) - names:
        parser.error(f"unknown runs {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    full = args.configuration == "3d_fullres"
    study = Study(
        args.openkbp.absolute(),
        args.out.absolute(),
        args.device,
        args.configuration,
        args.base_features or (32 if full else 16),
        args.batch_size or (None if full else 2),
        args.pretrain_epochs,
        args.epochs,
    )
    for step in args.steps:
        if step in ("settings", "losses"):
            {"settings": settings, "losses": losses}[step](study, args.only)
        else:
            {"prepare": prepare, "pretrain": pretrain, "report": report}[step](study)


if __name__ == "__main__":
    main()
