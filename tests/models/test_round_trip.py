"""A model package predicts as the model that it was made of, by every way in."""

import json
import shutil
import zipfile

import numpy as np
import pydicom
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.prediction.models import PackageChoice
from cdm_nnunet.prediction_record import PredictionRecord

OF_FOLDS = ["-d", "561", "-c", "3d_packed", "-tr", "nnUNetTrainerDoseMAE", "-f", "0", "1"]
QUICK = ["-device", "cpu", "-np", "0", "-step_size", "1"]


def predict(out, *options):
    return main(["predict", "-o", str(out), *map(str, options), *QUICK])


def some_images(clinic, tmp_path, n_cases=2):
    """A folder with the first cases and the meaning of their bits."""
    dataset, out = clinic.root / "raw" / "Dataset561_Clinic", tmp_path / "images"
    out.mkdir()
    shutil.copy(dataset / "dataset.json", out)
    for path in sorted((dataset / "imagesTr").glob("*.nii.gz"))[: 3 * n_cases]:
        shutil.copy(path, out)
    return out


def test_doses_of_a_package_are_those_of_the_folds(clinic, tmp_path, capfd, monkeypatch):
    images = some_images(clinic, tmp_path)
    assert predict(tmp_path / "folds", "-i", images, *OF_FOLDS) == 0
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}")
    monkeypatch.chdir(tmp_path)
    assert predict(tmp_path / "package", "-i", images, "-m", clinic.package) == 0
    doses = sorted(path.name for path in (tmp_path / "package").glob("*.nii.gz"))
    assert len(doses) == 2
    for name in doses:
        pair = [read_image(tmp_path / folder / name).values for folder in ("folds", "package")]
        assert pair[0].max() > 1
        np.testing.assert_array_equal(*pair)
        records = [PredictionRecord.of_dose(tmp_path / folder / name) for folder in ("folds", "package")]
        assert records[0].origin == records[1].origin
        assert [record.model for record in records] == [None, "clinic_hn"]


def test_folds_of_a_package(clinic):
    choice = PackageChoice(str(clinic.package), ("1",))
    assert [one.fold for one in choice.found().read().checkpoints] == ["1"]
    with pytest.raises(InputError, match=r"clinic_hn\.zip has no fold 3; it has 0, 1"):
        PackageChoice(str(clinic.package), ("3",)).found().read()


def new_patient(clinic, out, *options):
    assert predict(out, "--dicom", clinic.new, *options) == 0
    (file,) = out.glob("*.dcm")
    return pydicom.dcmread(file)


def test_rtdose_of_a_package_is_that_of_the_folds(clinic, tmp_path):
    one = new_patient(clinic, tmp_path / "folds", *OF_FOLDS)
    two = new_patient(clinic, tmp_path / "package", "-m", clinic.package)
    assert one.pixel_array.max() > 0
    np.testing.assert_array_equal(one.pixel_array, two.pixel_array)
    assert one.DoseGridScaling == two.DoseGridScaling


