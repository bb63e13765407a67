"""``cdm-nnunet predict -i`` writes a record next to each dose, with the numbers of ``cdm-nnunet evaluate``."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.documents import read_json
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.patient.calibrated import UNKNOWN_MODEL
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.prediction.folders import FROM_MAP
from cdm_nnunet.prediction_record import PredictionRecord, digest_of


@pytest.fixture
def predict(planned, save, tmp_path):
    """Predict with two untrained folds."""
    for fold in (0, 1):
        save(fold)

    def predict(images, out, *options, folds=("0", "1")):
        model = ["-d", "531", "-tr", "nnUNetTrainerDoseMAE", "-f", *folds, "-device", "cpu", "-np", "0"]
        return main(["predict", "-i", str(images), "-o", str(tmp_path / out), *model, *map(str, options)])

    return predict


def test_the_record_has_the_numbers_of_evaluate_and_its_calibrated_intervals(planned, predict, tmp_path, capfd):
    raw = planned.raw.folder
    for out, factor in (("mean", 0.9), ("0", 0.85), ("1", 0.95)):  # (without records: the model is not known)
        for path in (raw / "labelsTr").iterdir():
            dose = read_image(path)
            values = (factor * dose.values).astype(np.float32)
            (tmp_path / out).mkdir(exist_ok=True)
            write_image(dataclasses.replace(dose, path=tmp_path / out / path.name, values=values))
    members = ["--members", str(tmp_path / "0"), str(tmp_path / "1")]
    evaluate = ["evaluate", "-d", "531", "--no-report", "--pictures", "0", "-np", "1"]
    assert main([*evaluate, "-i", str(tmp_path / "mean"), "-o", str(tmp_path / "known"), *members]) == 0
    capfd.readouterr()
    calibrate = ["--calibrate", tmp_path / "known" / "result.json", "--coverage", 80]
    assert predict(raw / "imagesTs", "new", *calibrate, "--objectives", "json", "--json") == 0
    (told,) = json.loads(capfd.readouterr().out)["described"]
    assert (told["case"], told["report"]) == ("test_0", None)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {"test_0.nii.gz", "test_0.patient.json", "test_0.objectives.json"} <= names
    assert not [name for name in names if name.startswith(".folds")]

    for fold in "01":
        assert predict(raw / "imagesTs", f"new_{fold}", folds=(fold,)) == 0
    members = ["--members", str(tmp_path / "new_0"), str(tmp_path / "new_1")]
    options = [*members, *map(str, calibrate)]
    assert main([*evaluate, "-i", str(tmp_path / "new"), "-o", str(tmp_path / "scored"), *options]) == 0
    (case,) = load_evaluation(tmp_path / "scored").cases
    record = PatientRecord.read(tmp_path / "new" / "test_0.patient.json")
    assert record.dose_sha256 == digest_of(tmp_path / "new" / "test_0.nii.gz")
    assert record.prescriptions_gy == {"PTV_High": 70.0, "PTV_Low": 56.0}
    ours = {(name, key): (m.value, m.interval) for name, roi in record.rois.items() for key, m in roi.metrics.items()}
    theirs = {
        (name, key): (m.predicted, m.interval) for name, roi in case.rois.items() for key, m in roi.metrics.items()
    }
    assert ours == theirs
    assert None not in {interval for _, interval in ours.values()}
    assert UNKNOWN_MODEL in record.notes

    images = tmp_path / "raw" / raw.name / "imagesTr"
    images.mkdir(parents=True)
    for path in (*(raw / "imagesTr").glob("case_0_*"), raw / "dataset.json", raw / "cdm_cases.json"):
        shutil.copy(path, images if path.name.startswith("case_0") else images.parent)
    assert predict(images, "again", *calibrate) == 2
    assert "[case_0] it is among the cases of the calibration" in capfd.readouterr().err
    assert (tmp_path / "again" / "case_0.nii.gz").is_file()
    assert not (tmp_path / "again" / "case_0.patient.json").exists()


def test_images_without_a_case_list_are_judged_by_their_map(planned, predict, tmp_path, capfd):
    images = tmp_path / "images"
    shutil.copytree(planned.raw.folder / "imagesTs", images)
    shutil.copy(planned.raw.folder / "dataset.json", images)
    assert predict(images, "new", folds=("0",)) == 0
    record = PatientRecord.read(tmp_path / "new" / "test_0.patient.json")
    assert FROM_MAP in record.notes
    assert record.prescriptions_gy == {"PTV_High": 70.0, "PTV_Low": 56.0}
    assert predict(planned.raw.folder / "imagesTs", "known", folds=("0",)) == 0
    known = PatientRecord.read(tmp_path / "known" / "test_0.patient.json")
    assert (record.rois, record.missing) == (known.rois, known.missing)
    assert FROM_MAP not in known.notes

    cases = read_json(planned.raw.folder / "cdm_cases.json", dict)
    cases["test_0"]["prescriptions_gy"]["PTV_High"] = 66.0
    (images / "cdm_cases.json").write_text(json.dumps(cases))
    assert predict(images, "new", "--continue_prediction", folds=("0",)) == 2
    assert "contradict each other: the map has 70 Gy in 'PTV_High', and the prescriptions are PTV_High 66" in (
        capfd.readouterr().err
    )
    assert not (tmp_path / "new" / "test_0.patient.json").exists()
    assert predict(images, "new", "--coverage", 101, "--calibrate", tmp_path / "none", folds=("0",)) == 2


def test_a_refused_case_does_not_take_the_records_of_the_others(planned, predict, tmp_path, capfd):
    images = tmp_path / "images"
    shutil.copytree(planned.raw.folder / "imagesTs", images)
    shutil.copy(planned.raw.folder / "dataset.json", images)
    for channel in range(3):
        shutil.copy(images / f"test_0_000{channel}.nii.gz", images / f"bad_000{channel}.nii.gz")
    shutil.copy(images / "bad_0000.nii.gz", images / "bad_0001.nii.gz")  # (a CT as the prescription map)
    assert predict(images, "new", folds=("0",)) == 2
    assert "refused 1 of 2 cases, predicted the others: case 'bad'" in capfd.readouterr().err
    assert {path.name for path in (tmp_path / "new").glob("*.patient.json")} == {"test_0.patient.json"}


def test_a_patient_outside_is_predicted_on_request_and_the_record_says_so(planned, predict, tmp_path, capfd):
    """Prescribed is half as much again as any training patient had."""
    images = tmp_path / "images"
    shutil.copytree(planned.raw.folder / "imagesTs", images)
    shutil.copy(planned.raw.folder / "dataset.json", images)
    path = images / "test_0_0001.nii.gz"
    map_gy = read_image(path)
    write_image(dataclasses.replace(map_gy, values=map_gy.values * np.float32(1.5)))
    assert predict(images, "new", folds=("0",)) == 2
    error = capfd.readouterr().err
    assert "the model does not apply to this patient: 105 Gy for 'PTV_High' (in training 70 Gy)" in error
    assert "predict with --allow-outside, which the record states" in error
    assert list((tmp_path / "new").glob("test_0*")) == []
    assert predict(images, "new", "--allow-outside", folds=("0",)) == 0
    assert "[test_0] is outside, goals:" in capfd.readouterr().out
    record = PatientRecord.read(tmp_path / "new" / "test_0.patient.json")
    found = record.applicability
    assert (found.status, found.allowed, found.compared, found.n_training) == ("outside", True, "ranges", 5)
    assert {finding.value for finding in found.findings} == {105.0, 84.0}
    assert record.notes[0].startswith("outside: 105 Gy for 'PTV_High'")
    assert PredictionRecord.read(tmp_path / "new" / "test_0.nii.gz").applicability == found
