"""The model, or mean of two models, with the lowest scores on the validation cases of its folds."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.run import Work, evaluate_folder
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import configuration_in, find_dataset, folder
from cdm_nnunet.nnunet.ensemble import average_doses, dose_files

RESULT_FILE = "find_best.json"
_SCORES = ("ptv_score", "oar_score")


@dataclass(frozen=True)
class Search:
    """Models to compare.

    Attributes:
        dataset_id: Number of the data set.
        folds: Folds that every model must have.
        configurations: Only these; empty for all.
        trainers: Only these; empty for all.
        pairs: Also compare means of two models.
        n_processes: Worker processes.
    """

    dataset_id: int
    folds: tuple[str, ...] = ("0",)
    configurations: frozenset[str] = frozenset()
    trainers: frozenset[str] = frozenset()
    pairs: bool = True
    n_processes: int = 2

    def __post_init__(self) -> None:
        for fold in self.folds:
            if not fold.isdigit():
                raise InputError(f"a fold to validate on is a number, not '{fold}'")


@dataclass(frozen=True)
class _Candidate:
    """A model or a mean of several, with its validation doses by case."""

    models: tuple[str, ...]
    doses: Mapping[str, Path]


def find_best(search: Search, out: Path) -> dict[str, Any]:
    """Score every candidate on the same cases, rank them, and write the record.

    Args:
        search: Models to compare.
        out: Folder for the record and for means of pairs.

    Returns:
        ``dataset``, ``folds``, ``n_cases``, ``ranked`` (from best to worst: models and scores) and ``predict`` (the
        commands that predict with the best).

    Raises:
        InputError: If no model was validated on all folds, or models have different validation cases or scores.
    """
    dataset = RawDataset(find_dataset(search.dataset_id))
    models = _models(search, folder("nnUNet_results") / dataset.folder.name)
    candidates = [_Candidate((name,), doses) for name, doses in models.items()]
    if search.pairs:
        candidates += _pairs(models, out)
    scored = [_scored(candidate, dataset, out, search.n_processes) for candidate in candidates]
    best = {key: min(one[key] for one in scored) for key in _SCORES}
    for one in scored:
        one["relative"] = sum(one[key] / max(best[key], 1e-9) for key in best) / len(best)
    scored.sort(key=lambda one: one["relative"])
    record = {
        "dataset": dataset.folder.name,
        "folds": list(search.folds),
        "n_cases": len(candidates[0].doses),
        "ranked": scored,
        "predict": _commands(scored[0]["models"], search),
    }
    write_json(out / RESULT_FILE, record)
    return record


def _models(search: Search, results: Path) -> dict[str, dict[str, Path]]:
    models: dict[str, dict[str, Path]] = {}
    for path in sorted(results.glob("*__*__*")):
        trainer, _, configuration = path.name.split("__")[:3]
        asked = [configuration_in([configuration], name) for name in search.configurations or [configuration]]
        if configuration not in asked or (search.trainers and trainer not in search.trainers):
            continue
        folders = [path / f"fold_{fold}" / "validation" for fold in search.folds]
        if not all((one / "summary.json").is_file() for one in folders):
            sys.stderr.write(f"left out, not validated on all folds: {path.name}\n")
            continue
        models[path.name] = {case: dose for one in folders for case, dose in dose_files(one).items()}
    if not models:
        raise InputError(
            f"no model in {results} was validated on fold {', '.join(search.folds)}: train to the end first, or name "
            "other folds (-f)"
        )
    first, *others = models
    for other in others:
        differing = sorted(set(models[first]) ^ set(models[other]))
        if differing:
            raise InputError(f"{first} and {other} do not have the same validation cases, such as '{differing[0]}'")
    return models


def _pairs(models: Mapping[str, dict[str, Path]], out: Path) -> list[_Candidate]:
    pairs = []
    for pair in itertools.combinations(models, 2):
        target = out / "ensembles" / " + ".join(pair)
        average_doses([models[name] for name in pair], target, pair)
        pairs.append(_Candidate(pair, dose_files(target)))
    return pairs


def _scored(candidate: _Candidate, dataset: RawDataset, out: Path, processes: int) -> dict[str, Any]:
    links = out / "doses" / " + ".join(candidate.models)
    shutil.rmtree(links, ignore_errors=True)  # (from an earlier run, possibly with other folds)
    links.mkdir(parents=True)
    for dose in candidate.doses.values():
        (links / dose.name).symlink_to(dose.resolve())
    scores = evaluate_folder(dataset, links, work=Work(processes=processes)).scores
    wanted = ("ptv_score", "oar_score", "dose_mae_gy")
    found = {key: getattr(scores, key) for key in wanted}
    lacking = [key for key, score in found.items() if score is None]
    if lacking:
        raise InputError(f"{' + '.join(candidate.models)} has no {lacking[0]}: the template has no such goals")
    return {"models": list(candidate.models), **found}


def _commands(models: Sequence[str], search: Search) -> list[str]:
    commands, outputs = [], []
    for name in models:
        trainer, plans, configuration = name.split("__")[:3]
        outputs.append(f"predictions/{trainer}_{configuration}")
        commands.append(
            f"cdm-nnunet predict -i INPUT -o {outputs[-1]} -d {search.dataset_id} -c {configuration} "
            f"-f {' '.join(search.folds)} -tr {trainer} -p {plans}"
        )
    if len(models) > 1:
        commands.append(f"cdm-nnunet ensemble -i {' '.join(outputs)} -o predictions/mean")
    return commands
