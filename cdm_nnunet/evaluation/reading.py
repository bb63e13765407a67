"""Reading and validation of a result record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.documents import read_json, typed
from cdm_nnunet.dvh import Goal, Template
from cdm_nnunet.dvh.course_limits import limits_in_course
from cdm_nnunet.dvh.regime import Course
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.record import (
    FORMAT_VERSION,
    RESULT_FILE,
    CaseResult,
    DoseResult,
    Evaluation,
    ResultFile,
)
from cdm_nnunet.evaluation.roi_record import NOT_EVALUABLE, GoalResult, MetricResult, RoiResult
from cdm_nnunet.evaluation.score_record import without_challenge_keys
from cdm_nnunet.evaluation.uncertainty import certainty_of

MAX_RESULT_BYTES = 2**30
SCORE_TOLERANCE = 1e-9  # relative: means of the same numbers, summed by another release of a library
_ADDED: Mapping[str, Any] = {
    "model": None,
    "notes": [],
    "left_out": {},
    "plan_ranks": None,
}  # keys missing in the first records of this format
_AGAIN = "'cdm-nnunet evaluate' writes it"


def load_evaluation(path: Path | str) -> Evaluation:
    """Read a ``result.json``, or the one in a folder.

    Raises:
        InputError: If it is missing or not JSON, or as :func:`evaluation_from_json`.
    """
    path = Path(path)
    path = path / RESULT_FILE if path.is_dir() else path
    return evaluation_from_json(read_json(path, dict[str, Any], _AGAIN, max_bytes=MAX_RESULT_BYTES), str(path))


def evaluation_from_json(content: Mapping[str, Any], where: str) -> Evaluation:
    """Check the content of a ``result.json``.

    Args:
        content: The parsed JSON.
        where: Its name in messages, such as the file.

    Raises:
        InputError: If it has another format version, a value has another type or is out of range, a verdict, limit or
            score does not follow from the rest, or it is not exactly as written by :meth:`Evaluation.to_json`.
    """
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{where} is not a result of format version {FORMAT_VERSION} (it says {version}); "
            "evaluate again with this version of cdm-nnunet"
        )
    content = {**_ADDED, **content}
    file = typed(_nested(content), ResultFile, where, "evaluate again")
    template = Template.from_json(file.template_definition, f"{where}: template_definition")
    for name, case in file.cases.items():
        _refuse_edited(case, content["cases"][name], template, f"{where}: ")
    if not file.cases:
        raise InputError(f"{where} has no case; evaluate again")
    if file.left_out.keys() & file.cases.keys() or len(file.left_out) + len(file.cases) > file.n_dataset_cases:
        raise InputError(f"{where} was edited: its cases and those that were left out contradict each other")
    if file.plan_ranks is not None and file.plan_ranks.cases.keys() != file.cases.keys():
        raise InputError(f"{where} was edited: the cases of plan_ranks are not its cases; evaluate again")
    cases = tuple(file.cases.values())
    if len({_measures(case.dose) for case in cases if case.dose is not None}) > 1:
        raise InputError(f"{where} was edited: bands, isodoses or gamma criteria of its cases differ; evaluate again")
    wanted = pooled_scores(cases, None if file.calibration is None else file.calibration.nominal_percent)
    for place in _differences(file.scores.to_json(), wanted.to_json(), "scores"):
        raise InputError(f"{where} was edited: {place} is not that of its cases; evaluate again")
    evaluation = Evaluation(
        dataset=file.dataset,
        template=template,
        dose_region=file.dose_region,
        n_dataset_cases=file.n_dataset_cases,
        cases=cases,
        scores=file.scores,
        n_members=file.n_members,
        calibration=file.calibration,
        software_version=file.software.cdm_nnunet,
        model=file.model,
        notes=file.notes,
        left_out=file.left_out,
        plan_ranks=file.plan_ranks,
    )
    if evaluation.to_json() != content:
        raise InputError(f"{where} was edited: its keys or derived values are not those of an evaluation")
    return evaluation


def case_from_json(case: str, entry: Mapping[str, Any], template: Template, where: str) -> CaseResult:
    """Check a case of a record; messages start with ``where``.

    Raises:
        InputError: As :func:`evaluation_from_json`.
    """
    result = typed(_nested_case(case, entry), CaseResult, f"{where}case '{case}'", "evaluate again")
    _refuse_edited(result, entry, template, where)
    return result


def _refuse_edited(case: CaseResult, entry: Mapping[str, Any], template: Template, where: str) -> None:
    where = f"{where}case '{case.case}'"
    for problem in _contradictions(case, template):
        raise InputError(f"{where} was edited: {problem}; evaluate again")
    if case.to_json() != entry:
        raise InputError(f"{where} was edited: its keys or derived values are not those of an evaluation")


def _measures(dose: DoseResult) -> tuple[object, ...]:
    """Bands, isodoses and criteria of the comparison of two doses."""
    bands = tuple((band.from_percent, band.to_percent) for band in dose.bands)
    criteria = tuple(replace(gamma, n_voxels=0, pass_percent=None) for gamma in dose.gamma)
    return bands, tuple(dose.isodose_dice), criteria


def _nested(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as :class:`ResultFile` has it: cases know their names, and challenges stand together."""
    found = dict(content)
    if isinstance(scores := content.get("scores"), dict):
        found["scores"] = without_challenge_keys(scores)
    if isinstance(cases := content.get("cases"), dict):
        found["cases"] = {name: _nested_case(name, entry) for name, entry in cases.items()}
    return found


