"""Evaluate a folder of predictions: pair, score in parallel, pool, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Template, match_rois
from cdm_nnunet.dvh.matching import refuse_without_goal
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.doses import dose_region_name
from cdm_nnunet.evaluation.finished import case_digest, snapshot
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.origin import origin_of_predictions
from cdm_nnunet.evaluation.pairing import CaseFiles, CaseImages, Required, find_cases, read_case
from cdm_nnunet.evaluation.palette import difference_span_gy
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.reading import case_from_json
from cdm_nnunet.evaluation.record import RESULT_FILE, CaseResult, Evaluation
from cdm_nnunet.evaluation.scores import score_case
from cdm_nnunet.evaluation.tables import cases_csv, metrics_csv, scores_csv
from cdm_nnunet.evaluation.uncertainty import fit_calibration, refuse_unfit, with_intervals
from cdm_nnunet.fence import Attempt, Refusals, Refused
from cdm_nnunet.files import write_text
from cdm_nnunet.kept_rows import KeptRows
from cdm_nnunet.parallel import unordered

METRICS_FILE = "metrics.csv"
CASES_FILE = "cases.csv"
SCORES_FILE = "scores.csv"
PICTURES_FOLDER = "pictures"
FINISHED_FILE = ".scored_cases"
DoseMap = Literal["jet", "viridis"]
Progress = Callable[[str, int, int], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Options:
    """Options of an evaluation.

    Attributes:
        cases: Names of the cases; empty for all with a prediction.
        required: Cases of the data set that must have a prediction: all, or those of a split.
        members: Folders of ``CASE.nii.gz``, one for each member of the predicting ensemble.
        gamma: The gamma pass rates to compute.
        calibrated_on: Evaluation with members, of other cases, on which the intervals are calibrated.
        coverage_percent: Nominal coverage of the intervals.
        ranks: Whether the cases are ranked among the plans of the training cases.

    Raises:
        InputError: If there is only one member, a member's folder is repeated, or there is a calibration without
            members.
    """

    cases: tuple[str, ...] = ()
    required: Required | None = None
    members: tuple[Path, ...] = ()
    gamma: tuple[GammaRule, ...] = ()
    calibrated_on: Evaluation | None = None
    coverage_percent: float = 90.0
    ranks: bool = True

    def __post_init__(self) -> None:
        if len(self.members) == 1 or len({path.resolve() for path in self.members}) < len(self.members):
            raise InputError("a spread needs at least two members; give the folder of each fold once")
        if self.calibrated_on is not None and not self.members:
            raise InputError("a calibration turns the spread of members into intervals; give their folders too")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Options of processing cases.

    Attributes:
        processes: Number of cases at a time.
        progress: Called with the name of the step (such as ``"scoring"``), the number of finished and of all cases.
        refusals: Collects the refused cases; without it the first one ends the run.
    """

    processes: int = 1
    progress: Progress | None = None
    refusals: Refusals | None = None


@dataclass(frozen=True)
class Show:
    """Function for the images of each case while it is scored, so that they are not read again.

    Attributes:
        make: Called with the number of cases and the images of one; worker processes may call it.
        refusals: Collects the cases that it refuses; they are still scored.
    """

    make: Callable[[int, CaseImages], None]
    refusals: Refusals

    def attempt(self, n_cases: int) -> Attempt[CaseImages, None]:
        """The function for worker processes."""
        return Attempt(partial(self.make, n_cases), self.refusals.log)


_ONE_BY_ONE = Work()


