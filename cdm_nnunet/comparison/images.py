"""Images of compared cases: located by their evaluations, checked against the records, packed for the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cdm_nnunet.comparison.models import Model
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.doses import dose_mae_gy
from cdm_nnunet.evaluation.pairing import CaseFiles, find_cases, read_case
from cdm_nnunet.evaluation.palette import shown_template
from cdm_nnunet.evaluation.scene import scene_of
from cdm_nnunet.evaluation.sources import read_sources
from cdm_nnunet.fence import Attempt, Refused
from cdm_nnunet.images import on_patient_axes
from cdm_nnunet.parallel import unordered
from cdm_nnunet.report.case_parts import scene_parts

MAX_CASE_BYTES = 360_000  # of a packed volume: with base64 and curves a patient takes 0.6 MB at most
MAE_TOLERANCE = 1e-6
NOT_ASKED_FOR = "they were not requested"
Parts = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class ComparedCase:
    """A case with its files under each model.

    Attributes:
        case: Its name.
        files: By model, the baseline first.
        dose_mae_gy: By model, the dose error in the record.
    """

    case: str
    files: Mapping[str, CaseFiles]
    dose_mae_gy: Mapping[str, float]

    def __str__(self) -> str:
        return f"case '{self.case}'"


@dataclass(frozen=True)
class Images:
    """Images that the page shows of each case, in addition to the record.

    Attributes:
        template: Template of the displayed ROIs.
        cases: The cases, in the order of the comparison.
    """

    template: Template
    cases: tuple[ComparedCase, ...]


def dose_names(n_models: int) -> list[str]:
    """Names of the reference and of the models' doses in the page's data, the baseline first.

    Example:
        >>> dose_names(3)
        ['reference', 'predicted', 'other', 'other-2']
    """
    return ["reference", "predicted", "other", *(f"other-{number}" for number in range(2, n_models))][: n_models + 1]


def find_images(models: Sequence[Model], cases: Sequence[str]) -> Images | str:
    """The images of compared cases, or the reason why they are missing: a comparison needs only records.

    Args:
        models: The evaluations, the baseline first.
        cases: Names of the compared cases.
    """
    try:
        found = {model.name: _files(model, cases) for model in models}
        template = shown_template(models[0].evaluation.template, _sources(models[0])[0])
    except InputError as error:
        return str(error)
    errors = {model.name: {case.case: case.dose_mae_gy for case in model.evaluation.cases} for model in models}
    compared = (
        ComparedCase(
            case,
            {name: files[case] for name, files in found.items()},
            {name: of_model[case] for name, of_model in errors.items()},
        )
        for case in cases
    )
    return Images(template, tuple(compared))


def packed_cases(images: Images, log: Path, n_processes: int) -> Iterator[tuple[str, Parts | str]]:
    """Curves and slices of the cases one after another, or the reason why a case has none.

    Args:
        images: The cases.
        log: File for the tracebacks of internal errors.
        n_processes: Number of cases read at a time.
    """
    attempt: Attempt[ComparedCase, Parts] = Attempt(partial(pack_case, template=images.template), log)
    for position, parts in unordered(attempt, images.cases, n_processes):
        yield images.cases[position].case, parts.reason if isinstance(parts, Refused) else parts


def pack_case(compared: ComparedCase, *, template: Template) -> Parts:
    """The DVH curves and the volume's header of a case, and the packed volume.

    Raises:
        InputError: If a file can't be used, or a dose is not the one that was evaluated.
    """
    scene, doses = None, {}
    names = dose_names(len(compared.files))
    for name, (model, files) in zip(names[1:], compared.files.items(), strict=True):
        images = read_case(files)
        _refuse_other_dose(dose_mae_gy(images.pair), compared.dose_mae_gy[model], model, files)
        if scene is None:
            scene = scene_of(images, template)
            doses[names[0]] = scene.doses_gy["reference"]
        doses[name] = on_patient_axes(images.predicted).values
    if scene is None:
        raise InputError(f"{compared} has no model")
    return scene_parts(replace(scene, doses_gy=doses), MAX_CASE_BYTES)


def _files(model: Model, cases: Sequence[str]) -> dict[str, CaseFiles]:
    dataset, predictions = _sources(model)
    return {files.case: files for files in find_cases(dataset, predictions, only=cases)}


def _sources(model: Model) -> tuple[RawDataset, Path]:
    sources = read_sources(model.path)
    if sources is None:
        raise InputError(f"the evaluation of {model.name} does not say where its predictions are; evaluate again")
    dataset, predictions = sources
    for what, folder in (("data set", dataset), ("folder of predictions", predictions)):
        if not folder.is_dir():
            raise InputError(f"the {what} of {model.name} is no longer there: {folder}")
    return RawDataset(dataset), predictions


def _refuse_other_dose(found_gy: float, recorded_gy: float, model: str, files: CaseFiles) -> None:
    if not math.isclose(found_gy, recorded_gy, rel_tol=MAE_TOLERANCE, abs_tol=MAE_TOLERANCE):
        raise InputError(
            f"{files.predicted} is not the dose of {model} that was evaluated: its dose MAE is {found_gy:.4g} Gy, in "
            f"the record {recorded_gy:.4g} Gy; evaluate and compare again"
        )