def _nested_case(case: str, entry: object) -> object:
    return {**without_challenge_keys(entry, known_only=True), "case": case} if isinstance(entry, dict) else entry


def _contradictions(case: CaseResult, template: Template) -> Iterator[str]:
    goals: dict[str, dict[str, Goal]] = {}
    for goal in template.goals_for("evaluation"):
        goals.setdefault(goal.roi, {})[str(goal.metric)] = goal
    if sorted([*case.rois, *case.missing]) != sorted(goals):
        yield "its ROIs, with those that are missing, are not those of the template's goals"
        return
    for challenge in CHALLENGES:
        terms = case.challenges.get(challenge.name)
        if terms is not None and sorted(terms) != sorted(score.terms for score in challenge.scores):
            yield f"what it adds to {challenge.title}'s scores is not what they are made of"
    course = Course(case.prescription_gy, case.fractions)
    if not set(case.undefined) <= {f"{name} {key}" for name in case.rois for key in goals[name]}:
        yield "metrics that are not defined are not those of its ROIs"
    for name, roi in case.rois.items():
        if roi.kind != template.roi(name).kind:
            yield f"'{name}' is of kind '{template.roi(name).kind}', not '{roi.kind}'"
        defined = {key: goal for key, goal in goals[name].items() if f"{name} {key}" not in case.undefined}
        yield from (f"'{name}': {problem}" for problem in _roi_contradictions(roi, defined, template, course))


def _roi_contradictions(roi: RoiResult, goals: Mapping[str, Goal], template: Template, course: Course) -> Iterator[str]:
    if sorted(roi.metrics) != sorted(goals):
        yield "its metrics are not those of the template's goals"
        return
    for key, metric in roi.metrics.items():
        if metric.unit != goals[key].metric.unit:
            yield f"{key} is in '{goals[key].metric.unit}', not in '{metric.unit}'"
        if metric.interval is not None and metric.interval[0] > metric.interval[1]:
            yield f"the interval of {key} ends before it begins"
    if [result.metric for result in roi.goals] != [key for key, goal in goals.items() if goal.has_limit]:
        yield "its goals are not those of the template"
        return
    for result in roi.goals:
        goal = goals[result.metric]
        wanted = limits_in_course(goal, template.regime, course, roi.prescription_gy)
        if (result.relation, result.priority) != (goal.relation, goal.priority) or not _same_limits(
            (result.limit, result.variation), (wanted.limit, wanted.variation)
        ):
            yield f"the limit of {result.metric} is not that of the template"
        yield from _verdict_contradictions(result, roi.metrics[result.metric])


def _verdict_contradictions(result: GoalResult, metric: MetricResult) -> Iterator[str]:
    for verdict, value in ((result.reference, metric.reference), (result.predicted, metric.predicted)):
        if verdict not in (NOT_EVALUABLE, result.judge(value)):
            yield f"{result.metric} of {value:g} {metric.unit} is not '{verdict}'"
    if result.is_evaluable == (result.reason is not None):
        yield f"the verdict on {result.metric} and the reason why there is none contradict each other"
    ends = [bound for bound in (result.limit, result.variation) if bound is not None]
    error = metric.mask_error
    if result.within_mask_error != (error is not None and any(abs(metric.reference - end) < error for end in ends)):
        yield f"the comparison of the mask error of {result.metric} with its limit is wrong"
    if result.certainty != certainty_of(result, metric):
        yield f"the certainty of {result.metric} is not that of its interval"


def _same_limits(one: tuple[float | None, ...], two: tuple[float | None, ...]) -> bool:
    return all(
        a == b if a is None or b is None else math.isclose(a, b, rel_tol=SCORE_TOLERANCE)
        for a, b in zip(one, two, strict=True)
    )


def _differences(one: Any, two: Any, place: str) -> Iterator[str]:
    """Differences of two records beyond rounding."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        for key in one:
            yield from _differences(one[key], two[key], f"{place}.{key}")
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for k, parts in enumerate(zip(one, two, strict=True)):
            yield from _differences(*parts, f"{place}.{k}")
    elif isinstance(one, float) and isinstance(two, float):
        if not math.isclose(one, two, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE):
            yield place
    elif one != two:
        yield place