def evaluate_folder(
    dataset: RawDataset,
    predictions: Path,
    template: Template | None = None,
    options: Options | None = None,
    *,
    finished: Path | None = None,
    work: Work = _ONE_BY_ONE,
    show: Show | None = None,
) -> Evaluation:
    """Score the predictions in a folder against the reference doses of a data set.

    Args:
        dataset: The raw data set.
        predictions: Folder of ``CASE.nii.gz``; cases without a prediction are left out, and their number is stated.
        template: The clinical template; None takes the data set's own.
        options: Options of the evaluation.
        finished: File that stores the results of cases; a case that is up to date is not scored again.
        work: Options of processing; the result lists refused cases.
        show: Function for their images.

    Raises:
        InputError: As :func:`find_cases`, :func:`origin_of_predictions`, :func:`read_case`,
            :func:`score_case` and :func:`fit_calibration`; or if no case is left.
    """
    refusals = work.refusals
    options = Options() if options is None else options
    template = dataset.template if template is None else template
    matched = match_rois(template, dataset.catalogue)
    refuse_without_goal(template, template.goals_for("evaluation"), matched, dataset.catalogue.names)
    calibration = None
    if options.calibrated_on is not None:
        calibration = fit_calibration(options.calibrated_on, options.coverage_percent)
    cases = find_cases(
        dataset, predictions, only=options.cases, required=options.required, members=options.members, refusals=refusals
    )
    model, notes = origin_of_predictions(dataset, {files.case: files.predicted for files in cases}, refusals)
    for number in range(len(options.members)):
        origin_of_predictions(dataset, {files.case: files.members[number] for files in cases}, refusals)
    left_out = {} if refusals is None else refusals.reasons
    cases = tuple(files for files in cases if files.case not in left_out)
    results = _scored(cases, _Rule(template, options.gamma), finished, work, show)
    if refusals is not None and not results:
        raise InputError(refusals.told(len(left_out)))
    evaluation = Evaluation(
        dataset=dataset.folder.name,
        template=template,
        dose_region=dose_region_name(dataset.catalogue),
        n_dataset_cases=len(dataset.cases),
        cases=tuple(results),
        scores=pooled_scores(results),
        n_members=len(options.members),
        model=model,
        notes=notes,
        left_out=dict(sorted(left_out.items())),
    )
    if options.calibrated_on is None or calibration is None:
        return evaluation
    refuse_unfit(options.calibrated_on, evaluation)
    results = [with_intervals(case, calibration) for case in results]
    return replace(
        evaluation,
        cases=tuple(results),
        scores=pooled_scores(results, calibration.nominal_percent),
        calibration=calibration,
    )


def write_outputs(evaluation: Evaluation, out: Path) -> dict[str, str]:
    """Write ``result.json`` and the CSV tables into a folder, each complete or absent.

    Returns:
        Their paths: ``result``, ``metrics``, ``cases`` and ``scores``.
    """
    texts = {
        "cases": (CASES_FILE, cases_csv(evaluation)),
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
    work: Work = _ONE_BY_ONE,
    dose_map: DoseMap = "jet",
) -> dict[str, list[str]]:
    """Draw cases evenly spread from the best to the worst dose error: for three, the best, the median and the worst.

    Args:
        evaluation: The result.
        dataset: The data set that was evaluated.
        predictions: The folder that was evaluated.
        out: Parent of the folder of pictures.
        n_cases: Maximum number of cases.
        work: Options of drawing.
        dose_map: Colour map of the dose.

    Returns:
        Paths of the pictures by case, best first.
    """
    chosen = cases_to_draw(evaluation.cases, n_cases)
    if not chosen:
        return {}
    files = {files.case: files for files in find_cases(dataset, predictions, only=chosen, refusals=work.refusals)}
    from cdm_nnunet.evaluation.palette import shown_template

    drawing = _Drawing(
        shown_template(evaluation.template, dataset),
        out / PICTURES_FOLDER,
        evaluation.scores.dose_mae_gy,
        dose_map,
        {case.case: _outside_percent(case) for case in evaluation.cases if case.case in chosen},
    )
    job = partial(_draw, drawing=drawing)
    drawn = dict(as_they_come(job, [files[case] for case in chosen if case in files], "drawing", work))
    return {case: drawn[case] for case in chosen if case in drawn}


