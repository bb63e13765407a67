"""An evaluation with all its files: result, tables, pictures and report, complete or absent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.palette import shown_template
from cdm_nnunet.evaluation.plan_ranks import PLANS_FILE, with_plan_ranks
from cdm_nnunet.evaluation.publishing import publishing
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.evaluation.run import (
    CASES_FILE,
    FINISHED_FILE,
    METRICS_FILE,
    PICTURES_FOLDER,
    SCORES_FILE,
    DoseMap,
    Options,
    Progress,
    Show,
    Work,
    draw_pictures,
    evaluate_folder,
    write_outputs,
)
from cdm_nnunet.evaluation.sources import SOURCES_FILE, write_sources
from cdm_nnunet.fence import Refusals
from cdm_nnunet.report.case_parts import MOST_CASES_IN_A_FILE, CaseParts
from cdm_nnunet.report.folder import REPORT_FOLDER, refuse_foreign_folder, write_report_folder
from cdm_nnunet.report.page import REPORT_FILE, write_report

_PARTS_FOLDER = ".parts"
_OUTPUTS = (METRICS_FILE, CASES_FILE, SCORES_FILE, PICTURES_FOLDER, REPORT_FILE, REPORT_FOLDER, SOURCES_FILE)


@dataclass(frozen=True)
class EvaluationRequest:
    """Predictions to evaluate, and files to write.

    Attributes:
        predictions: Folder of ``CASE.nii.gz``.
        out: Folder for the results.
        template: The clinical template; None takes the data set's own.
        options: Options of the evaluation.
        n_pictures: Number of cases to draw, best to worst.
        with_report: Write the report, which contains CT and doses.
        n_processes: Number of cases scored at a time.
        dose_map: Colour map of the dose in pictures.
    """

    predictions: Path
    out: Path
    template: Template | None = None
    options: Options | None = None
    n_pictures: int = 3
    with_report: bool = True
    n_processes: int = 3
    dose_map: DoseMap = "jet"

    def __post_init__(self) -> None:
        if self.n_pictures < 0:
            raise InputError(f"--pictures takes a number of cases, not {self.n_pictures}")


@dataclass(frozen=True)
class Published:
    """An evaluation, and its files.

    Attributes:
        evaluation: The evaluation.
        files: Paths by kind.
        pictures: Paths by case.
        not_drawn: Reasons for missing pictures, or images in the report, by case.
    """

    evaluation: Evaluation
    files: dict[str, str]
    pictures: dict[str, list[str]]
    not_drawn: dict[str, str]


def evaluate_and_publish(
    dataset: RawDataset, request: EvaluationRequest, progress: Progress | None = None
) -> Published:
    """Score the predictions of a folder, and write the results.

    Args:
        dataset: The raw data set.
        request: The predictions.
        progress: As in :func:`evaluate_folder`; also called for pictures.

    Raises:
        InputError: As :func:`evaluate_folder`.
    """
    log = request.out.resolve() / "errors.log"
    unscored, undrawn, unshown, unread = (Refusals(log) for _ in range(4))
    work = Work(processes=request.n_processes, progress=progress)
    template = dataset.template if request.template is None else request.template
    options = Options() if request.options is None else request.options
    refuse_foreign_folder(request.out)
    with publishing(request.out, _OUTPUTS) as aside:
        gamma = next(iter(options.gamma), None)
        parts = CaseParts(aside / _PARTS_FOLDER, shown_template(template, dataset), unshown.reasons, gamma)
        evaluation = evaluate_folder(
            dataset,
            request.predictions,
            template,
            options,
            finished=request.out / FINISHED_FILE,
            work=replace(work, refusals=unscored),
            show=Show(parts.keep, unshown) if request.with_report else None,
        )
        if options.ranks:
            reading = replace(work, refusals=unread)
            evaluation = with_plan_ranks(evaluation, dataset, request.out / PLANS_FILE, reading)
        pictures = draw_pictures(
            evaluation,
            dataset,
            request.predictions,
            aside,
            n_cases=request.n_pictures,
            work=replace(work, refusals=undrawn),
            dose_map=request.dose_map,
        )
        files = write_outputs(evaluation, aside)
        write_sources(dataset.folder, request.predictions, request.out, aside)
        if request.with_report:
            is_file = len(evaluation.cases) <= MOST_CASES_IN_A_FILE
            write = write_report if is_file else write_report_folder
            files["report"] = str(write(evaluation, parts, aside / (REPORT_FILE if is_file else REPORT_FOLDER)))
    return Published(
        evaluation,
        {key: str(request.out / Path(path).relative_to(aside)) for key, path in files.items()},
        {
            case: [str(request.out / PICTURES_FOLDER / Path(path).name) for path in paths]
            for case, paths in pictures.items()
        },
        {**undrawn.reasons, **unshown.reasons},
    )
