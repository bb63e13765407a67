"""Cross-validation folds as nnU-Net reads them from ``splits_final.json``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cdm_nnunet.dataset import CT_CHANNEL, Split
from cdm_nnunet.errors import InputError

N_FOLDS = 5
SPLIT_SEED = 12345

Fold = dict[str, list[str]]


def make_folds(
    cases: Collection[str], published_validation: Collection[str] = (), patients: Mapping[str, str] | None = None
) -> list[Fold]:
    """Five folds, none with an empty side.

    With a published validation set, fold 0 is the published split and folds 1 to 4 validate a random quarter of all
    cases each. Without one, the five folds validate a random fifth each. With fewer cases than parts, every part is one
    case, and the folds repeat.

    Args:
        cases: Names of all cases that have a reference dose for training.
        published_validation: The publisher's validation cases among them; fold 0 follows this if it leaves at
            least one case on either side.
        patients: Name of the patient by case; other cases are a patient each. All cases of a patient are on one
            side of a fold.

    Returns:
        Five ``{"train": names, "val": names}``; the same for the same names in any order.

    Raises:
        InputError: If there are fewer than two cases or patients, or the published split separates a patient's cases.

    Example:
        >>> folds = make_folds(["a", "b", "c"])
        >>> len(folds), [len(fold["val"]) for fold in folds]
        (5, [1, 1, 1, 1, 1])
    """
    names = sorted(cases)
    if len(names) < 2:
        raise InputError(f"training needs at least two cases, one of them to validate on; there is {len(names)}")
    patient = {name: (patients or {}).get(name, name) for name in names}
    units = sorted(set(patient.values()))
    if len(units) < 2:
        raise InputError(
            f"training needs at least two patients, one of them to validate on; all cases are of {units[0]}"
        )
    validation = set(published_validation)
    parted = {patient[name] for name in names if name in validation} & {
        patient[name] for name in names if name not in validation
    }
    if parted:
        raise InputError(f"the published split has cases of patient '{min(parted)}' on both sides")
    published = [_fold(names, validation)] if 0 < len(validation & set(names)) < len(names) else []
    shuffled = [units[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(units))]
    n_random = N_FOLDS - len(published)
    parts: Sequence[list[str]] = [shuffled[k :: min(n_random, len(units))] for k in range(min(n_random, len(units)))]
    drawn = [set(parts[k % len(parts)]) for k in range(n_random)]
    return published + [_fold(names, {name for name in names if patient[name] in part}) for part in drawn]


def refuse_parted_patients(splits: Mapping[str, Split], patients: Mapping[str, str]) -> None:
    """Check that no patient has cases both in and out of training.

    Args:
        splits: ``Tr`` or ``Ts`` by case.
        patients: Name of the patient by case; other cases are a patient each.

    Raises:
        InputError: If a patient has.
    """
    sides: dict[str, dict[Split, str]] = {}
    for case, split in splits.items():
        sides.setdefault(patients.get(case, case), {}).setdefault(split, case)
    for patient, cases in sides.items():
        if len(cases) > 1:
            raise InputError(
                f"patient '{patient}' has a case for training, '{cases['Tr']}', and one that is kept from it, "
                f"'{cases['Ts']}'; keep all cases of a patient on one side"
            )


def patients_with_twins(files: Mapping[str, Mapping[str, str]], patients: Mapping[str, str]) -> dict[str, str]:
    """The patient of each case; cases with the same CT or dose belong to one patient, whatever their names.

    Args:
        files: By case, the digest of each file by its path in the data set.
        patients: Name of the patient by case; other cases are a patient each.

    Example:
        >>> patients_with_twins({"a": {"labelsTr/a.nii.gz": "1f"}, "b": {"labelsTr/b.nii.gz": "1f"}}, {})
        {'a': 'a', 'b': 'a'}
    """
    found = {case: patients.get(case, case) for case in files}
    first: dict[str, str] = {}
    for case, written in files.items():
        for path, digest in written.items():
            if path.startswith("labels") or f"_{CT_CHANNEL:04d}." in path:
                same, own = found[first.setdefault(digest, case)], found[case]
                found = {other: same if patient == own else patient for other, patient in found.items()}
    return found


def _fold(names: Sequence[str], validation: Collection[str]) -> Fold:
    return {
        "train": [name for name in names if name not in validation],
        "val": [name for name in names if name in validation],
    }
