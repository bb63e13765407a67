"""A training whose plans call ``3d_packed`` by its earlier name continues, and its model predicts."""

import copy
import json
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import cdm_nnunet
from cdm_nnunet import trainers
from cdm_nnunet.folders import TRAINER_VARIABLE
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.predictor import DosePredictor


@pytest.fixture
def plans_named(preprocessed):
    """The plans, with one of the names, and dataset.json."""

    def plans(name):
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text().replace('"3d_packed"', f'"{name}"'))
        plans["continue_training"] = False
        return plans, json.loads((preprocessed / "dataset.json").read_text())

    return plans


@pytest.mark.parametrize(
    ("planned", "asked"), [("3d_folded", "3d_folded"), ("3d_folded", "3d_packed"), ("3d_packed", "3d_folded")]
)
def test_a_model_of_either_name_is_trained_and_predicted(plans_named, monkeypatch, planned, asked):
    monkeypatch.setenv(TRAINER_VARIABLE, str(Path(cdm_nnunet.__file__).parent / "ext_trainers"))
    plans, dataset_json = plans_named(planned)
    make = trainers.nnUNetTrainerDoseMAE
    trainer = make(copy.deepcopy(plans), asked, 0, dataset_json, torch.device("cpu"))
    assert trainer.configuration_name == planned
    assert Path(trainer.output_folder_base).name.endswith(f"__{planned}")
    assert trainer.configuration_manager.configuration["architecture"]["arch_kwargs"]["cell"] == [2, 2, 2]
    trainer.initialize()
    checkpoint = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(checkpoint))
    again = make(copy.deepcopy(plans), asked, 0, dataset_json, torch.device("cpu"))
    again.load_checkpoint(str(checkpoint))
    weights = trainer.network.state_dict()
    assert "fold.weight" in weights  # as in models of earlier versions
    assert all(torch.equal(value, weights[key]) for key, value in again.network.state_dict().items())
    for file, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        (Path(trainer.output_folder_base) / file).write_text(json.dumps(content))
    predictor = DosePredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    assert predictor.configuration_manager.patch_size == trainer.configuration_manager.patch_size


def test_the_plain_network_on_cells_has_no_details(plans_named):
    plans, _ = plans_named("3d_packed")
    manager = PlansManager(plans)
    configuration, n_channels = manager.get_configuration("3d_packed"), DosePlans(plans).n_channels
    for name, has in {"nnUNetTrainerDoseMAE": True, "nnUNetTrainerDoseVanilla": False}.items():
        network = getattr(trainers, name).build_network_architecture(manager, configuration, n_channels, 1, False)
        assert (network.details is not None) == (network.guess_details is not None) == has, name
