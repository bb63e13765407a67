"""From evaluations to paired errors: one quantity for each score, pooled metric and metric of an ROI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.comparison.models import Model
from cdm_nnunet.comparison.record import Level, Quantity
from cdm_nnunet.dvh import Goal, Template
from cdm_nnunet.evaluation.pooling import SCORED_KINDS, SCORED_UNITS
from cdm_nnunet.evaluation.record import CaseResult

DOSE_MAE, GOAL_ERRORS = "Dose MAE", "Goal errors"
CHALLENGE_SCORES = tuple(score.title for challenge in CHALLENGES for score in challenge.compared)
SIGNLESS = (DOSE_MAE, *CHALLENGE_SCORES, GOAL_ERRORS)
KIND_LABELS = {"target": ("PTV score", "Targets"), "oar": ("OAR score", "OARs")}  # of a score, and of its parts
PART_LABELS = {"Gy": "D metrics", "%": "V metrics"}
_Key = tuple[Level, str]


@dataclass(frozen=True)
class _Term:
    """Share of a case in a quantity under one model; ``difference`` is predicted - reference, or an error >= 0."""

    level: Level
    name: str
    unit: str
    difference: float


_Table = Mapping[_Key, list[_Term]]
_Judged = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class JudgedGoal:
    """A goal in every case in which it was judged.

    Attributes:
        goal: The goal.
        patients: The patient of each of these cases.
        met: Whether the reference meets it, including acceptable variations.
        right: By model, whether the prediction meets it exactly where the reference does.
    """

    goal: Goal
    patients: tuple[str, ...]
    met: tuple[bool, ...]
    right: Mapping[str, tuple[bool, ...]]


def paired_quantities(models: Sequence[Model]) -> tuple[Quantity, ...]:
    """Every quantity in which models with common cases can be compared: scores, then pooled metrics, then ROIs."""
    cases = models[0].evaluation.cases
    judged = _judged_by_all(models)
    tables = {model.name: [_by_quantity(case, judged) for case in model.evaluation.cases] for model in models}
    found = {key for table in tables[models[0].name] for key in table}
    for _, label in KIND_LABELS.values():
        parts = {("pooled", f"{label} {part}") for part in PART_LABELS.values()}
        if not parts <= found:  # (the only part is the score)
            found -= parts
    keys = [key for key in dict.fromkeys(_order(models[0].evaluation.template)) if key in found]
    return tuple(_quantity(key, cases, tables) for key in keys)


def judged_goals(models: Sequence[Model]) -> tuple[JudgedGoal, ...]:
    """The goals with a limit that were judged in at least one case, in the template's order."""
    judged = []
    by_all = _judged_by_all(models)
    for goal in models[0].evaluation.template.goals_for("evaluation"):
        met_by = {model.name: list(_met(model.evaluation.cases, goal, by_all)) for model in models}
        pairs = met_by[models[0].name]
        if pairs:
            patients = tuple(case.patient or case.case for case, _, _ in pairs)
            met = tuple(reference for _, reference, _ in pairs)
            right = {name: tuple(a == b for _, a, b in pairs) for name, pairs in met_by.items()}
            judged.append(JudgedGoal(goal, patients, met, right))
    return tuple(judged)


def goal_name(goal: Goal) -> str:
    """ROI, metric and limit of a goal.

    Example:
        >>> goal_name(Goal(roi="SpinalCord", metric="D0.1cc", relation="<=", value=45, unit="Gy"))
        'SpinalCord D0.1cc <= 45 Gy'
    """
    return f"{goal.roi} {goal.metric} {goal.relation} {goal.value:g} {goal.unit}"


def _met(cases: Sequence[CaseResult], goal: Goal, judged: _Judged) -> Iterator[tuple[CaseResult, bool, bool]]:
    """Each case in which a goal was judged, and whether reference and prediction meet it."""
    for case in cases:
        for result in case.rois[goal.roi].goals if goal.roi in case.rois else ():
            if result.metric == str(goal.metric) and (case.case, goal.roi, result.metric) in judged:
                yield case, result.reference != "fail", result.predicted != "fail"


