"""``cdm-nnunet find-best``: which model, or which two together, has the lowest scores in cross-validation."""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import configuration_in, find_dataset, folder

SUMMARY = "score all trained models of a data set, and pairs of them, on their validation cases; say which is best"
EXAMPLE = "cdm-nnunet find-best -d 501 -f 0 1 2 3 4 -o best"

RESULT_FILE = "find_best.json"


@dataclass(frozen=True)
class _Candidate:
    """A model, or several whose mean is taken, and where its validation doses lie by case."""

    models: tuple[str, ...]
    doses: Mapping[str, Path]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as nnUNetv2_find_best_configuration spells them where both have them."""
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id")
    parser.add_argument(
        "-f", nargs="+", default=["0"], metavar="FOLD", help="folds that every model must have (default: 0)"
    )
    parser.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="only these configurations")
    parser.add_argument("-tr", nargs="+", metavar="TRAINER", help="only these trainers")
    parser.add_argument("--disable_ensembling", action="store_true", help="no pairs of models")
    parser.add_argument("-np", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the record goes")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Score every candidate on the same cases, and rank them."""
    from cdm_nnunet.dataset import RawDataset

    for fold in args.f:
        if not fold.isdigit():
            raise InputError(f"a fold to validate on is a number, not '{fold}'")
    dataset = RawDataset(find_dataset(args.d))
    models = _models(args, folder("nnUNet_results") / dataset.folder.name)
    candidates = [_Candidate((name,), doses) for name, doses in models.items()]
    if not args.disable_ensembling:
        candidates += _pairs(models, args.o)
    scored = [_scored(candidate, dataset, args.o, args.np) for candidate in candidates]
    best = {key: min(one[key] for one in scored) for key in ("ptv_score", "oar_score")}
    for one in scored:
        one["relative"] = sum(one[key] / max(best[key], 1e-9) for key in best) / len(best)
    scored.sort(key=lambda one: one["relative"])
    record = {
        "dataset": dataset.folder.name,
        "folds": args.f,
        "n_cases": len(candidates[0].doses),
        "ranked": scored,
        "predict": _commands(scored[0]["models"], args),
    }
    write_json(args.o / RESULT_FILE, record)
    return record


def render(record: Mapping[str, Any]) -> str:
    """The candidates from best to worst, and how to predict with the best."""
    lines = [
        f"{record['dataset']}: {record['n_cases']} validation cases of folds {', '.join(record['folds'])}; "
        "lower is better",
        f"{'PTV score':>10}{'OAR score':>11}{'dose MAE':>11}   model",
    ]
    for one in record["ranked"]:
        numbers = f"{one['ptv_score']:>10.3f}{one['oar_score']:>11.3f}{one['dose_mae_gy']:>8.3f} Gy"
        lines.append(f"{numbers}   {' + '.join(one['models'])}")
    lines += ["", "ranked by the mean of both scores, each relative to the lowest; to predict with the first:"]
    return "\n".join([*lines, *record["predict"]])


def _models(args: argparse.Namespace, results: Path) -> dict[str, dict[str, Path]]:
    from cdm_nnunet.nnunet.ensemble import dose_files

    models: dict[str, dict[str, Path]] = {}
    for path in sorted(results.glob("*__*__*")):
        trainer, _, configuration = path.name.split("__")[:3]
        asked = [configuration_in([configuration], name) for name in args.c or [configuration]]
        if configuration not in asked or (args.tr and trainer not in args.tr):
            continue
        folders = [path / f"fold_{fold}" / "validation" for fold in args.f]
        if not all((one / "summary.json").is_file() for one in folders):
            print(f"left out, not validated on all folds: {path.name}")  # goes to stderr
            continue
        models[path.name] = {case: dose for one in folders for case, dose in dose_files(one).items()}
    if not models:
        raise InputError(
            f"no model in {results} was validated on fold {', '.join(args.f)}: train to the end first, or name other "
            "folds (-f)"
        )
    first, *others = models
    for other in others:
        differing = sorted(set(models[first]) ^ set(models[other]))
        if differing:
            raise InputError(f"{first} and {other} have not the same validation cases, such as '{differing[0]}'")
    return models


def _pairs(models: Mapping[str, dict[str, Path]], out: Path) -> list[_Candidate]:
    from cdm_nnunet.nnunet.ensemble import average_doses, dose_files

    pairs = []
    for pair in itertools.combinations(models, 2):
        target = out / "ensembles" / " + ".join(pair)
        average_doses([models[name] for name in pair], target, pair)
        pairs.append(_Candidate(pair, dose_files(target)))
    return pairs


def _scored(candidate: _Candidate, dataset: Any, out: Path, processes: int) -> dict[str, Any]:
    from cdm_nnunet.evaluation.run import evaluate_folder

    links = out / "doses" / " + ".join(candidate.models)
    shutil.rmtree(links, ignore_errors=True)  # (of an earlier run, perhaps with other folds)
    links.mkdir(parents=True)
    for dose in candidate.doses.values():
        (links / dose.name).symlink_to(dose.resolve())
    scores = evaluate_folder(dataset, links, processes=processes).to_json()["scores"]
    wanted = ("ptv_score", "oar_score", "dose_mae_gy")
    lacking = [key for key in wanted if scores[key] is None]
    if lacking:
        raise InputError(f"{' + '.join(candidate.models)} has no {lacking[0]}: the template has no such goals")
    return {"models": list(candidate.models), **{key: float(scores[key]) for key in wanted}}


def _commands(models: Sequence[str], args: argparse.Namespace) -> list[str]:
    commands, outputs = [], []
    for name in models:
        trainer, plans, configuration = name.split("__")[:3]
        outputs.append(f"predictions/{trainer}_{configuration}")
        commands.append(
            f"cdm-nnunet predict -i INPUT -o {outputs[-1]} -d {args.d} -c {configuration} -f {' '.join(args.f)} "
            f"-tr {trainer} -p {plans}"
        )
    if len(models) > 1:
        commands.append(f"cdm-nnunet ensemble -i {' '.join(outputs)} -o predictions/mean")
    return commands
