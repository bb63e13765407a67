"""The studies below ``benchmarks/studies`` are accepted unchanged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdm_nnunet import trainers
from cdm_nnunet.cli.main import main
from cdm_nnunet.studies.definition import members_of, read_study
from cdm_nnunet.studies.run import Study

FOLDER = Path(__file__).parents[2] / "benchmarks" / "studies"
STUDIES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Two data sets that have plans, and no patient."""
    for name in ("Dataset501_OpenKBP", "Dataset502_OnePlanner"):
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            (tmp_path / variable / name).mkdir(parents=True)
            monkeypatch.setenv(variable, str(tmp_path / variable))
        plans = {"configurations": {key: {} for key in ("3d_fullres", "3d_packed", "3d_coarse")}}
        (tmp_path / "nnUNet_preprocessed" / name / "nnUNetPlans.json").write_text(json.dumps(plans))
    return tmp_path


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_accepted(path, planned, monkeypatch, capfd):
    monkeypatch.setattr(Study, "estimated_hours", lambda *_: 1.5)
    assert main(["study", str(path), "-o", str(planned / "out"), "-device", "cpu", "--dry-run", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    members = members_of(read_study(path))
    assert record["n_trainings"] == record["n_to_do"] == len(members) * len(read_study(path).folds) > 0
    assert {member.trainer for member in members} <= set(trainers.find_trainers())


def test_there_are_some():
    assert {path.stem for path in STUDIES} >= {"openkbp", "openkbp_settings", "one_planner", "planned_openkbp"}


def test_the_inner_fold_has_none_of_the_published_validation_patients(planned):
    published = {"train": [f"pt_{k}" for k in range(1, 41)], "val": ["pt_200"]}
    splits = planned / "nnUNet_raw" / "Dataset501_OpenKBP" / "splits_final.json"
    splits.write_text(json.dumps([published]))
    for _ in range(2):  # (the second time nothing is added)
        done = subprocess.run(
            [sys.executable, str(FOLDER / "inner_fold.py"), "501"], check=True, capture_output=True, text=True
        )
        assert done.stdout.startswith("fold 1 of ")
    first, inner = json.loads(splits.read_text())
    assert first == published
    assert sorted([*inner["train"], *inner["val"]]) == sorted(published["train"])
    assert len(inner["val"]) == 33