def _judged_by_all(models: Sequence[Model]) -> _Judged:
    """Case, ROI and metric of goals with both verdicts in the evaluations of all models."""
    found = [
        {
            (case.case, name, result.metric)
            for case in model.evaluation.cases
            for name, roi in case.rois.items()
            for result in roi.goals
            if result.is_evaluable
        }
        for model in models
    ]
    return frozenset(set.intersection(*found))


def _order(template: Template) -> Iterator[_Key]:
    for name in (DOSE_MAE, *CHALLENGE_SCORES, *(score for score, _ in KIND_LABELS.values()), GOAL_ERRORS):
        yield "score", name
    goals = template.goals_for("evaluation")
    for kind, (_, label) in KIND_LABELS.items():
        for part in PART_LABELS.values():
            yield "pooled", f"{label} {part}"
        for goal in goals:
            if template.roi(goal.roi).kind == kind:
                yield "pooled", f"{label} {goal.metric}"
    for goal in goals:
        yield "roi", f"{goal.roi} {goal.metric}"


def _terms(case: CaseResult, judged: _Judged) -> Iterator[_Term]:
    yield _Term("score", DOSE_MAE, "Gy", case.dose_mae_gy)
    yield from _challenge_terms(case)
    for name, roi in case.rois.items():
        for key, metric in roi.metrics.items():
            yield _Term("roi", f"{name} {key}", metric.unit, metric.difference)
            if roi.kind not in SCORED_KINDS.values():
                continue
            score, label = KIND_LABELS[roi.kind]
            yield _Term("pooled", f"{label} {key}", metric.unit, metric.difference)
            if metric.unit in SCORED_UNITS:
                yield _Term("score", score, metric.unit, metric.difference)
                yield _Term("pooled", f"{label} {PART_LABELS[metric.unit]}", metric.unit, metric.difference)
        for goal in roi.goals:
            if (case.case, name, goal.metric) not in judged:
                continue
            wrong = (goal.reference == "fail") != (goal.predicted == "fail")
            yield _Term("score", GOAL_ERRORS, "%", 100.0 * wrong)


def _challenge_terms(case: CaseResult) -> Iterator[_Term]:
    for challenge in CHALLENGES:
        terms = case.challenges.get(challenge.name, {})
        for score in challenge.compared if terms else ():
            yield from (_Term("score", score.title, score.unit, error) for error in score.errors_of(terms))


def _by_quantity(case: CaseResult, judged: _Judged) -> dict[_Key, list[_Term]]:
    table: dict[_Key, list[_Term]] = {}
    for term in _terms(case, judged):
        table.setdefault((term.level, term.name), []).append(term)
    return table


def _quantity(key: _Key, cases: Sequence[CaseResult], tables: Mapping[str, Sequence[_Table]]) -> Quantity:
    level, name = key
    first = next(iter(tables.values()))
    present: dict[str, list[int]] = {}  # positions of the cases, by patient
    for i, case in enumerate(cases):
        if key in first[i]:
            present.setdefault(case.patient or case.case, []).append(i)
    errors, signed = {}, {}
    for model, by_case in tables.items():
        differences = [[term.difference for i in own for term in by_case[i][key]] for own in present.values()]
        errors[model] = tuple(fmean(map(abs, terms)) for terms in differences)
        signed[model] = tuple(fmean(terms) for terms in differences)
    return Quantity(
        level=level,
        name=name,
        unit=" and ".join(dict.fromkeys(term.unit for own in present.values() for i in own for term in first[i][key])),
        n_terms={patient: sum(len(first[i][key]) for i in own) for patient, own in present.items()},
        errors=errors,
        signed=None if name in SIGNLESS else signed,
        missing={case.case: _reason(case, level, name) for i, case in enumerate(cases) if key not in first[i]},
    )


def _reason(case: CaseResult, level: Level, name: str) -> str:
    if level != "roi":
        return "no ROI that counts is present"
    return case.missing.get(name.rpartition(" ")[0]) or case.undefined.get(name, "not defined in this case")
