"""A loss with its trainer is two short files: here in a folder of a user's own, which nnU-Net searches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet import trainers

LOSS = '''
"""Huber's loss of the sorted doses of each ROI."""

from torch.nn.functional import huber_loss

from cdm_nnunet.losses.rivals import SortedDoseLoss


class SortedHuberLoss(SortedDoseLoss):
    def roi_loss(self, predicted_gy, reference_gy, is_target):
        return huber_loss(predicted_gy, reference_gy, delta=2.0) / self.dose_scale_gy
'''
TRAINER = '''
"""MAE and Huber's loss."""

from sorted_huber import SortedHuberLoss

from cdm_nnunet.trainers.base import DoseTrainer


class nnUNetTrainerDoseHuber(DoseTrainer):
    dvh_weight = 0.3

    def build_dvh_loss(self, terms):
        return SortedHuberLoss(terms, self.dose_plans.dose_scale_gy)
'''


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    import cdm_nnunet

    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "sorted_huber.py").write_text(LOSS, encoding="utf-8")
    (folder / "huber_trainer.py").write_text(TRAINER, encoding="utf-8")
    ours = Path(cdm_nnunet.__file__).parent / "ext_trainers"
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(folder), str(ours)]))
    return folder


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # of timm, which nnU-Net's search imports
def test_nnunet_finds_it_and_it_trains(preprocessed, own_folder, make_trainer, monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    found = recursive_find_trainer_class_by_name("nnUNetTrainerDoseHuber")
    monkeypatch.setitem(trainers._TRAINERS, "nnUNetTrainerDoseHuber", found)
    trainer = make_trainer("nnUNetTrainerDoseHuber")
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.set_deep_supervision_enabled(True)
    batch = next(trainer.dataloader_train)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    step = trainer.train_step(batch)
    assert step["dvh_loss"] > 0
    assert step["loss"] == pytest.approx(step["voxel_error"] + step["dvh_loss"], rel=1e-5)
    assert any(not np.array_equal(a, b.detach()) for a, b in zip(before, trainer.network.parameters(), strict=True))


@pytest.mark.slow
def test_nnunets_own_command_trains_it_with_worker_processes(preprocessed, own_folder, tmp_path, monkeypatch):
    for variable in ("NUM_EPOCHS", "NUM_ITERATIONS", "NUM_VAL_ITERATIONS"):
        monkeypatch.setenv(f"CDM_{variable}", "1")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    command = [str(Path(sys.executable).with_name("nnUNetv2_train")), "532", "3d_fullres", "0"]
    command += ["-tr", "nnUNetTrainerDoseHuber", "-device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (model,) = (tmp_path / "results").glob("*/nnUNetTrainerDoseHuber__nnUNetPlans__3d_fullres")
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def test_in_the_package_a_trainer_is_one_module(own_folder, monkeypatch):
    monkeypatch.setattr(trainers, "__path__", [str(own_folder)])
    monkeypatch.syspath_prepend(str(own_folder))
    assert list(trainers.find_trainers()) == ["nnUNetTrainerDoseHuber"]
