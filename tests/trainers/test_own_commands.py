"""Preprocessing alone, ensembles, the best model, and predicting in parts: the verbs for stock commands that can't."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.prediction_record import MeanOrigin, Origin, PredictionRecord

SHAPE = (3, 4, 5)


def origin(trainer: str) -> Origin:
    return Origin(
        dataset="Dataset501_Test", trainer=trainer, plans="nnUNetPlans", plans_sha256="ab" * 32,
        spacing_mm=[2.5, 4.0, 3.0], weights_sha256=["cd" * 32], tile_step_size=0.5, mirroring=True, gaussian=True,
    )  # fmt: skip


def write_dose(
    folder: Path,
    case: str,
    value: float,
    spacing_mm=(2.0, 2.0, 2.0),
    prescription_gy=70.0,
    ct="a",
    origin=None,
    record=True,
) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{case}.nii.gz"
    values = np.full(SHAPE, value, np.float32)
    levels, notes = {"PTV": prescription_gy}, [f"note of {folder.name}"]
    known = {"prescriptions_gy": levels, "notes": notes, "inputs_sha256": {"ct": ct}, "origin": origin}
    with PredictionRecord(case=case, **known).beside(path) if record else nullcontext():
        write_image(Image(values, Grid(values.shape, spacing_mm), path))


def refusal(capfd) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    return line


class TestEnsemble:
    def ensemble(self, *folders: Path, out: Path) -> int:
        return main(["ensemble", "-i", *map(str, folders), "-o", str(out)])

    def test_the_mean_with_the_notes_of_all(self, tmp_path):
        for folder, value in (("a", 10.0), ("b", 20.0), ("c", 60.0)):
            write_dose(tmp_path / folder, "case", value)
        assert self.ensemble(*(tmp_path / name for name in "abc"), out=tmp_path / "mean") == 0
        mean = read_image(tmp_path / "mean" / "case.nii.gz")
        assert mean.values.dtype == np.float32
        np.testing.assert_array_equal(mean.values, 30.0)
        record = PredictionRecord.read(tmp_path / "mean" / "case.nii.gz")
        assert record.prescriptions_gy == {"PTV": 70.0}
        assert record.notes[:3] == ["note of a", "note of b", "note of c"]
        assert record.notes[3].startswith("mean of 3 doses: ")
        assert (record.origin, record.inputs_sha256) == (None, {"ct": "a"})

    def test_the_record_names_the_models_and_evaluate_reads_it(self, tmp_path):
        for folder, trainer in (("a", "A"), ("b", "B")):
            write_dose(tmp_path / folder, "case", 10.0, origin=origin(trainer))
        assert self.ensemble(tmp_path / "a", tmp_path / "b", out=tmp_path / "mean") == 0
        found = PredictionRecord.of_dose(tmp_path / "mean" / "case.nii.gz").origin
        assert found == MeanOrigin(mean_of=[origin("A"), origin("B")])
        assert self.ensemble(tmp_path / "a", tmp_path / "mean", out=tmp_path / "nested") == 0
        nested = PredictionRecord.of_dose(tmp_path / "nested" / "case.nii.gz").origin
        assert nested == MeanOrigin(mean_of=[origin("A"), found])
        assert [one.trainer for one in nested.models] == ["A", "A", "B"]
        assert found.unlike(MeanOrigin(mean_of=[origin("A"), origin("C")])) == "dose 2 of the mean: trainer is B and C"
        assert found.unlike(origin("A")) == origin("A").unlike(found) != ""
        assert found.unlike(nested) == "dose 2 of the mean: one is of a single model, the other a mean of several"
        assert found.unlike(found) == ""

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (
                lambda root: write_dose(root / "b", "other", 1.0),
                "do not have the same cases: 'other' is in one of them only",
            ),
            (lambda root: write_dose(root / "b", "case", 1.0, (2.0, 2.0, 3.0)), "all images of a case lie on one grid"),
            (
                lambda root: write_dose(root / "b", "case", 1.0, prescription_gy=66.0),
                "have read different prescriptions",
            ),
            (lambda root: write_dose(root / "b", "case", 1.0, ct="b"), "the models were given different images"),
            (
                lambda root: write_dose(root / "b", "case", 20.0, record=False),
                "does not match its record case.prediction.json",
            ),
            (lambda root: shutil.rmtree(root / "b"), "no folder"),
            (lambda root: (root / "b" / "case.nii.gz").unlink(), "no doses (CASE.nii.gz) in"),
        ],
    )
    def test_what_can_not_be_averaged_is_refused(self, tmp_path, capfd, spoil, message):
        for folder in "ab":
            write_dose(tmp_path / folder, "case", 10.0)
        spoil(tmp_path)
        assert self.ensemble(tmp_path / "a", tmp_path / "b", out=tmp_path / "mean") == 2
        assert message in refusal(capfd)

    def test_one_folder_and_the_output_among_them(self, tmp_path, capfd):
        for folder in "ab":
            write_dose(tmp_path / folder, "case", 10.0)
        for folders, out, message in (
            ("aa", "mean", "a folder is given twice"),
            ("ab", "b", "is one of the models' folders"),
            ("a", "mean", "an ensemble has at least two members"),
        ):
            assert self.ensemble(*(tmp_path / name for name in folders), out=tmp_path / out) == 2
            assert message in refusal(capfd)


def test_preprocessed_data_that_were_lost_are_made_from_the_plans(
    preprocessed, root_once, tmp_path, monkeypatch, capfd
):
    copy = tmp_path / "preprocessed"
    shutil.copytree(root_once / "preprocessed", copy)
    monkeypatch.setenv("nnUNet_preprocessed", str(copy))
    folder = copy / preprocessed.name
    before = (folder / "nnUNetPlans.json").read_bytes()
    shutil.rmtree(folder / "nnUNetPlans_3d_fullres")
    assert main(["preprocess", "-d", "532", "-c", "3d_fullres", "-np", "1"]) == 0
    made, original = (
        {path.name: path.read_bytes() for path in (root / "nnUNetPlans_3d_fullres").glob("*.b2nd")}
        for root in (folder, preprocessed)
    )
    assert set(made) == set(original)
    assert len(made) == 10
    assert (folder / "nnUNetPlans.json").read_bytes() == before
    capfd.readouterr()
    assert main(["preprocess", "-d", "532", "-p", "Other"]) == 2
    assert "Other.json is missing; run: cdm-nnunet plan -d 532" in refusal(capfd)
    assert main(["preprocess", "-d", "532", "-c", "2d"]) == 2
    assert "unknown configuration '2d'" in refusal(capfd)


class TestModels:
    @pytest.fixture
    def trained(self, preprocessed, tmp_path, monkeypatch) -> Path:
        """Two models, one epoch each."""
        monkeypatch.setenv("CDM_NUM_EPOCHS", "1")
        for trainer in ("nnUNetTrainerDoseMAE", "nnUNetTrainerCDM"):
            assert main(["train", "532", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"]) == 0
        return tmp_path / "results" / "Dataset532_Phantoms"

    def test_the_best_model_and_predicting_in_parts(self, trained, root_once, tmp_path, capfd):
        assert main(["find-best", "-d", "532", "-o", str(tmp_path / "best"), "-np", "1", "--json"]) == 0
        record = json.loads(capfd.readouterr().out)
        names = [f"{trainer}__nnUNetPlans__3d_fullres" for trainer in ("nnUNetTrainerCDM", "nnUNetTrainerDoseMAE")]
        assert sorted(one["models"] for one in record["ranked"]) == sorted([[names[0]], [names[1]], names])
        relative = [one["relative"] for one in record["ranked"]]
        assert relative == sorted(relative)
        assert relative[0] >= 1
        assert json.loads((tmp_path / "best" / "find_best.json").read_text()) == record
        evaluated = ["evaluate", "-d", "532", "-o", str(tmp_path / "one"), "--pictures", "0", "--no-report", "--json"]
        (first,) = [one for one in record["ranked"] if one["models"] == names[:1]]
        assert main([*evaluated, "-i", str(trained / names[0] / "fold_0" / "validation")]) == 0
        validated = json.loads(capfd.readouterr().out)
        assert validated["scores"]["ptv_score"] == pytest.approx(first["ptv_score"])
        assert validated["notes"] == ["the records of the predictions do not say from which images they were made"]
        self.mean_of_validations([trained / name / "fold_0" / "validation" for name in names], tmp_path / "mean")
        assert main(["find-best", "-d", "532", "-f", "1", "-o", str(tmp_path / "none")]) == 2
        assert "was validated on fold 1: train to the end first" in refusal(capfd)
        self.predict_in_parts(root_once / "raw" / "Dataset532_Phantoms" / "imagesTr", tmp_path, capfd)
        predicted = PredictionRecord.read(next((tmp_path / "parts").glob("*.nii.gz")))
        assert json.loads(json.dumps(asdict(predicted.origin))) == validated["model"]

    def mean_of_validations(self, folders: list[Path], out: Path) -> None:
        assert main(["ensemble", "-i", *map(str, folders), "-o", str(out)]) == 0
        (dose,) = out.glob("*.nii.gz")
        origins = [PredictionRecord.read(folder / dose.name).origin for folder in folders]
        record = PredictionRecord.read(dose)
        assert record.origin == MeanOrigin(mean_of=origins)
        assert [one.trainer for one in origins] == ["nnUNetTrainerCDM", "nnUNetTrainerDoseMAE"]
        assert record.prescriptions_gy == PredictionRecord.read(folders[0] / dose.name).prescriptions_gy != {}

    def predict_in_parts(self, images: Path, tmp_path: Path, capfd) -> None:
        predict = [
            "predict",
            "-i",
            str(images),
            "-d",
            "532",
            "-o",
            str(tmp_path / "parts"),
            "-device",
            "cpu",
            "-np",
            "0",
        ]
        for part, expected in ((0, [1, 4]), (1, [2, 5]), (2, [3])):
            shutil.rmtree(tmp_path / "parts", ignore_errors=True)
            assert main([*predict, "-num_parts", "3", "-part_id", str(part)]) == 0
            found = sorted(path.name for path in (tmp_path / "parts").glob("*.nii.gz"))
            assert found == [f"phantom_{k:03d}.nii.gz" for k in expected]
        capfd.readouterr()
        assert main([*predict, "-num_parts", "3", "-part_id", "3"]) == 2
        assert "-part_id is a number from 0 to -num_parts - 1 (2), not 3" in refusal(capfd)
        assert main([*predict, "-num_parts", "9", "-part_id", "8"]) == 0
