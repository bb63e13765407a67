"""Cross-validation folds as nnU-Net reads them from ``splits_final.json``."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from cdm_nnunet.errors import InputError

N_FOLDS = 5
SPLIT_SEED = 12345

Fold = dict[str, list[str]]


def make_folds(cases: Collection[str], published_validation: Collection[str] = ()) -> list[Fold]:
    """Five folds, none with an empty side.

    With a published validation set, fold 0 is the published split and folds 1 to 4 validate a random quarter of all
    cases each. Without one, the five folds validate a random fifth each. Where there are fewer cases than parts, every
    part is one case, and the folds repeat.

    Args:
        cases: Names of all cases that have a reference dose for training.
        published_validation: Those of them that the publisher of the data chose for validation; fold 0 follows this
            where it leaves at least one case on either side.

    Returns:
        Five ``{"train": names, "val": names}``; the same for the same names, in whatever order they come.

    Raises:
        InputError: If there are fewer than two cases.

    Example:
        >>> folds = make_folds(["a", "b", "c"])
        >>> len(folds), [len(fold["val"]) for fold in folds]
        (5, [1, 1, 1, 1, 1])
    """
    names = sorted(cases)
    if len(names) < 2:
        raise InputError(f"training needs at least two cases, one of them to validate on; there is {len(names)}")
    validation = set(published_validation)
    published = [_fold(names, validation)] if 0 < len(validation & set(names)) < len(names) else []
    shuffled = [names[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(names))]
    n_random = N_FOLDS - len(published)
    parts: Sequence[list[str]] = [shuffled[k :: min(n_random, len(names))] for k in range(min(n_random, len(names)))]
    return published + [_fold(names, set(parts[k % len(parts)])) for k in range(n_random)]


def _fold(names: Sequence[str], validation: Collection[str]) -> Fold:
    return {
        "train": [name for name in names if name not in validation],
        "val": [name for name in names if name in validation],
    }
