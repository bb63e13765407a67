"""Results of nnU-Net's own planner and preprocessor for a dose data set are refused, with the remedy in the message."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from cdm_nnunet.errors import InputError

# nnU-Net's own commands, without this package: fingerprint, plans, preprocessed data (fewer CT samples, to be quick)
STOCK = """
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
if __name__ == "__main__":
    few = property(lambda _: 1e4, lambda _, value: None)
    DatasetFingerprintExtractor.num_foreground_voxels_for_intensitystats = few
    api.extract_fingerprints([531], num_processes=1)
    api.plan_experiments([531], "ExperimentPlanner", 8)
    api.preprocess([531], "nnUNetPlans", ("3d_fullres",), [1])
"""
PLAN = "plan_experiments([531])"


@pytest.fixture(scope="module")
def stock_once(planned_once, tmp_path_factory):
    """The data set as nnU-Net plans and preprocesses it when this package is installed but not asked."""
    root = tmp_path_factory.mktemp("stock")
    shutil.copytree(planned_once.root / "raw", root / "raw")
    folders = type(planned_once)(root, type(planned_once.raw)(root / "raw" / planned_once.raw.folder.name))
    with pytest.MonkeyPatch.context() as patch:
        folders.use(patch)
        patch.setenv("nnUNet_n_proc_DA", "1")
        script = root / "stock.py"
        script.write_text(STOCK)
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "Unable to find ioclass specified in dataset.json: CDMReaderWriter" in done.stdout
    return folders


@pytest.mark.parametrize("steps", [[PLAN], ["extract_fingerprints([531], clean=False)", PLAN]])
def test_nnunets_planner_does_not_write_over_our_plans(planned, steps):
    before = (planned.preprocessed / "nnUNetPlans.json").read_bytes()
    script = "from nnunetv2.experiment_planning import plan_and_preprocess_api as api\n"
    script += "".join(f"api.{step}\n" for step in steps)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1
    assert "KeyError: 'spacings'" in done.stderr
    assert (planned.preprocessed / "nnUNetPlans.json").read_bytes() == before


@pytest.fixture
def stock(stock_once, monkeypatch):
    stock_once.use(monkeypatch)
    return stock_once


def plans_of(folders) -> dict:
    return json.loads((folders.preprocessed / "nnUNetPlans.json").read_text())


def dataset_json_of(folders) -> dict:
    return json.loads((folders.preprocessed / "dataset.json").read_text())


def trainer(name: str, plans: dict, dataset_json: dict):
    from cdm_nnunet import trainers

    plans["continue_training"] = False
    return getattr(trainers, name)(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))


@pytest.mark.parametrize("name", ["nnUNetTrainerCDM", "nnUNetTrainerDoseMAE"])
def test_trainers_refuse_stock_plans(stock, name):
    with pytest.raises(InputError, match=r"planner 'ExperimentPlanner'.* run: cdm-nnunet plan -d 531"):
        trainer(name, plans_of(stock), dataset_json_of(stock))


def test_the_predictor_refuses_stock_plans(stock):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from cdm_nnunet.nnunet.predictor import DosePredictor

    manager = PlansManager(plans_of(stock))
    predictor = DosePredictor(device=torch.device("cpu"))
    predictor.manual_initialization(
        torch.nn.Identity(), manager, manager.get_configuration("3d_fullres"), None, dataset_json_of(stock), "x", None
    )
    with pytest.raises(InputError, match=r"planner 'ExperimentPlanner'.* run: cdm-nnunet plan -d 531"):
        predictor.predict_sliding_window_return_logits(torch.zeros(3, 8, 8, 8))


def test_our_preprocessor_refuses_stock_plans(stock):
    from cdm_nnunet.nnunet.preprocessor import DosePreprocessor

    with pytest.raises(InputError, match=r"planner 'ExperimentPlanner'.* run: cdm-nnunet plan -d 531"):
        DosePreprocessor(verbose=False).run(531, "3d_fullres", "nnUNetPlans", 1)
    assert (stock.preprocessed / "nnUNetPlans_3d_fullres").is_dir()


@pytest.mark.parametrize("stale", ["stock", "other plans", "missing"])
def test_trainers_refuse_data_that_our_plans_were_not_made_for(stock, planned_once, tmp_path, monkeypatch, stale):
    """Our plans are next to data of nnU-Net's preprocessor, of other plans of ours, or none."""
    folders = type(stock)(tmp_path, stock.raw)
    folders.use(monkeypatch)
    folders.preprocessed.mkdir(parents=True)
    for name in ("dataset.json", "dataset_fingerprint.json", "splits_final.json"):
        shutil.copy(planned_once.preprocessed / name, folders.preprocessed)
    plans = plans_of(planned_once)
    data = folders.preprocessed / "nnUNetPlans_3d_fullres"
    if stale == "stock":
        shutil.copytree(stock.preprocessed / "nnUNetPlans_3d_fullres", data)
        message = (
            r"preprocessed case 'case_\d' was made with nnU-Net's own preprocessor, which destroys ROI bits .* again"
        )
    elif stale == "other plans":
        shutil.copytree(planned_once.preprocessed / "nnUNetPlans_3d_fullres", data)
        plans["cdm"]["dose_scale_gy"] = 66.0
        message = r"preprocessed case 'case_\d' was made with other plans .*; run 'cdm-nnunet plan' again"
    else:
        message = r"nnUNetPlans_3d_fullres is missing; run: cdm-nnunet plan -d 531 -c 3d_fullres"
    with pytest.raises(InputError, match=message):
        trainer("nnUNetTrainerCDM", plans, dataset_json_of(planned_once)).on_train_start()


def test_another_catalogue_in_the_data_set_is_refused(planned):
    dataset_json = dataset_json_of(planned)
    dataset_json["cdm"]["catalogue"] = dataset_json["cdm"]["catalogue"][:-1]
    with pytest.raises(InputError, match=r"dataset\.json and plans have different ROI catalogues"):
        trainer("nnUNetTrainerCDM", plans_of(planned), dataset_json)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerDiceLoss", "nnUNetTrainer_5epochs"])
def test_segmentation_trainers_refuse_our_plans(planned, name):
    """With the plugin loaded they find all its classes, and would train a segmentation of a dose."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    plans = plans_of(planned)
    plans["continue_training"] = False
    segmenter = recursive_find_trainer_class_by_name(name)(
        plans, "3d_fullres", 0, dataset_json_of(planned), torch.device("cpu")
    )
    with pytest.raises(InputError, match=r"these plans are for dose.* Train with 'cdm-nnunet train'"):
        segmenter.initialize()


def test_an_unknown_configuration_is_refused(planned):
    from cdm_nnunet.trainers import nnUNetTrainerCDM

    plans = {**plans_of(planned), "continue_training": False}
    with pytest.raises(
        InputError, match="unknown configuration '3d_lowres'; the plans 'nnUNetPlans' have 3d_fullres, 3d_p"
    ):
        nnUNetTrainerCDM(plans, "3d_lowres", 0, dataset_json_of(planned), torch.device("cpu"))


@pytest.mark.parametrize(
    "name", ["apply_inference_nonlin", "convert_probabilities_to_segmentation", "convert_logits_to_segmentation"]
)
def test_a_dose_is_never_made_a_segmentation(planned, name):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans_of(planned)).get_label_manager(dataset_json_of(planned))
    assert manager.num_segmentation_heads == 1
    with pytest.raises(InputError, match="these plans are for dose"):
        getattr(manager, name)(torch.zeros(1, 2, 2, 2))
