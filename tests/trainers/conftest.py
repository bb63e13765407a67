"""Five phantoms on a coarse grid, planned and preprocessed once, and trainers on them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DATASET_ID, NAME = 532, "Dataset532_Phantoms"


@pytest.fixture(scope="session")
def root_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
    from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    root = tmp_path_factory.mktemp("phantoms")
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            (root / folder).mkdir()
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        patch.setenv("nnUNet_n_proc_DA", "1")
        convert(find_synthetic(n_training=5, coarseness=2.0), DatasetPlace(root / "raw", DATASET_ID, "Phantoms"))
        plan_and_preprocess(DATASET_ID, PlanChoices(coarse_spacing_mm=12.0, base_features=4), n_processes=1)
    return root


@pytest.fixture
def preprocessed(root_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preprocessed data set, with nnU-Net's variables set, results in a folder of the test's own."""
    monkeypatch.setenv("nnUNet_raw", str(root_once / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(root_once / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for name, value in {"NUM_EPOCHS": "2", "NUM_ITERATIONS": "2", "NUM_VAL_ITERATIONS": "1", "SEED": "3"}.items():
        monkeypatch.setenv(f"CDM_{name}", value)
    return root_once / "preprocessed" / NAME


@pytest.fixture
def make_trainer(preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Make a trainer by name, with settings by the name of their variable."""

    def make(
        name: str = "nnUNetTrainerCDM", *, configuration="3d_fullres", fold=0, continue_training=False, **settings
    ):
        from cdm_nnunet import trainers

        for variable, value in settings.items():
            monkeypatch.setenv(f"CDM_{variable}", value)
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
        plans["continue_training"] = continue_training
        dataset_json = json.loads((preprocessed / "dataset.json").read_text())
        return getattr(trainers, name)(plans, configuration, fold, dataset_json, torch.device("cpu"))

    return make


@pytest.fixture
def started(make_trainer):
    """A trainer, its network built, with a training batch."""

    def start(name="nnUNetTrainerCDM", **settings):
        trainer = make_trainer(name, **settings)
        trainer.initialize()
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        trainer.set_deep_supervision_enabled(True)
        return trainer, next(trainer.dataloader_train)

    return start
