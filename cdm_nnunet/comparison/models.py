"""The models of a comparison: evaluations that may be compared, read, named and checked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdm_nnunet.challenges import CHALLENGES, Challenge, Terms
from cdm_nnunet.counting import counted
from cdm_nnunet.documents import read_text
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.roi_record import RoiResult

REFERENCE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Model:
    """An evaluated model.

    Attributes:
        name: Its name in tables.
        path: The folder or file that it was read from.
        evaluation: The result of its evaluation.
    """

    name: str
    path: Path
    evaluation: Evaluation


def load_models(arguments: Sequence[str]) -> tuple[Model, ...]:
    """Read the models of a comparison.

    Args:
        arguments: ``PATH`` or ``NAME=PATH`` each, the baseline first; a path is a ``result.json`` or a folder with one.
            Without a name, the folder's name is used.

    Raises:
        InputError: If there are fewer than two, a file can't be used, or a name or file is repeated.
    """
    if len(arguments) < 2:
        raise InputError(f"a comparison needs at least two evaluations, the baseline first; {len(arguments)} given")
    named = [_name_and_path(argument) for argument in arguments]
    by_name: dict[str, Path] = {}
    by_file: dict[Path, str] = {}
    for name, path in named:
        file = path.resolve() / "result.json" if path.is_dir() else path.resolve()
        if file in by_file:
            raise InputError(f"'{by_file[file]}' and '{name}' are the same evaluation, {file}")
        if name in by_name:
            raise InputError(f"both {by_name[name]} and {path} have the name '{name}'; name them, for example A={path}")
        by_name[name], by_file[file] = path, name
    return tuple(Model(name, path, load_evaluation(path)) for name, path in named)


def shared_cases(models: Sequence[Model], *, common_cases: bool) -> tuple[tuple[Model, ...], dict[str, list[str]]]:
    """Check that evaluations may be compared, and keep their common cases.

    Args:
        models: At least two.
        common_cases: Drop the cases that some model lacks, instead of refusing.

    Returns:
        The models with their common cases in one order, and by model the cases that were dropped from it.

    Raises:
        InputError: If data sets, templates or dose regions differ, cases differ without ``common_cases`` or are
            disjoint, the references of a case differ, or two evaluations are the same.
    """
    first = models[0]
    for other in models[1:]:
        _refuse_other_setting(first, other)
    by_case = [{case.case: case for case in model.evaluation.cases} for model in models]
    common = {case: None for case in by_case[0] if all(case in cases for cases in by_case)}
    dropped = {
        model.name: [case for case in cases if case not in common] for model, cases in zip(models, by_case, strict=True)
    }
    if any(dropped.values()) and not common_cases:
        numbers = ", ".join(f"'{model.name}' has {len(model.evaluation.cases)}" for model in models)
        examples = "; ".join(f"only in some: '{cases[0]}' of '{name}'" for name, cases in dropped.items() if cases)
        raise InputError(
            f"the evaluations are of different cases ({numbers}, {len(common)} are common; {examples}); "
            "evaluate the same cases, or compare the common ones with --common-cases"
        )
    if not common:
        raise InputError("the evaluations have no case in common")
    kept = tuple(
        replace(model, evaluation=replace(model.evaluation, cases=tuple(cases[case] for case in common)))
        for model, cases in zip(models, by_case, strict=True)
    )
    kept = _without_undefined(kept)
    for other in kept[1:]:
        for one, two in zip(kept[0].evaluation.cases, other.evaluation.cases, strict=True):
            _refuse_other_reference(one, two, first.name, other.name)
    _refuse_copies(kept)
    return kept, dropped


def _without_undefined(models: tuple[Model, ...]) -> tuple[Model, ...]:
    """Drop metrics that are undefined in some model, such as for a dose that is too low.

    Args:
        models: With the same cases in the same order.
    """
    undefined: list[dict[str, str]] = []
    for cases in zip(*(model.evaluation.cases for model in models), strict=True):
        undefined.append({term: reason for case in cases for term, reason in case.undefined.items()})
    return tuple(
        replace(
            model, evaluation=replace(model.evaluation, cases=tuple(map(_without, model.evaluation.cases, undefined)))
        )
        for model in models
    )


def read_patients(path: Path) -> dict[str, str]:
    """The patient by case, from a CSV table with the columns ``case`` and ``patient``.

    Raises:
        InputError: If a column is missing, a field is empty or a case is repeated.
    """
    rows = list(csv.DictReader(io.StringIO(read_text(path, "give a CSV table with columns case and patient"))))
    patients: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        case, patient = (str(row.get(column) or "").strip() for column in ("case", "patient"))
        if not case or not patient:
            raise InputError(f"{path}, line {line}: each row needs a case and a patient")
        if case in patients:
            raise InputError(f"{path}, line {line}: case '{case}' is repeated")
        patients[case] = patient
    return patients


def of_patients(models: Sequence[Model], patients: Mapping[str, str]) -> tuple[Model, ...]:
    """The models with the patients of their cases replaced.

    Raises:
        InputError: If a case has no patient.
    """
    lacking = [case.case for case in models[0].evaluation.cases if case.case not in patients]
    if lacking:
        raise InputError(f"the table of patients lacks case '{lacking[0]}' ({len(lacking)} in all)")
    return tuple(
        replace(
            model,
            evaluation=replace(
                model.evaluation,
                cases=tuple(replace(case, patient=patients[case.case]) for case in model.evaluation.cases),
            ),
        )
        for model in models
    )


def _without(case: CaseResult, undefined: Mapping[str, str]) -> CaseResult:
    rois = {
        name: replace(
            roi,
            metrics={key: metric for key, metric in roi.metrics.items() if f"{name} {key}" not in undefined},
            goals=tuple(goal for goal in roi.goals if f"{name} {goal.metric}" not in undefined),
        )
        for name, roi in case.rois.items()
    }
    return replace(case, rois=rois, undefined=undefined)


def _name_and_path(argument: str) -> tuple[str, Path]:
    name, mark, rest = argument.partition("=")
    if not mark or Path(argument).exists():
        path = Path(argument)
        folder = path if path.is_dir() or path.suffix != ".json" else path.parent
        return folder.resolve().name, path
    if not name.strip() or not rest or not name.isprintable():
        raise InputError(f"'{argument}' is not NAME=PATH: name and path must not be empty")
    return name.strip(), Path(rest)


def _refuse_other_setting(first: Model, other: Model) -> None:
    one, two = first.evaluation, other.evaluation
    if one.dataset != two.dataset:
        raise InputError(f"'{first.name}' was evaluated on {one.dataset} and '{other.name}' on {two.dataset}")
    if one.template != two.template:
        names = f"'{one.template.name}' and '{two.template.name}'"
        same = ", which share their name but not their content" if one.template.name == two.template.name else ""
        raise InputError(
            f"'{first.name}' and '{other.name}' were evaluated with different templates, {names}{same}; "
            "evaluate both with one template (cdm-nnunet evaluate --template)"
        )
    if one.dose_region != two.dose_region:
        raise InputError(
            f"the dose error of '{first.name}' is averaged in {one.dose_region or 'the whole grid'}, that of "
            f"'{other.name}' in {two.dose_region or 'the whole grid'}; evaluate both on the same data set"
        )


def _refuse_other_reference(one: CaseResult, two: CaseResult, first: str, other: str) -> None:
    for what, a, b in _differences(one, two):
        raise InputError(
            f"case '{one.case}': {what} is {a} for '{first}' and {b} for '{other}': they were scored against "
            "different references; evaluate both on the same data set"
        )


def _differences(one: CaseResult, two: CaseResult) -> Iterator[tuple[str, object, object]]:
    """Differences of two evaluations of a case in values that depend only on the reference."""
    if one.patient != two.patient:
        yield "the patient", one.patient, two.patient
    if (one.prescription_gy, one.fractions) != (two.prescription_gy, two.fractions):
        yield "the course", _course(one), _course(two)
    if dict(one.missing) != dict(two.missing):
        yield "the set of missing ROIs", _listed(one.missing), _listed(two.missing)
    if list(one.rois) != list(two.rois):
        yield "the set of ROIs", _listed(one.rois), _listed(two.rois)
    for challenge in CHALLENGES:
        terms = (one.challenges.get(challenge.name), two.challenges.get(challenge.name))
        yield from _challenge_differences(challenge, *terms)
    for name, roi in one.rois.items():
        for what, a, b in _roi_differences(roi, two.rois[name]):
            yield f"{what} of {name}", a, b


def _challenge_differences(
    challenge: Challenge, one: Terms | None, two: Terms | None
) -> Iterator[tuple[str, object, object]]:
    if one is None or two is None:
        if one is not two and challenge.compared:
            yield f"the presence of {challenge.title}'s scores", one is not None, two is not None
        return
    for score in challenge.compared:
        parts = [list(part) if isinstance(part, Mapping) else [] for part in (one[score.terms], two[score.terms])]
        if parts[0] != parts[1]:
            yield f"the set of metrics of the {score.title}", len(parts[0]), len(parts[1])


def _roi_differences(one: RoiResult, two: RoiResult) -> Iterator[tuple[str, object, object]]:
    if one.source != two.source:
        yield "the source", one.source, two.source
    if one.n_voxels != two.n_voxels:
        yield "the number of voxels", one.n_voxels, two.n_voxels
    if one.prescription_gy != two.prescription_gy:
        yield "the prescription", one.prescription_gy, two.prescription_gy
    if list(one.metrics) != list(two.metrics):
        yield "the set of metrics", _listed(one.metrics), _listed(two.metrics)
    for key, metric in one.metrics.items():
        a, b = metric.reference, two.metrics[key].reference
        if not math.isclose(a, b, rel_tol=REFERENCE_TOLERANCE, abs_tol=REFERENCE_TOLERANCE):
            yield f"the reference's {key}", f"{a:.6g} {metric.unit}".strip(), f"{b:.6g} {metric.unit}".strip()


def _course(case: CaseResult) -> str:
    dose = "an unknown prescription" if case.prescription_gy is None else f"{case.prescription_gy} Gy"
    fractions = "an unknown number of fractions" if case.fractions is None else counted(case.fractions, "fraction")
    return f"{dose} in {fractions}"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"


def _refuse_copies(models: Sequence[Model]) -> None:
    for i, one in enumerate(models):
        for two in models[i + 1 :]:
            if one.evaluation.cases == two.evaluation.cases:
                raise InputError(
                    f"'{one.name}' ({one.path}) and '{two.name}' ({two.path}) are the same evaluation: "
                    "all their values are equal"
                )
