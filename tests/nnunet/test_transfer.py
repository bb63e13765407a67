"""A data set is planned by the plans of another one, and fine-tunes its models."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, write_dataset
from cdm_nnunet.nnunet.checkpoint import read_checkpoint
from cdm_nnunet.nnunet.plans import DosePlans

from .conftest import SPACING_MM, TEMPLATE, Folders, MemorySource, template

FIRST, SECOND = "Dataset531_Small", "Dataset533_Second"


def write_second(root: Path, used=TEMPLATE, **changes) -> None:
    """Two other patients for training, one for testing."""
    spec = DatasetSpec(533, "Second", "small patients of another clinic", used, "test")
    sources = [MemorySource(f"other_{k}", 50 + k, used=used, changes=changes) for k in range(2)]
    write_dataset(root / "raw", spec, [*sources, MemorySource("test_0", 60, "Ts", used)])


@pytest.fixture
def two(planned_once, tmp_path, monkeypatch):
    """The first data set's plans, and a place for a second data set."""
    folders = Folders(tmp_path, RawDataset(planned_once.raw.folder))
    folders.use(monkeypatch)
    (tmp_path / "preprocessed" / FIRST).mkdir()
    shutil.copy(planned_once.preprocessed / "nnUNetPlans.json", tmp_path / "preprocessed" / FIRST)
    return tmp_path


def plan(*options: str, number: int = 533) -> int:
    return main(["plan", "-d", str(number), "-np", "1", *options])


def read(root: Path, name: str = "nnUNetPlans", dataset: str = SECOND) -> dict:
    return json.loads((root / "preprocessed" / dataset / f"{name}.json").read_text())


def refusal(capfd) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    return line


def test_what_weights_depend_on_is_the_others_and_the_rest_ones_own(two, capfd):
    write_second(two, prescriptions_gy={"PTV_High": 60.0, "PTV_Low": 54.0})
    assert plan("--plans-from", "531", "-p", "Moved") == 0
    told = capfd.readouterr()
    assert "dose scale 70 Gy (highest prescription 60 Gy), plans of Dataset531_Small:nnUNetPlans" in told.out
    assert "note:" not in told.err
    first, moved = read(two, dataset=FIRST), read(two, "Moved")
    assert (moved["dataset_name"], moved["plans_name"]) == (SECOND, "Moved")
    assert moved["cdm"]["plans_from"] == "Dataset531_Small:nnUNetPlans"
    statistics = "foreground_intensity_properties_per_channel"
    assert moved[statistics] == first[statistics]
    assert DosePlans(moved).dose_scale_gy == 70.0
    assert moved["cdm"]["cohort"]["prescription_gy"] == {"PTV_High": [60.0, 60.0], "PTV_Low": [54.0, 54.0]}
    assert set(moved["configurations"]) == set(first["configurations"])
    for name, own in moved["configurations"].items():
        others = first["configurations"][name]
        assert own["data_identifier"] == others["data_identifier"].replace("nnUNetPlans", "Moved")
        for key in ("spacing", "patch_size", "batch_size", "architecture"):
            assert own[key] == others[key], key
        assert DosePlans(moved).digest(name) == DosePlans(first).digest(name)
    assert len(list((two / "preprocessed" / SECOND / "Moved_3d_fullres").glob("*.pkl"))) == 2


def test_a_model_of_the_first_is_fine_tuned_on_higher_prescriptions(fresh, tmp_path, monkeypatch, capfd):
    """One step with the first data set, none to speak of with the second: the weights are the first one's."""
    settings = {"NUM_EPOCHS": "1", "NUM_ITERATIONS": "1", "NUM_VAL_ITERATIONS": "1", "SEED": "3"}
    for name, value in settings.items():
        monkeypatch.setenv(f"CDM_{name}", value)
    fresh(2)
    write_second(tmp_path, prescriptions_gy={"PTV_High": 77.0, "PTV_Low": 56.0})
    assert plan("--base-features", "4", "-p", "Low", number=531) == 0
    assert plan("--plans-from", f"{FIRST}:Low") == 2
    told = refusal(capfd)
    assert "dose scale of 70 Gy, below the highest prescription of this data set, 77 Gy" in told
    assert "plan and train Dataset531_Small with --dose-scale 77 or more" in told
    assert not (tmp_path / "preprocessed" / SECOND / "nnUNetPlans.json").exists()

    assert plan("--base-features", "4", "--dose-scale", "80", number=531) == 0
    assert plan("--plans-from", FIRST, "-p", "Moved") == 0
    assert read(tmp_path, "Moved")["cdm"]["dose_scale_gy"] == 80.0
    train = ("3d_fullres", "0", "-tr", "nnUNetTrainerDoseMAE", "-device", "cpu")
    assert main(["train", "531", *train]) == 0
    results = tmp_path / "results"
    start = results / FIRST / "nnUNetTrainerDoseMAE__nnUNetPlans__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    monkeypatch.setenv("CDM_LEARNING_RATE", "1e-12")
    assert main(["train", "533", *train, "-p", "Moved", "-pretrained_weights", str(start)]) == 0
    end = results / SECOND / "nnUNetTrainerDoseMAE__Moved__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    before, after = (read_checkpoint(path).weights for path in (start, end))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_other_rois_are_matched_by_name(two, capfd):
    write_second(two, template(15))
    assert plan("--plans-from", "531") == 0
    told = capfd.readouterr().err
    assert (
        "note: Dataset531_Small:nnUNetPlans has an ROI catalogue that differs from this data set's; its models' weights"
        in told
    )
    assert "; new, from zero Organ_13, Organ_14; dropped none; a training may take more memory than planned" in told
    moved = read(two)
    assert len(DosePlans(moved).catalogue) == 22
    for configuration in moved["configurations"].values():
        assert configuration["architecture"]["arch_kwargs"]["n_rois"] == 22


