"""``3d_packed`` was called ``3d_folded``: plans, models and commands of both names work."""

import json

import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import configuration_in
from cdm_nnunet.nnunet.plan_choices import PlanChoices
from cdm_nnunet.nnunet.planner import plan_and_preprocess, preprocess
from cdm_nnunet.prediction.models import ModelChoice

CHOICES = PlanChoices(coarse_spacing_mm=6.0, base_features=4)


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        (["3d_fullres", "3d_packed"], "3d_folded", "3d_packed"),
        (["3d_fullres", "3d_folded"], "3d_packed", "3d_folded"),
        (["3d_folded", "3d_packed"], "3d_folded", "3d_folded"),
        (["3d_folded", "3d_packed"], "3d_packed", "3d_packed"),
        (["3d_packed"], "3d_fullres", "3d_fullres"),
        (["3d_fullres"], "3d_folded", "3d_folded"),
        ([], "3d_packed", "3d_packed"),
    ],
)
def test_either_name_finds_what_is_there(there, asked, found):
    assert configuration_in(there, asked) == found


def rename(path):
    """Plans as an earlier version wrote them."""
    path.write_text(path.read_text().replace('"3d_packed"', '"3d_folded"'))
    return json.loads(path.read_text())


def test_plans_are_made_and_made_again_under_either_name(fresh, capfd):
    folders = fresh()
    plans = plan_and_preprocess(531, CHOICES, configurations=["3d_folded"], n_processes=1)
    assert set(plans["configurations"]) == {"3d_fullres", "3d_packed", "3d_coarse"}
    assert (folders.preprocessed / "nnUNetPlans_3d_fullres").is_dir()
    earlier = rename(folders.preprocessed / "nnUNetPlans.json")
    for asked in ("3d_packed", "3d_folded"):
        plan_and_preprocess(531, CHOICES, configurations=[asked], n_processes=1)
        assert json.loads((folders.preprocessed / "nnUNetPlans.json").read_text()) == earlier
        assert preprocess(531, "nnUNetPlans", [asked], 1) == ["3d_folded"]
    command = ["plan", "-d", "531", "-c", "3d_packed", "--coarse-spacing", "6", "--base-features", "4", "--json"]
    assert main(command) == 0
    assert json.loads(capfd.readouterr().out)["preprocessed"] == ["3d_folded"]
    (folders.preprocessed / "nnUNetPlans.json").unlink()
    (folders.root / "results" / folders.raw.folder.name / "T__nnUNetPlans__3d_folded").mkdir(parents=True)
    assert set(plan_and_preprocess(531, CHOICES, n_processes=1)["configurations"]) == set(earlier["configurations"])
    other = plan_and_preprocess(531, CHOICES, plans_name="Small", configurations=["3d_folded"], n_processes=1)
    assert "3d_packed" in other["configurations"]


def test_an_unknown_configuration_is_still_refused(planned):
    with pytest.raises(InputError, match="unknown configuration '3d_unfolded'; there are 3d_fullres, 3d_packed, 3d_co"):
        plan_and_preprocess(531, configurations=["3d_unfolded"])


@pytest.mark.parametrize("trained", ["3d_folded", "3d_packed"])
@pytest.mark.parametrize("asked", ["3d_folded", "3d_packed"])
def test_a_model_is_found_under_either_name(tmp_path, monkeypatch, trained, asked):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    fold = tmp_path / "Dataset531_Small" / f"nnUNetTrainerCDM__nnUNetPlans__{trained}" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    assert ModelChoice(531, asked).find() == fold.parent
    with pytest.raises(InputError, match=rf"no models of dataset 531 .*3d_coarse in .*__{trained}"):
        ModelChoice(531, "3d_coarse").find()