def test_predictions_of_a_package_are_continued_averaged_and_evaluated(clinic, tmp_path, capfd):
    images, out = some_images(clinic, tmp_path), tmp_path / "doses"
    assert predict(out, "-i", images, "-m", clinic.package) == 0
    first = sorted(out.glob("*.nii.gz"))[0]
    kept = [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii.gz"))[1:]]
    first.unlink()
    assert predict(out, "-i", images, *OF_FOLDS, "--continue_prediction") == 0
    assert first.is_file()
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.nii.gz"))[1:]] == kept
    assert predict(out, "-i", images, *OF_FOLDS[:-1], "--continue_prediction") == 2
    assert "was predicted by another model or in another way" in capfd.readouterr().err
    assert predict(tmp_path / "one", "-i", images, *OF_FOLDS[:-1]) == 0
    assert main(["ensemble", "-i", str(out), str(tmp_path / "one"), "-o", str(tmp_path / "mean")]) == 0
    assert (
        main(["evaluate", "-d", "561", "-i", str(out), "-o", str(tmp_path / "scored"), "--no-report", "-np", "1"]) == 0
    )
    result = json.loads((tmp_path / "scored" / "result.json").read_text())
    assert result["model"]["trainer"] == "nnUNetTrainerDoseMAE"
    assert result["n_cases"] == 2
    # scores go into a package of the same weights, and into no other
    again = ["model", "export", "-o", str(tmp_path / "again"), "--result", str(tmp_path / "scored")]
    capfd.readouterr()
    assert main([*again, "-m", str(clinic.package), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["scores"] is True
    assert main(["model", "info", "--card", str(tmp_path / "again")]) == 0
    assert "| ptv_score |" in capfd.readouterr().out
    assert main([*again[:3], str(tmp_path / "b"), *again[4:], *OF_FOLDS[:-1]]) == 2
    assert "is of other weights than those to export" in capfd.readouterr().err


def test_a_package_holds_nothing_of_single_patients(clinic):
    from cdm_nnunet.models.package import Package

    package = Package.read(clinic.package)
    raw = json.loads((clinic.model / "dataset.json").read_text())["cdm"]
    cases = [path.name.removesuffix(".nii.gz") for path in (clinic.root / "raw").glob("*/labelsTr/*.nii.gz")]
    assert len(cases) == 5
    for name in package.members.sums:
        content = package.members.read(name)
        assert not any(case.encode() in content for case in cases), name
    section = package.dataset_json["cdm"]
    assert section["mapping"] == raw["mapping"]
    assert section["facts"]["training_cases_with_roi"] == raw["facts"]["training_cases_with_roi"]
    assert package.more == {"cohort.json": {"n": 5}}


def test_what_goes_in_comes_out(clinic, tmp_path, capfd):
    (tmp_path / "card.md").write_text("# Ours\n\nLimits: none known.\n")
    options = ["-o", str(tmp_path / "ours"), "--card", str(tmp_path / "card.md"), "--name", "ours_2", "--json"]
    assert main(["model", "export", "-m", str(clinic.package), *options]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["name"], record["precision"], record["card_to_complete"]) == ("ours_2", "single", 0)
    assert (tmp_path / "ours" / "MODEL_CARD.md").read_text() == "# Ours\n\nLimits: none known.\n"
    half = ["model", "export", "-m", str(tmp_path / "ours"), "--half", "-o", str(tmp_path / "half.zip")]
    assert main(half) == 0
    with zipfile.ZipFile(tmp_path / "half.zip") as archive:  # (the card that a person completed stays)
        assert archive.read("half/MODEL_CARD.md").decode() == (tmp_path / "card.md").read_text()
    assert main(["model", "export", "-m", str(clinic.package), *options]) == 2
    assert "ours exists already; choose another -o" in capfd.readouterr().err
    assert main(["model", "info", str(clinic.package)]) == 0
    shown = capfd.readouterr().out
    assert "ROIs: PTV_High, PTV_Low, SpinalCord, External" in shown
    assert "parts of the model card left to complete by hand" in shown
    assert main(["model", "info", "--card", str(clinic.package)]) == 0
    card = capfd.readouterr().out
    for text in (
        "PREDICTED, NOT FOR TREATMENT",
        "| PTV_High | target | 5 | 60 to 60 |",
        "loss_start 0.5",
        "7 epochs",
    ):
        assert text in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "which model? give -m MODEL, or -d ID"),
        (["-m", "a.zip", "-d", "561", "-c", "3d_packed"], "-m a.zip names the whole model; leave out -d, -c"),
        (["-m", "a.zip"], "no model a.zip: give a folder, a ZIP file, or the name of a shipped model"),
        (["-d", "561", "-c", "3d_coarse"], "no models of dataset 561"),
    ],
)
def test_which_model(clinic, tmp_path, capfd, options, message):
    assert predict(tmp_path, "-i", tmp_path, *options) == 2
    assert message in capfd.readouterr().err
