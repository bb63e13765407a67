"""The file of a study, and the models that follow from it."""

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.studies.definition import members_of, read_study

SOUND = """
dataset: 500
folds: [0, 1]
seeds: [0, 1]
settings: {num_epochs: 5, loss_weight: 0.2}
trainings:
  cdm: {trainer: nnUNetTrainerCDM, settings: {loss_weight: 0.5}}
  mae: {trainer: nnUNetTrainerDoseMAE}
  tuned: {trainer: nnUNetTrainerCDM, starts_from: mae, seeds: [1, 7]}
  single: {trainer: nnUNetTrainerCDM, starts_from: tuned, seeds: [3]}
baseline: mae
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str = SOUND, **changes: str):
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def test_members_are_trainings_times_seeds_and_the_baseline_is_first(written):
    members = {member.name: member for member in members_of(read_study(written()))}
    assert list(members) == [
        *("mae_seed_0", "mae_seed_1", "cdm_seed_0", "cdm_seed_1"),
        *("tuned_seed_1", "tuned_seed_7", "single"),
    ]
    assert members["cdm_seed_1"].settings == {"num_epochs": 5, "loss_weight": 0.5}
    assert members["mae_seed_0"].settings == {"num_epochs": 5, "loss_weight": 0.2}
    assert members["tuned_seed_1"].starts_from == "mae_seed_1"
    assert members["tuned_seed_7"].starts_from == "mae_seed_0"  # mae has no seed 7
    assert members["single"].starts_from == "tuned_seed_1"


def test_a_model_to_start_from_is_found(written, tmp_path):
    (tmp_path / "own.zip").touch()
    shipped, own = (
        members_of(read_study(written(**{"starts_from: mae": f"pretrained: {name}"})))
        for name in ("openkbp_hn", "own.zip")
    )
    assert {member.pretrained for member in shipped if member.training == "tuned"} == {"openkbp_hn"}
    assert {member.pretrained for member in own if member.training == "tuned"} == {str(tmp_path / "own.zip")}
    assert {member.pretrained for member in own if member.training != "tuned"} == {None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("starts_from: mae", "pretrained: nobody", r"study.*: training 'tuned': pretrained: no model nobody: give a"),
        ("starts_from: mae", "pretrained: openkbp_hn, starts_from: mae", "'tuned' has 'starts_from' and 'pretrained'"),
        ("baseline: mae", "baseline: mea", "the baseline 'mea' is not one of cdm, mae"),
        ("starts_from: mae", "starts_from: vanilla", "'tuned' starts from 'vanilla', which is not a training"),
        ("starts_from: mae", "starts_from: single", "starts from tuned.*that is a circle"),
        ("folds: [0, 1]", "folds: [1, 1]", "every fold is a number from 0 on, and comes once"),
        ("seeds: [0, 1]", "seeds: [-1]", "every seed is a number from 0 on"),
        ("seeds: [3]", "seeds: []", "training 'single' has no seed"),
        ("  single:", "  ../up:", "is not a valid name of a training"),
        ("  single:", "  mae_seed_0:", "two trainings are called 'mae_seed_0'"),
        ("trainer: nnUNetTrainerDoseMAE", "trainers: [a]", "line 8, column"),
        ("dataset: 500", "dataset: '500'", "line 2, column 10: dataset"),
    ],
)
def test_what_is_not_sound_is_refused(written, old, new, message):
    with pytest.raises(InputError, match=message):
        members_of(read_study(written(**{old: new})))
