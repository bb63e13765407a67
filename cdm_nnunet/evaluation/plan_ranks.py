"""Ranks of cases among the plans of their data set: a percentile per goal, to find unusual plans.

Definition: ``docs/conventions.md``, "Rank among plans".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cdm_nnunet.dataset import ROI_CHANNEL, RawDataset
from cdm_nnunet.documents import STRICT, plain, typed
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.finished import case_digest, snapshot
from cdm_nnunet.evaluation.pairing import CaseFiles, case_files, load_pair
from cdm_nnunet.evaluation.plan_metrics import PRESCRIPTION_TOLERANCE_GY
from cdm_nnunet.evaluation.rank_record import PlanRank, PlanRanks
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.roi_record import NOT_EVALUABLE, Finite, Positive, RoiResult
from cdm_nnunet.evaluation.run import Work, as_they_come
from cdm_nnunet.evaluation.scores import score_rois
from cdm_nnunet.fence import fence_of
from cdm_nnunet.kept_rows import KeptRows

PLANS_FILE = ".reference_plans"
LEAST_OTHERS = 5
"""Minimum number of other plans for a percentile."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanValues:
    """Metrics of a plan.

    Attributes:
        patient: The patient; may have several plans.
        prescription_gy: Highest prescription, Gy; None if there is none.
        values: Values by ``ROI METRIC`` of the goals with a limit, except those that depend on missing dose or are made
            for another fractionation.
    """

    patient: str
    prescription_gy: Positive | None
    values: Mapping[str, Finite]


def reference_values(rois: Mapping[str, RoiResult]) -> dict[str, float]:
    """The metrics of a case's reference plan by ``ROI METRIC``, as in :class:`PlanValues`."""
    return {
        f"{name} {goal.metric}": roi.metrics[goal.metric].reference
        for name, roi in rois.items()
        for goal in roi.goals
        if goal.reference != NOT_EVALUABLE
    }


def with_plan_ranks(evaluation: Evaluation, dataset: RawDataset, kept: Path, work: Work) -> Evaluation:
    """Add the ranks of its cases among the training plans, or else among its own plans, to an evaluation.

    Args:
        evaluation: The evaluation.
        dataset: Its data set.
        kept: File that stores the values of training plans.
        work: Options of reading; its refusals collect unreadable plans.
    """
    own = [_of_case(case) for case in evaluation.cases]
    plans = training_plans(evaluation, dataset, kept, work)
    n_unread = 0 if work.refusals is None else len(work.refusals.reasons)
    is_training = len(plans) > LEAST_OTHERS
    return replace(
        evaluation,
        plan_ranks=PlanRanks(
            cohort="training" if is_training else "evaluated",
            n_plans=len(plans) if is_training else len(own),
            n_unread=n_unread,
            cases=ranks_of(evaluation.cases, plans if is_training else own),
        ),
    )


def training_plans(evaluation: Evaluation, dataset: RawDataset, kept: Path, work: Work) -> list[PlanValues]:
    """The available reference plans of the training cases; evaluated ones are not read again."""
    evaluated = {case.case: _of_case(case) for case in evaluation.cases}
    names = [name for name, record in dataset.cases.items() if record.split == "Tr" and _is_at_hand(dataset, name)]
    files = []
    for name in names:
        if name not in evaluated:
            with fence_of(name, work.refusals):
                files.append(case_files(dataset, name, dataset.dose_path(name)))
    read = _read(files, evaluation.template, kept, work)
    plans = evaluated | read
    return [plans[name] for name in names if name in plans]


def ranks_of(cases: Sequence[CaseResult], plans: Sequence[PlanValues]) -> dict[str, dict[str, PlanRank]]:
    """Rank of each case among plans, by case and ``ROI METRIC``.

    Plans of the same patient or with another prescription are excluded.
    """
    cohort = _Cohort(plans)
    return {case.case: _ranks(case, cohort) for case in cases}