def test_another_dose_scale_than_the_others_is_told(two, capfd):
    write_second(two)
    assert plan("--plans-from", "531", "--dose-scale", "75", "--batch-size", "1") == 0
    assert "has a dose scale of 70 Gy, not 75 Gy: weights of its models do not fit here" in capfd.readouterr().err
    assert read(two)["cdm"]["dose_scale_gy"] == 75.0
    assert {configuration["batch_size"] for configuration in read(two)["configurations"].values()} == {1}


def test_the_plans_of_a_model_from_elsewhere(two):
    """There the label manager has another name, for nnU-Net's commands."""
    write_second(two)
    path = two / "preprocessed" / FIRST / "nnUNetPlans.json"
    plans = json.loads(path.read_text()) | {"label_manager": "LabelManager"}
    path.unlink()
    for name in ("nnUNetTrainerCDM", "nnUNetTrainerDoseMAE"):
        model = two / "results" / FIRST / f"{name}__nnUNetPlans__3d_fullres"
        model.mkdir(parents=True)
        (model / "plans.json").write_text(json.dumps(plans | {"continue_training": name.endswith("CDM")}))
    assert plan("--plans-from", "531") == 0
    assert read(two)["label_manager"] == "DoseLabelManager"
    assert read(two)["configurations"]["3d_fullres"]["spacing"] == list(SPACING_MM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plans-from", "999"), r"--plans-from 999: no Dataset999_*/nnUNetPlans.json in"),
        (("--plans-from", "531:None"), "--plans-from 531:None: no Dataset531_*/None.json in"),
        (("--plans-from", "../x"), "--plans-from takes ID_OR_NAME[:PLANS], such as 501 or"),
        (("--plans-from", "531:../x"), "--plans-from takes ID_OR_NAME[:PLANS], such as 501 or"),
        (("--plans-from", "531", "-c", "3d_big"), "unknown configuration '3d_big'"),
        (("--plans-from", "531:Part", "-c", "3d_coarse"), "the plans Dataset531_Small:Part have no configuration '3d_"),
        (("--plans-from", "531:Stock"), "were not made by this software"),
        (("--plans-from", "531:Cut"), "Cut.json"),
        (("--plans-from", "531", "--spacing", "3"), "--spacing and --plans-from exclude each other"),
        (("--plans-from", "531", "--gpu-memory", "8"), "--gpu-memory and --plans-from exclude each other"),
        (("--dose-scale", "60"), "--dose-scale 60 is below the highest prescription of the training cases, 70 Gy"),
        (("--plans-from", "531", "--dose-scale", "60"), "--dose-scale 60 is below the highest prescription"),
        (("--dose-scale", "7000"), "--dose-scale must be 4 to 150 Gy, not 7000"),
        (("--dose-scale", "nan"), "--dose-scale must be above zero, not nan"),
    ],
)
def test_what_can_not_work_is_refused(two, capfd, options, message):
    write_second(two)
    folder = two / "preprocessed" / FIRST
    plans = read(two, dataset=FIRST)
    part = {name: one for name, one in plans["configurations"].items() if name != "3d_coarse"}
    (folder / "Part.json").write_text(json.dumps(plans | {"plans_name": "Part", "configurations": part}))
    (folder / "Stock.json").write_text(json.dumps({key: value for key, value in plans.items() if key != "cdm"}))
    (folder / "Cut.json").write_text(json.dumps(plans)[:200])
    assert plan(*options) == 2
    assert message in refusal(capfd)
    assert not list((two / "preprocessed" / SECOND).glob("nnUNetPlans*"))


def test_models_with_unlike_plans_of_one_name_are_refused(two, capfd):
    write_second(two)
    path = two / "preprocessed" / FIRST / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    path.unlink()
    for name, spacing in (("A", 3.0), ("B", 4.0)):
        model = two / "results" / FIRST / f"{name}__nnUNetPlans__3d_fullres"
        model.mkdir(parents=True)
        plans["original_median_spacing_after_transp"] = [spacing] * 3
        (model / "plans.json").write_text(json.dumps(plans))
    assert plan("--plans-from", "531") == 2
    assert "--plans-from 531 is ambiguous" in refusal(capfd)


def test_plans_with_another_order_of_rois_preprocess_nothing(two, capfd):
    """Two organs in each other's place: all bits are known, and none would look wrong."""
    write_second(two)
    assert plan("--plans-from", "531", "-p", "Moved") == 0
    path = two / "preprocessed" / SECOND / "Moved.json"
    plans = read(two, "Moved")
    rois = plans["cdm"]["catalogue"]
    one, other = (next(roi for roi in rois if roi["name"] == name) for name in ("Organ_00", "Organ_01"))
    one["name"], other["name"] = other["name"], one["name"]
    path.write_text(json.dumps(plans))
    capfd.readouterr()
    assert main(["preprocess", "-d", "533", "-p", "Moved", "-np", "1"]) == 2
    assert "the plans 'Moved' have another ROI catalogue than" in refusal(capfd)
