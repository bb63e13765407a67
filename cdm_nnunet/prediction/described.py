"""Files next to each predicted dose: the patient's record, and on request a report and objectives.

A record describes the written dose, so it is made after all doses. If a record can't be made, its dose remains.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dvh import Template, match_rois
from cdm_nnunet.dvh.matching import refuse_without_goal
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import Attempt, Refusals, Refused
from cdm_nnunet.files import passing_folder
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.parallel import processes_for, unordered
from cdm_nnunet.patient.calibrated import Calibrated
from cdm_nnunet.patient.objectives import (
    OBJECTIVE_FORMATS,
    ObjectiveFormat,
    objectives_name,
    objectives_of,
    write_objectives,
)
from cdm_nnunet.patient.record import PATIENT_ENDING, PatientRecord
from cdm_nnunet.patient.scoring import NewDose, describe_dose
from cdm_nnunet.report.new_patient import PATIENT_REPORT_ENDING, write_patient_report

Predict = Callable[[Sequence[Sequence[str]], Path], None]  # channels of the cases, folder for their doses (NIfTI)


@dataclass(frozen=True)
class Extras:
    """Requested files in addition to each dose.

    Attributes:
        template: Name or file of the clinical template; None takes the model's.
        report: Write ``CASE.report.html``, which contains CT and dose.
        objectives: Write ``CASE.objectives.csv`` or ``.json``; None for neither.
        calibrate: ``result.json`` of an evaluation with members; None for no intervals.
        coverage_percent: Nominal coverage of the intervals.
    """

    template: str | None = None
    report: bool = False
    objectives: ObjectiveFormat | None = None
    calibrate: Path | None = None
    coverage_percent: float = 90.0


@dataclass(frozen=True)
class Described:
    """Files and results of a patient.

    Attributes:
        case: Case name.
        record: Path of the record.
        applies: Whether the model applies to the patient, according to the record; None if unknown.
        verdicts: Number of goals with each verdict.
        uncertain: Number of goals with an uncertain verdict; None without intervals.
        report: Path of the report; None if not requested.
        objectives: Path of the objectives; None if not requested.
    """

    case: str
    record: str
    applies: str | None
    verdicts: dict[str, int]
    uncertain: int | None = None
    report: str | None = None
    objectives: str | None = None


@dataclass(frozen=True)
class Describer:
    """Writes the files next to doses.

    Attributes:
        template: Template that judges the patients.
        extras: Requested files.
        calibrated: Calibration of intervals; None for none.
    """

    template: Template
    extras: Extras = field(default_factory=Extras)
    calibrated: Calibrated | None = None

    @classmethod
    def of(cls, plans: DosePlans, extras: Extras, n_folds: int) -> Describer:
        """Check the request before prediction.

        Args:
            plans: Plans of the model.
            extras: Requested files.
            n_folds: Number of folds that predict.

        Raises:
            InputError: If the template can't be used for the model's ROIs, or the calibration for model and template.
        """
        template = plans.template if extras.template is None else Template.load(extras.template)
        matched = match_rois(template, plans.catalogue)
        refuse_without_goal(template, template.goals_for("evaluation"), matched, plans.catalogue.names)
        calibrated = None
        if extras.calibrate is not None:
            calibrated = Calibrated.read(extras.calibrate, extras.coverage_percent, template, n_folds)
        return cls(template, extras, calibrated)

    def describe(self, dose: NewDose, out: Path, dataset: str = "") -> Described:
        """Write the files next to a dose.

        Args:
            dose: The dose.
            out: Its folder.
            dataset: Data set of the case; empty for none.

        Raises:
            InputError: If dose or ROIs can't be used, or the calibration is not valid for them.
        """
        files = dose.files
        calibration, unknown = None, tuple[str, ...]()
        if self.calibrated is not None:
            calibration = self.calibrated.calibration
            unknown = self.calibrated.fit_for(files.case, files.patient, dataset, dose.model)
        record = describe_dose(dose, self.template, calibration).noted(*unknown)
        report = objectives = None
        if self.extras.report:
            report = str(write_patient_report(record, files, self.template, out))
        if self.extras.objectives is not None:
            objectives = str(write_objectives(objectives_of(record, self.template), out, self.extras.objectives))
        return _described(record, str(record.write(out)), report, objectives)


@dataclass(frozen=True)
class FoldDoses:
    """Predicts with each fold alone, for the spread that determines intervals.

    Attributes:
        folds: One function per fold; empty without intervals.
    """

    folds: tuple[Predict, ...] = ()

    @contextlib.contextmanager
    def of(self, cases: Sequence[Sequence[str]], parent: Path) -> Iterator[tuple[Path, ...]]:
        """Predict cases with each fold, into temporary folders that exist within the block.

        Args:
            cases: Channels of the cases.
            parent: Parent of the folders.
        """
        if not self.folds or not cases:
            yield ()
            return
        with passing_folder(parent, ".folds_") as work:
            members = tuple(work / str(number) for number in range(len(self.folds)))
            for predict, member in zip(self.folds, members, strict=True):
                predict(cases, member)
            yield members


WITHOUT_FOLDS = FoldDoses()


def describe_all(
    describer: Describer, jobs: Sequence[tuple[NewDose, str]], out: Path, n_processes: int = 1
) -> tuple[list[Described], Refusals]:
    """Write the files next to the doses of a folder.

    Args:
        describer: Writes the files.
        jobs: The doses, each with its data set (or an empty text).
        out: The folder.
        n_processes: Number of processes, for many doses.

    Returns:
        Files and results, and the reasons for missing ones.
    """
    refusals = Refusals(out / "errors.log")
    attempt = Attempt(partial(_describe, describer=describer, out=out), refusals.log)
    done: dict[int, Described] = {}
    for position, result in unordered(attempt, jobs, processes_for(len(jobs), n_processes)):
        if isinstance(result, Refused):
            refusals.add(jobs[position][0].files.case, result.reason)
        else:
            done[position] = result
    return [done[position] for position in sorted(done)], refusals


def clear(out: Path, cases: Iterable[str]) -> None:
    """Remove files of an earlier prediction next to the doses of cases: a new dose has other numbers."""
    for case in cases:
        names = [objectives_name(case, kind) for kind in OBJECTIVE_FORMATS]
        for name in (case + PATIENT_ENDING, case + PATIENT_REPORT_ENDING, *names):
            (out / name).unlink(missing_ok=True)


def told(refusals: Refusals) -> str:
    """Doses without a record, with reasons; empty if all have one."""
    each = "; ".join(f"[{case}] {reason}" for case, reason in refusals.reasons.items())
    n = len(refusals.reasons)
    return f"{counted(n, 'dose')} predicted without a record of the patient: {each}" if each else ""


def _describe(job: tuple[NewDose, str], *, describer: Describer, out: Path) -> Described:
    dose, dataset = job
    try:
        return describer.describe(dose, out, dataset)
    except InputError:
        clear(out, [dose.files.case])
        raise


def _described(record: PatientRecord, path: str, report: str | None, objectives: str | None) -> Described:
    goals = [goal for roi in record.rois.values() for goal in roi.goals]
    uncertain = None if record.intervals is None else sum(goal.certainty == "uncertain" for goal in goals)
    applies = None if record.applicability is None else record.applicability.status
    return Described(
        record.case, path, applies, dict(Counter(goal.verdict for goal in goals)), uncertain, report, objectives
    )