class _Cohort:
    """Plans as arrays: one over all plans for each ``ROI METRIC``, with NaN for missing values."""

    def __init__(self, plans: Sequence[PlanValues]) -> None:
        terms = {term for plan in plans for term in plan.values}
        self._values = {term: _array([plan.values.get(term) for plan in plans]) for term in terms}
        self._prescriptions = _array([plan.prescription_gy for plan in plans])
        self._patients = np.array([plan.patient for plan in plans], dtype=str)

    def comparable(self, own: PlanValues) -> NDArray[np.bool_]:
        """Mask of plans of other patients with the same prescription (or also without one)."""
        if own.prescription_gy is None:
            same = np.isnan(self._prescriptions)
        else:
            same = np.abs(self._prescriptions - own.prescription_gy) <= PRESCRIPTION_TOLERANCE_GY
        return np.asarray(same & (self._patients != own.patient))

    def values(self, term: str, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Values of the chosen plans, without missing ones."""
        if term not in self._values:
            return np.empty(0)
        values = self._values[term][chosen]
        return values[~np.isnan(values)]


def _array(numbers: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if number is None else number for number in numbers])


def _ranks(case: CaseResult, cohort: _Cohort) -> dict[str, PlanRank]:
    own = _of_case(case)
    others = cohort.comparable(own)
    goals = {f"{name} {goal.metric}": (roi, goal) for name, roi in case.rois.items() for goal in roi.goals}
    ranks = {}
    for term, reference in own.values.items():
        roi, goal = goals[term]
        values = cohort.values(term, others)
        predicted = None if goal.predicted == NOT_EVALUABLE else roi.metrics[goal.metric].predicted
        if values.size >= LEAST_OTHERS:
            ranks[term] = PlanRank(
                n=values.size,
                reference_percent=percent_below(values, reference),
                predicted_percent=None if predicted is None else percent_below(values, predicted),
            )
    return ranks


def percent_below(values: NDArray[np.float64], value: float) -> float:
    """Percent of values below a value; equal ones count half.

    Example:
        >>> percent_below(np.array([1.0, 2.0, 2.0, 3.0]), 2.0)
        50.0
    """
    return float(100 * (np.count_nonzero(values < value) + np.count_nonzero(values == value) / 2) / values.size)


def _of_case(case: CaseResult) -> PlanValues:
    return PlanValues(patient=case.patient, prescription_gy=case.prescription_gy, values=reference_values(case.rois))


def _is_at_hand(dataset: RawDataset, case: str) -> bool:
    return dataset.dose_path(case).is_file() and dataset.image_path(case, ROI_CHANNEL).is_file()


class _Read(NamedTuple):
    """A plan's digest of everything that its values depend on, and the values; None if they are already stored."""

    digest: str
    values: PlanValues | None


def _read(files: Sequence[CaseFiles], template: Template, kept: Path, work: Work) -> dict[str, PlanValues]:
    if not files:
        return {}
    plans = {}
    with KeptRows(kept, {"reference plans": 1}, keep_others=True) as rows:
        job = partial(_read_plan, template=template, kept=rows.stamps)
        for case, read in as_they_come(job, files, "reading plans", work):
            if read.values is not None:
                rows.set(case, read.digest, plain(read.values))
            row = rows.get(case, read.digest) or {}
            plans[case] = read.values or typed(row, PlanValues, f"{kept}, '{case}'", "remove the file")
    return plans


def _read_plan(files: CaseFiles, *, template: Template, kept: Mapping[str, Any]) -> _Read:
    with snapshot(files) as copies:
        digest = case_digest(copies, template, gamma=())
        if digest == kept.get(files.case):
            return _Read(digest, None)
        pair = load_pair(copies)
    values = reference_values(score_rois(pair, template).rois)
    patient = pair.patient or pair.case
    return _Read(digest, PlanValues(patient=patient, prescription_gy=pair.course.prescription_gy, values=values))
