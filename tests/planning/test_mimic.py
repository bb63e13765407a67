"""Deliverable doses: delivered doses are reproduced, and undeliverable ones are reported."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.planning.anatomy import read_anatomy
from cdm_nnunet.planning.mimic_cases import _files
from cdm_nnunet.planning.mimicking import Mimic
from cdm_nnunet.planning.planner import plan_patient


@pytest.fixture(scope="module")
def anatomy(phantoms):
    return read_anatomy(phantoms, next(iter(phantoms.cases)))


@pytest.fixture(scope="module")
def delivered_gy(anatomy, protocol, engine):
    """A dose that these beams do deliver."""
    return plan_patient(anatomy, protocol, engine).dose_gy


@pytest.fixture(scope="module")
def mimic(anatomy, protocol, engine):
    return Mimic(anatomy, protocol, engine)


def test_what_was_delivered_is_found_again(anatomy, mimic, delivered_gy):
    found = mimic.closest_to(delivered_gy)
    assert np.abs(found.dose_gy - delivered_gy)[anatomy.dose_region].mean() < 0.8
    assert found.dose_gy[~anatomy.dose_region].max() == 0


def test_what_cannot_be_delivered_is_not(anatomy, mimic, delivered_gy):
    """A dose of 0 directly next to the targets."""
    impossible_gy = np.where(anatomy.targets, delivered_gy, 0).astype(np.float32)
    found = mimic.closest_to(impossible_gy)
    beside = anatomy.dose_region & ~anatomy.targets & (anatomy.distance_mm(anatomy.targets) < 8)
    assert found.dose_gy[beside].mean() > 10
    assert found.dose_gy[anatomy.targets].mean() < delivered_gy[anatomy.targets].mean()


def test_a_dose_of_another_size_or_of_nothing_is_refused(anatomy, mimic):
    with pytest.raises(InputError, match="the dose has shape"):
        mimic.closest_to(np.ones((2, 2, 2), np.float32))
    with pytest.raises(InputError, match="zero everywhere"):
        mimic.closest_to(np.zeros(anatomy.grid.shape, np.float32))


@pytest.fixture
def predictions(phantoms, tmp_path):
    """The reference doses of two phantoms, 2 % higher."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for case in list(phantoms.cases)[:2]:
        dose = sitk.ReadImage(str(phantoms.dose_path(case)))
        sitk.WriteImage(sitk.Cast(dose * 1.02, sitk.sitkFloat32), str(folder / f"{case}.nii.gz"))
    return folder


@pytest.fixture
def command(raw_folder, protocol, predictions, tmp_path, as_default):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(protocol.model_dump(mode="json")))
    return ["mimic", str(predictions), "-d", "501", "-o", str(tmp_path / "out"), "--protocol", str(path), "--json"]


def test_the_command_writes_dose_record_and_table(command, phantoms, predictions, tmp_path, capfd):
    assert main(command) == 0
    record = json.loads(capfd.readouterr().out)
    assert [case["case"] for case in record["cases"]] == list(phantoms.cases)[:2]
    for case in record["cases"]:
        name = case["case"]
        dose, mask = read_image(tmp_path / "out" / f"{name}.nii.gz"), read_anatomy(phantoms, name).mask("SpinalCord")
        dose.refuse_other_grid(read_image(predictions / f"{name}.nii.gz"))
        goals = {(goal["roi"], goal["metric"]): goal for goal in case["goals"]}
        mean = goals["SpinalCord", "Dmean"]
        doses = (read_image(predictions / f"{name}.nii.gz"), dose, read_image(phantoms.dose_path(name)))
        expected = [evaluate(Metric.parse("Dmean"), one.values[mask], voxel_volume_cc=1.0) for one in doses]
        assert [mean["predicted"], mean["deliverable"], mean["reference"]] == pytest.approx(expected, rel=1e-6)
        assert set(goals["SpinalCord", "D0.1cc"]["verdicts"]) == {"predicted", "deliverable", "reference"}
        assert 0 < case["reference_gamma_percent"] <= 100
        assert case["label"] == "NOT FOR TREATMENT"
        rows = (tmp_path / "out" / f"{name}.mimic.csv").read_text().splitlines()
        assert rows[0] == "roi,metric,unit,limit,predicted,deliverable,reference"
        assert len(rows) == 1 + len(case["goals"])


