"""The folds of a data set: nnU-Net's ``splits_final.json``, which the user may edit; it is checked before use."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_nnunet.counting import counted
from cdm_nnunet.documents import read_json, read_text
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_text

SPLITS_FILE = "splits_final.json"
_ORIGIN_FILE = ".splits_origin.sha256"  # digest of the data set's copied split; any other split is the user's
_SHOWN = 5


@dataclass(frozen=True)
class Fold:
    """Training and validation cases of a fold."""

    train: list[str]
    val: list[str]


@dataclass(frozen=True)
class Folds:
    """A split.

    Attributes:
        path: Its file.
        folds: Folds by number.
    """

    path: Path
    folds: tuple[Fold, ...]

    @classmethod
    def read(cls, path: Path) -> Folds:
        """Read a split.

        Raises:
            InputError: If it is missing, or not a list of ``{"train": names, "val": names}``.
        """
        found = read_json(path, list[Fold], 'expected a list with {"train": [cases], "val": [cases]} for each fold')
        if not found:
            raise InputError(f"{path} has no fold")
        return cls(path, tuple(found))

    def fold(self, number: int, cases: Collection[str], patients: Mapping[str, str]) -> Fold:
        """A checked fold for training.

        Args:
            number: Number of the fold, from 0.
            cases: All cases.
            patients: Patient by case; a case that is not listed is its own patient.

        Raises:
            InputError: If there is no such fold, a side is empty, or a case is unknown or duplicate, or a case or
                its patient is on both sides.
        """
        if not 0 <= number < len(self.folds):
            raise InputError(
                f"{self.path} has {counted(len(self.folds), 'fold')} (0 to {len(self.folds) - 1}), and fold {number} "
                "is requested; add it there, or train on 'all'"
            )
        found = self.folds[number]
        where = f"{self.path}: fold {number}"
        for name, side in (("training", found.train), ("validation", found.val)):
            _refuse_side(side, name, where, cases)
        sides = [{patients.get(case, case): case for case in side} for side in (found.train, found.val)]
        both = sorted(set(sides[0]) & set(sides[1]))
        if both:
            one, other = sides[0][both[0]], sides[1][both[0]]
            what = f"case '{one}' is" if one == other else f"'{one}' and '{other}' are the same patient, who is"
            raise InputError(f"{where} validates on what it trains on: {what} on both sides ({len(both)} in all)")
        return found

    def left_out(self, cases: Collection[str]) -> list[str]:
        """Cases that are in no fold."""
        return sorted(set(cases) - {case for fold in self.folds for case in (*fold.train, *fold.val)})


def patients_of(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Patient by case, for patients with several cases, as recorded by conversion."""
    patients: dict[str, str] = dataset_json["cdm"].get("facts", {}).get("patients", {})
    return patients


def settle_splits(raw: Path, preprocessed: Path, cases: Collection[str], patients: Mapping[str, str]) -> str:
    """Copy the split of a data set for training, or keep an existing split made by the user.

    Args:
        raw: Folder of the raw data set.
        preprocessed: Folder of the preprocessed one.
        cases: All training cases.
        patients: As in :meth:`Folds.fold`.

    Returns:
        Remark on a split of the user; may be empty.

    Raises:
        InputError: If the user's split is unusable, or the data set's own split has changed since it was copied.
    """
    own, target, origin = raw / SPLITS_FILE, preprocessed / SPLITS_FILE, preprocessed / _ORIGIN_FILE
    if not target.is_file():
        if own.is_file():
            _take(own, target, origin)
        return ""
    folds = Folds.read(target)
    if own.is_file() and Folds.read(own).folds == folds.folds:
        write_text(origin, _digest(target))
        return ""
    if origin.is_file() and read_text(origin).strip() == _digest(target):
        raise InputError(
            f"the cases or the split of the data set have changed since {target} was made: delete it to take the new "
            "one (models that were trained on it have validated on other cases), or edit it to keep your own folds"
        )
    for number in range(len(folds.folds)):
        folds.fold(number, cases, patients)
    left_out = folds.left_out(cases)
    told = f"; {counted(len(left_out), 'case')} in no fold: {_names(left_out)}" if left_out else ""
    return f"folds are those of {target}, your own: {len(folds.folds)}{told}"


def _take(own: Path, target: Path, origin: Path) -> None:
    Folds.read(own)
    write_text(target, read_text(own))
    write_text(origin, _digest(target))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_side(side: list[str], name: str, where: str, cases: Collection[str]) -> None:
    if not side:
        raise InputError(f"{where} has no {name} case")
    unknown = sorted(set(side) - set(cases))
    if unknown:
        raise InputError(
            f"{where} has {counted(len(unknown), f'{name} case')} not in the data set, or not preprocessed: "
            f"{_names(unknown)}; run 'cdm-nnunet plan' again, or correct the split"
        )
    if len(set(side)) < len(side):
        twice = next(case for case in side if side.count(case) > 1)
        raise InputError(f"{where} has the {name} case '{twice}' {side.count(twice)} times")


def _names(cases: list[str]) -> str:
    return ", ".join(cases[:_SHOWN]) + (" ..." if len(cases) > _SHOWN else "")
