"""A loss with its trainer is two short files: those of docs/new_loss.md, in a folder that nnU-Net searches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet import trainers

PAGE = Path(__file__).parents[2] / "docs" / "new_loss.md"
LOSS, TRAINER = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))


def test_loss_and_trainer_are_thirty_lines_at_most_and_have_the_names_of_the_page():
    assert len((LOSS + TRAINER).splitlines()) <= 30
    assert all(f"`{name}`" in PAGE.read_text(encoding="utf-8") for name in ("sorted_huber.py", "huber_trainer.py"))


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


def test_nnunet_finds_it_and_it_trains(preprocessed, own_folder, make_trainer, monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    found = recursive_find_trainer_class_by_name("nnUNetTrainerDoseHuber")
    monkeypatch.setattr(trainers, "nnUNetTrainerDoseHuber", found, raising=False)
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
