"""Folders of the GDP-HMM challenge: its tables, its split by patient, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.gdphmm import find_gdphmm, find_plans
from cdm_nnunet.dataset_conversion.splits import make_folds
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.run import evaluate_folder
from cdm_nnunet.images import read_image, write_image

TEMPLATE = Template.load("gdphmm")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c.meta / "PTV_DICT.json").unlink(), "PTV_DICT.json is missing"),
        (lambda c: (c.meta / "Pat_Obj_DICT.json").write_text("{"), r"Pat_Obj_DICT\.json: line 1, column 2: not JSON: "),
        (lambda c: (c.meta / "PTV_DICT.json").write_text("{}"), "has no prescriptions of HNC_001"),
        (
            lambda c: (c.meta / "Pat_Obj_DICT.json").write_text('{"HNC_001": 3}'),
            "structures of HNC_001 are int, not a l",
        ),
        (lambda c: (c.root / "x.npz").touch(), "x.npz is not named PATIENT\\+PLAN"),
        (lambda c: (c.root / "a b+c.npz").touch(), "a b\\+c.npz is not named PATIENT\\+PLAN"),
        (lambda c: (c.meta / "meta_data.csv").write_text("a,b\n"), "has no columns PID, npz_path and dev_split"),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y.npz,train\n"),
            "does not list HNC",
        ),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y,fun\n"),
            "dev_split 'fun' is unkn",
        ),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y,train\nx,z,valid\n"),
            "plans of patient x are in both train and valid",
        ),
    ],
)
def test_faults_of_the_folder(challenge, spoil, message):
    challenge.plan()
    spoil(challenge)
    with pytest.raises(InputError, match=message):
        find_plans(challenge.root, challenge.meta, TEMPLATE)


def test_a_folder_without_files_is_refused(challenge, tmp_path):
    with pytest.raises(InputError, match="no NPZ files in"):
        find_plans(challenge.root, challenge.meta, TEMPLATE)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_plans(tmp_path / "nowhere", challenge.meta, TEMPLATE)


def test_the_command_keeps_patients_together(challenge, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for number, (patient, split) in enumerate([("A1", "train"), ("A2", "train"), ("A3", "valid"), ("A4", "test")]):
        for plan in ("9Ag", "A4Ac"):
            dose = {} if split != "test" else {"dose": None}
            challenge.plan(f"{patient}+{plan}+MOS_{number}", split=split, seed=number, **dose)
    challenge.plan("A5+9Ag+MOS_7")
    challenge.targets["A5"]["PTV_High"]["PDose"] = 11
    challenge.write()
    command = ["convert", "gdphmm", str(challenge.root), "-d", "504", "-n", "GdpHmm", "-np", "1"]
    assert main(command) == 2
    assert "PTV_High of A5 is prescribed 11 Gy" in capfd.readouterr().err
    assert main([*command, "--exclude", "A5", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["cases"], record["training_cases"], record["converted"]) == (8, 6, [])
    assert record["without_reference_dose"] == ["A4__9Ag__MOS_3", "A4__A4Ac__MOS_3"]
    assert record["unused_masks"] == {"CTV 70": 8, "Zahn 3": 8}
    dataset = RawDataset(tmp_path / "raw" / "Dataset504_GdpHmm")
    facts = dataset.dataset_json["cdm"]["facts"]
    assert facts["published_validation"] == ["A3__9Ag__MOS_2", "A3__A4Ac__MOS_2"]
    folds = json.loads((dataset.folder / "splits_final.json").read_text())
    assert folds[0]["val"] == facts["published_validation"]
    for fold in folds:
        sides = [{name.split("__")[0] for name in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
        assert len(fold["train"]) + len(fold["val"]) == 6
    assert main([*command, "--exclude", "A9"]) == 2
    assert "to be excluded, but not in" in capfd.readouterr().err


def test_without_the_table_all_plans_are_for_training(challenge):
    challenge.plan("A1+9Ag+MOS_1")
    (challenge.meta / "meta_data.csv").unlink()
    found = find_plans(challenge.root, challenge.meta, TEMPLATE)
    assert ([plan.split for plan in found.plans], found.validation) == (["Tr"], ())


def test_a_changed_prescription_converts_anew(challenge, tmp_path):
    challenge.plan("A1+9Ag+MOS_1")
    challenge.plan("A2+9Ag+MOS_1", seed=1)
    assert len(convert(find_gdphmm(challenge.root), DatasetPlace(tmp_path, 504, "X")).converted) == 2
    assert convert(find_gdphmm(challenge.root), DatasetPlace(tmp_path, 504, "X")).converted == ()
    challenge.targets["A2"]["PTV_High"]["PDose"] = 66
    challenge.write()
    again = convert(find_gdphmm(challenge.root), DatasetPlace(tmp_path, 504, "X"))
    assert again.converted == ("A2__9Ag__MOS_1",)
    assert again.cases["A2__9Ag__MOS_1"].record.prescriptions_gy["PTV_High"] == 66


def test_a_template_without_the_high_dose_target_is_refused(challenge, tmp_path):
    with pytest.raises(InputError, match="template 'openkbp' needs an ROI 'PTV_High'"):
        convert(find_gdphmm(challenge.root, template=Template.load("openkbp")), DatasetPlace(tmp_path, 504, "X"))


def test_folds_of_patients_with_several_plans():
    patients = {f"{patient}_{plan}": patient for patient in "abcdefg" for plan in range(3)}
    folds = make_folds(list(patients), (), patients)
    for fold in folds:
        assert {patients[name] for name in fold["train"]}.isdisjoint(patients[name] for name in fold["val"])
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(patients)
    with pytest.raises(InputError, match="all cases are of a"):
        make_folds(["a_0", "a_1"], (), patients)
    with pytest.raises(InputError, match="the published split has cases of patient 'b' on both sides"):
        make_folds(list(patients), ["b_1"], patients)


def test_its_errors_are_scored_on_its_data_alone(challenge, tmp_path):
    """Not where the same data set says that it came from elsewhere."""
    challenge.plan("A1+9Ag+MOS_1")
    challenge.plan("A2+9Ag+MOS_1", seed=1)
    folder = convert(find_gdphmm(challenge.root), DatasetPlace(tmp_path / "raw", 504, "GdpHmm")).folder
    dataset = RawDataset(folder)
    case = "A1__9Ag__MOS_1"
    dose = read_image(dataset.dose_path(case))
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    write_image(replace(dose, path=predictions / f"{case}.nii.gz", values=np.float32(1.1) * dose.values))
    found = evaluate_folder(dataset, predictions).to_json()["scores"]["gdphmm"]
    inside = dose.values[dose.values > 5]
    assert found["leaderboard_mae_gy"] == pytest.approx(0.1 * inside.mean(), rel=1e-4)

    content = json.loads((folder / "dataset.json").read_text())
    content["cdm"]["facts"]["source"] = "dicom"
    (folder / "dataset.json").write_text(json.dumps(content))
    assert evaluate_folder(RawDataset(folder), predictions).to_json()["scores"]["gdphmm"] is None
