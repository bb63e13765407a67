"""Precedence and validation of splits."""

import json

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.splits import Fold, Folds, settle_splits

CASES = [f"c{k}" for k in range(6)]
OWN = [{"train": CASES[1:], "val": CASES[:1]}, {"train": CASES[:-1], "val": CASES[-1:]}]


def write(folder, splits) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "splits_final.json").write_text(splits if isinstance(splits, str) else json.dumps(splits))


@pytest.fixture
def settle(tmp_path):
    write(tmp_path / "raw", OWN)

    def settle(cases=CASES, patients=None) -> str:
        return settle_splits(tmp_path / "raw", tmp_path / "pre", cases, patients or {})

    return settle


def there(tmp_path):
    return json.loads((tmp_path / "pre" / "splits_final.json").read_text())


def test_the_data_sets_split_is_taken_once(settle, tmp_path):
    assert settle() == settle() == ""
    assert there(tmp_path) == OWN


def test_a_split_of_the_users_rules(settle, tmp_path):
    settle()
    mine = [{"train": ["c0", "c1"], "val": ["c2"]}]
    write(tmp_path / "pre", mine)
    told = settle()
    assert told.endswith("your own: 1; 3 cases in no fold: c3, c4, c5")
    assert there(tmp_path) == mine
    write(tmp_path / "raw", OWN[:1])  # (the data set's own does not count any more)
    assert settle() == told


def test_a_split_that_the_data_set_has_outgrown_is_refused(settle, tmp_path):
    settle()
    write(tmp_path / "raw", [{"train": [*CASES, "c6"], "val": ["c7"]}])
    with pytest.raises(
        InputError, match=r"have changed since \S+splits_final\.json was made: delete it to take the new"
    ):
        settle([*CASES, "c6", "c7"])
    (tmp_path / "pre" / "splits_final.json").unlink()
    assert settle([*CASES, "c6", "c7"]) == ""
    assert there(tmp_path)[0]["val"] == ["c7"]


def test_the_same_split_in_another_layout_is_no_change(settle, tmp_path):
    settle()
    write(tmp_path / "pre", json.dumps(OWN, indent=7))
    assert settle() == ""


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("[", "not JSON"),
        ("[]", "has no fold"),
        ('{"train": []}', r"splits_final\.json"),
        ([{"train": ["c0"]}], "val"),
        ([{"train": ["c0"], "val": [1]}], r"val"),
        ([{"train": ["c0", "c0"], "val": ["c1"]}], "has the training case 'c0' 2 times"),
        ([{"train": ["c0", "c1"], "val": ["c1", "c2"]}], r"case 'c1' is on both sides \(1 in all\)"),
        ([{"train": ["c0"], "val": []}], "fold 0 has no validation case"),
        ([OWN[0], {"train": ["c0", "zz"], "val": ["c1"]}], "fold 1 has 1 training case not in the data set"),
        ([{"train": ["c0"], "val": ["c3"]}], "'c0' and 'c3' are the same patient, who is on both sides"),
    ],
)
def test_a_split_that_is_not_sound_is_refused(settle, tmp_path, splits, message):
    write(tmp_path / "pre", splits)
    with pytest.raises(InputError, match=message):
        settle(patients={"c0": "P", "c3": "P"} if "same patient" in message else {})


@pytest.mark.parametrize("number", [-1, 2, 7])
def test_a_fold_that_is_not_there(tmp_path, number):
    folds = Folds(tmp_path / "splits_final.json", (Fold(["a"], ["b"]), Fold(["b"], ["a"])))
    with pytest.raises(InputError, match=rf"has 2 folds \(0 to 1\), and fold {number} is requested"):
        folds.fold(number, ["a", "b"], {})
