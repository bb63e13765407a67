"""Add a fold inside the training patients of fold 0, on which settings are chosen.

    python benchmarks/studies/inner_fold.py 501

Results are reported on the validation patients of fold 0: none of them is in the new fold, which is the last of the
data set's folds. Run it after the conversion, and before ``cdm-nnunet plan``.
"""

import json
import random
import sys

from cdm_nnunet.files import write_json
from cdm_nnunet.folders import find_dataset

N_VALIDATION = 33  # as many as OpenKBP publishes
SEED = 1


def inner_split(published: dict[str, list[str]]) -> dict[str, list[str]]:
    """Training patients of a fold, some of them for validation."""
    training = sorted(published["train"])
    if len(training) <= N_VALIDATION:
        sys.exit(f"an inner fold needs more than {N_VALIDATION} training patients; there are {len(training)}")
    inner = random.Random(SEED).sample(training, N_VALIDATION)
    return {"train": [case for case in training if case not in inner], "val": sorted(inner)}


def main(dataset_id: int) -> None:
    path = find_dataset(dataset_id) / "splits_final.json"
    splits = json.loads(path.read_text(encoding="utf-8"))
    fold = inner_split(splits[0])
    if fold not in splits:
        splits.append(fold)
        write_json(path, splits)
    print(f"fold {splits.index(fold)} of {path}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
