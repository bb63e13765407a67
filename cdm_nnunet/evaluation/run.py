"""Evaluate a folder of predictions: pair, score in parallel, pool, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pairing import CaseFiles, find_cases, load_pair
from cdm_nnunet.evaluation.record import RESULT_FILE, CaseResult, Evaluation
from cdm_nnunet.evaluation.scores import dose_region_name, match_rois, pooled_scores, score_case
from cdm_nnunet.evaluation.tables import metrics_csv, scores_csv
from cdm_nnunet.files import write_text
from cdm_nnunet.parallel import unordered

METRICS_FILE = "metrics.csv"
SCORES_FILE = "scores.csv"
PICTURES_FOLDER = "pictures"
Progress = Callable[[str, int, int], None]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def evaluate_folder(
    dataset: RawDataset,
    predictions: Path,
    template: Template | None = None,
    *,
    processes: int = 1,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the predictions in a folder against the reference doses of a data set.

    Args:
        dataset: The raw data set.
        predictions: Folder of ``CASE.nii.gz``; cases without a prediction are left out, and their number is stated.
        template: The clinical template; None takes the data set's own.
        processes: Number of cases that are scored at a time.
        progress: Called with ``"scoring"``, the number of cases done and of all.

    Raises:
        InputError: As :func:`find_cases`, :func:`load_pair` and :func:`score_case`.
    """
    template = dataset.template if template is None else template
    match_rois(template, dataset.catalogue)  # refuses a template that has nothing to do with the data
    cases = find_cases(dataset, predictions)
    results = _map(partial(_score, template=template), cases, processes, "scoring", progress)
    return Evaluation(
        dataset.folder.name,
        template,
        dose_region_name(dataset.catalogue),
        len(dataset.cases),
        tuple(results),
        pooled_scores(results),
    )


def write_outputs(evaluation: Evaluation, out: Path) -> dict[str, str]:
    """Write ``result.json`` and the CSV tables into a folder, each whole or not at all.

    Returns:
        Their paths: ``result``, ``metrics`` and ``scores``.
    """
    texts = {
        "metrics": (METRICS_FILE, metrics_csv(evaluation)),
        "scores": (SCORES_FILE, scores_csv(evaluation)),
        "result": (RESULT_FILE, json.dumps(evaluation.to_json(), indent=1, allow_nan=False) + "\n"),
    }
    for name, text in texts.values():
        write_text(out / name, text)
    return {key: str(out / name) for key, (name, _) in texts.items()}


def draw_pictures(
    evaluation: Evaluation,
    dataset: RawDataset,
    predictions: Path,
    out: Path,
    *,
    n_cases: int,
    processes: int = 1,
    progress: Progress | None = None,
) -> dict[str, list[str]]:
    """Draw cases from the best to the worst dose error, evenly spread: for three, the best, the median and the worst.

    Returns:
        Paths of the pictures by case, best first.
    """
    chosen = cases_to_draw(evaluation.cases, n_cases)
    files = {files.case: files for files in find_cases(dataset, predictions)}
    job = partial(_draw, template=evaluation.template, folder=out / PICTURES_FOLDER)
    paths = _map(job, [files[case] for case in chosen], processes, "drawing", progress)
    return dict(zip(chosen, paths, strict=True))


def cases_to_draw(cases: Sequence[CaseResult], n: int) -> tuple[str, ...]:
    """Names of ``n`` cases (or all, where there are fewer) spread evenly over the ranking by dose error, best first."""
    ranked = [case.case for case in sorted(cases, key=lambda case: (case.dose_mae_gy, case.case))]
    n = min(n, len(ranked))
    if n < 2:
        return (ranked[len(ranked) // 2],) if n else ()
    return tuple(ranked[round(i * (len(ranked) - 1) / (n - 1))] for i in range(n))


def _score(files: CaseFiles, *, template: Template) -> CaseResult:
    return score_case(load_pair(files), template)


def _draw(files: CaseFiles, *, template: Template, folder: Path) -> list[str]:
    from cdm_nnunet.evaluation.pictures import draw_case  # (matplotlib takes a second to import)

    return [str(path) for path in draw_case(files, template, folder)]


def _map(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    processes: int,
    verb: str,
    progress: Progress | None,
) -> list[_Result]:
    results: dict[int, _Result] = {}
    for position, result in unordered(work, items, processes):
        results[position] = result
        if progress is not None:
            progress(verb, len(results), len(items))
    return [results[position] for position in range(len(items))]