def test_a_second_run_keeps_what_holds(command, phantoms, tmp_path, capfd):
    assert main(command) == 0
    first, second = (tmp_path / "out" / f"{case}.nii.gz" for case in list(phantoms.cases)[:2])
    before = [path.stat().st_mtime_ns for path in (first, second)]
    second.write_bytes(second.read_bytes()[:-1])
    assert main(command) == 0
    assert first.stat().st_mtime_ns == before[0]
    assert second.stat().st_mtime_ns != before[1]
    assert read_image(second).values.max() > 10


def test_a_case_that_cannot_be_used_is_named_and_the_others_are_done(command, phantoms, predictions, tmp_path, capfd):
    bad, good = list(phantoms.cases)[:2]
    dose = sitk.ReadImage(str(predictions / f"{bad}.nii.gz"))
    sitk.WriteImage(dose * 100, str(predictions / f"{bad}.nii.gz"))
    assert main(command) == 2
    out, err = capfd.readouterr()
    assert f"[{bad}]" in err
    assert "cGy" in err
    assert [case["case"] for case in json.loads(out)["cases"]] == [good]
    assert not (tmp_path / "out" / f"{bad}.nii.gz").exists()


def test_a_patient_without_a_reference_has_two_columns(command, phantoms, predictions, tmp_path, monkeypatch, capfd):
    none = tmp_path / "none.nii.gz"
    monkeypatch.setattr("cdm_nnunet.dataset.RawDataset.dose_path", lambda self, case: none)
    assert main(command[:-1]) == 0
    out = capfd.readouterr().out
    assert "of the reference" not in out
    record = json.loads((tmp_path / "out" / f"{next(iter(phantoms.cases))}.mimic.json").read_text())
    assert record["reference_gamma_percent"] is None
    assert {goal["reference"] for goal in record["goals"]} == {None}


@pytest.mark.parametrize(
    ("name", "message"),
    [("nobody.nii.gz", "has no case 'nobody'"), ("dose.txt", "no predicted dose at")],
    ids=["case", "file"],
)
def test_what_is_no_prediction_is_refused(command, predictions, tmp_path, capfd, name, message):
    for path in predictions.iterdir():
        path.rename(predictions / name)
    assert main(command) == 2
    assert message in capfd.readouterr().err


def test_predictions_are_not_overwritten(command, predictions, capfd):
    command[command.index("-o") + 1] = str(predictions)
    assert main(command) == 2
    assert "would be replaced" in capfd.readouterr().err


def test_other_weights_mimic_anew(command, phantoms, tmp_path, capfd):
    assert main(command) == 0
    path = tmp_path / "small.yaml"
    rules = json.loads(path.read_text())
    path.write_text(json.dumps(rules | {"mimicking": {**rules["mimicking"], "target_weight": 50}}))
    before = json.loads(capfd.readouterr().out)
    assert main(command) == 0
    after = json.loads(capfd.readouterr().out)
    assert [case["goals"] for case in before["cases"]] != [case["goals"] for case in after["cases"]]


def test_a_catalogue_that_was_edited_is_refused(phantoms, tmp_path):
    """Two names exchanged in dataset.json: the bits of one organ would be judged as the other's."""
    copy = tmp_path / phantoms.folder.name
    shutil.copytree(phantoms.folder, copy)
    content = json.loads((copy / "dataset.json").read_text())
    rois = content["cdm"]["catalogue"]
    rois[0]["name"], rois[1]["name"] = rois[1]["name"], rois[0]["name"]
    (copy / "dataset.json").write_text(json.dumps(content))
    case = next(iter(phantoms.cases))
    with pytest.raises(InputError, match="do not follow the catalogue"):
        _files(tmp_path / f"{case}.nii.gz", RawDataset(copy))
