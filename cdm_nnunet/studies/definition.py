"""Definition of a study: the user's YAML file, and the trainings that follow from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cdm_nnunet.documents import read_yaml
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS
from cdm_nnunet.models.shipped import find_model

Settings = dict[str, int | float | str]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Training(BaseModel):
    """A training of a study: a trainer with its settings, repeated for every seed and fold.

    Attributes:
        trainer: Class name.
        settings: As in the study; these override the study's.
        seeds: Seeds that replace the study's.
        starts_from: Another training of the study whose final weights it starts from: of the same fold, and of the same
            seed or else the other's first seed.
        pretrained: A model whose weights it starts from instead: the name of a shipped model, or the path of a model or
            checkpoint, relative to the file of the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer: str
    settings: Settings = {}
    seeds: list[int] | None = None
    starts_from: str | None = None
    pretrained: str | None = None


class StudyFile(BaseModel):
    """A study.

    Attributes:
        dataset: Number of a converted and planned data set.
        configuration: Configuration of the plans.
        plans: Name of the plans.
        folds: Folds for every training.
        seeds: Seeds for every training.
        settings: Settings of every training, by the names of ``TrainingSettings``, for example ``num_epochs``.
        predict: Scored cases: the ``validation`` cases of the folds, each by the model that has not seen it,
            or the ``test`` cases (imagesTs) by the mean of the folds.
        template: Clinical template of the scores; None for that of the data set.
        trainings: Trainings by name.
        baseline: Name of the training that the others are compared with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: int = Field(ge=1, le=999)
    configuration: str = "3d_fullres"
    plans: str = DEFAULT_PLANS
    folds: list[int] = Field(default=[0], min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    settings: Settings = {}
    predict: Literal["validation", "test"] = "validation"
    template: str | None = None
    trainings: dict[str, Training] = Field(min_length=1)
    baseline: str


@dataclass(frozen=True, kw_only=True)
class Member:
    """A training with one seed on all folds, scored and compared as one model.

    Attributes:
        name: Name of the training, with the seed if there are several.
        training: Name of the training.
        seed: Seed.
        trainer: Class name.
        settings: All settings without defaults, except the seed.
        starts_from: Name of the member whose final weights it starts from, fold by fold.
        pretrained: Name or path of a model whose weights it starts from.
    """

    name: str
    training: str
    seed: int
    trainer: str
    settings: Settings
    starts_from: str | None
    pretrained: str | None = None


def read_study(path: Path) -> StudyFile:
    """Read a study.

    Raises:
        InputError: If it is invalid, with line and column for a value of the wrong type; or a model does not exist.
    """
    study = _with_found_models(read_yaml(path, StudyFile), path)
    for name, training in study.trainings.items():
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{path}: '{name}' is not a valid name of a training: letters, digits, '_', '-' and '.' only"
            )
        if training.seeds == []:
            raise InputError(f"{path}: training '{name}' has no seed")
        _refuse_circles(path, study, name)
    if study.baseline not in study.trainings:
        raise InputError(f"{path}: the baseline '{study.baseline}' is not one of {', '.join(study.trainings)}")
    for what, numbers in (("fold", study.folds), ("seed", study.seeds)):
        if len(set(numbers)) != len(numbers) or min(numbers) < 0:
            raise InputError(f"{path}: every {what} is a number from 0 on, and comes once, not {numbers}")
    names = [member.name for member in members_of(study)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: two trainings are called '{repeated[0]}' once their seeds are added; rename one")
    return study


def _with_found_models(study: StudyFile, path: Path) -> StudyFile:
    """The study with absolute paths of the models that trainings start from."""
    found: dict[str, Training] = {}
    for name, training in study.trainings.items():
        model = training.pretrained
        if model is not None:
            if training.starts_from is not None:
                raise InputError(f"{path}: '{name}' has 'starts_from' and 'pretrained'; give one of them")
            beside = (path.parent / model).resolve()
            if beside.exists():
                model = str(beside)
            else:
                try:
                    find_model(model)
                except InputError as error:
                    raise InputError(f"{path}: training '{name}': pretrained: {error}") from None
        found[name] = training.model_copy(update={"pretrained": model})
    return study.model_copy(update={"trainings": found})


def members_of(study: StudyFile) -> tuple[Member, ...]:
    """All members, the baseline's first."""
    ordered = sorted(study.trainings, key=lambda name: name != study.baseline)  # (stable: otherwise as written)
    return tuple(_member(study, name, seed) for name in ordered for seed in _seeds(study, name))


def _seeds(study: StudyFile, name: str) -> list[int]:
    return study.trainings[name].seeds or study.seeds


def _member(study: StudyFile, name: str, seed: int) -> Member:
    training = study.trainings[name]
    start = training.starts_from
    if start is not None:
        seeds = _seeds(study, start)
        start = _member_name(study, start, seed if seed in seeds else seeds[0])
    return Member(
        name=_member_name(study, name, seed),
        training=name,
        seed=seed,
        trainer=training.trainer,
        settings={**study.settings, **training.settings},
        starts_from=start,
        pretrained=training.pretrained,
    )


def _member_name(study: StudyFile, name: str, seed: int) -> str:
    return name if len(_seeds(study, name)) == 1 else f"{name}_seed_{seed}"


def _refuse_circles(path: Path, study: StudyFile, name: str) -> None:
    passed: list[str] = []
    start: str | None = name
    while start is not None:
        if start not in study.trainings:
            raise InputError(f"{path}: '{passed[-1]}' starts from '{start}', which is not a training of the study")
        if start in passed:
            raise InputError(f"{path}: {' starts from '.join([*passed, start])}: that is a circle")
        passed.append(start)
        start = study.trainings[start].starts_from