def cases_to_draw(cases: Sequence[CaseResult], n: int) -> tuple[str, ...]:
    """Names of ``n`` cases (or all, if there are fewer) spread evenly over the ranking by dose error, best first."""
    ranked = [case.case for case in sorted(cases, key=lambda case: (case.dose_mae_gy, case.case))]
    n = min(n, len(ranked))
    if n < 2:
        return (ranked[len(ranked) // 2],) if n else ()
    return tuple(ranked[round(i * (len(ranked) - 1) / (n - 1))] for i in range(n))


class _Rule(NamedTuple):
    """Rule for scoring a case."""

    template: Template
    gamma: tuple[GammaRule, ...]

    def digest(self, files: CaseFiles) -> str:
        return case_digest(files, self.template, gamma=self.gamma)


@dataclass(frozen=True)
class _Scored:
    """A case's digest of everything that its result depends on, and the result; None if it is already stored.

    Also the reason why it can't be shown.
    """

    digest: str
    result: CaseResult | None
    unshown: Refused | None = None


def _scored(
    cases: Sequence[CaseFiles], rule: _Rule, finished: Path | None, work: Work, show: Show | None
) -> list[CaseResult]:
    """Results of the cases in their order, without refused ones."""
    results = {}
    with KeptRows(finished, {"scored cases": 1}, keep_others=True) as kept:
        attempt = None if show is None else show.attempt(len(cases))
        job = partial(_score, rule=rule, kept=kept.stamps, show=attempt)
        for case, scored in as_they_come(job, cases, "scoring", work):
            result = scored.result
            if result is not None:
                kept.set(case, scored.digest, result.to_json())
            else:
                row = kept.get(case, scored.digest) or {}
                result = case_from_json(case, row, rule.template, f"{finished}: ")
            results[case] = result
            if show is not None and scored.unshown is not None:
                show.refusals.add(case, scored.unshown.reason)
    return [results[files.case] for files in cases if files.case in results]


def _score(
    files: CaseFiles, *, rule: _Rule, kept: Mapping[str, Any], show: Attempt[CaseImages, None] | None
) -> _Scored:
    known = kept.get(files.case)
    if show is None and known is not None and known == (digest := rule.digest(files)):
        return _Scored(digest, None)
    with snapshot(files) as copies:
        digest = rule.digest(copies)
        images = read_case(copies).named(files)
    result = None if digest == known else score_case(images.pair, rule.template, gamma=rule.gamma)
    return _Scored(digest, result, None if show is None else show(images))


class _Drawing(NamedTuple):
    """Pictures to draw of the cases of an evaluation."""

    template: Template
    folder: Path
    error_gy: float
    dose_map: DoseMap
    outside_percent: Mapping[str, Mapping[str, float]]


def _outside_percent(case: CaseResult) -> dict[str, float]:
    return {name: roi.outside_region_percent for name, roi in case.rois.items() if roi.outside_region_percent}


def _draw(files: CaseFiles, *, drawing: _Drawing) -> list[str]:
    from cdm_nnunet.evaluation.pictures import Look, draw_case  # (matplotlib: a second to import)

    look = Look(difference_span_gy(drawing.error_gy), drawing.dose_map, drawing.outside_percent[files.case])
    return [str(path) for path in draw_case(files, drawing.template, drawing.folder, look)]


def as_they_come(
    job: Callable[[CaseFiles], _Result], cases: Sequence[CaseFiles], verb: str, work: Work
) -> Iterator[tuple[str, _Result]]:
    """Case and result, as they become ready; refused cases have no result."""
    refusals = work.refusals
    attempt = job if refusals is None else Attempt(job, refusals.log)
    for done, (position, result) in enumerate(unordered(attempt, cases, work.processes), 1):
        case = cases[position].case
        if isinstance(result, Refused) and refusals is not None:
            refusals.add(case, result.reason)
        elif not isinstance(result, Refused):
            yield case, result
        if work.progress is not None:
            work.progress(verb, done, len(cases))
