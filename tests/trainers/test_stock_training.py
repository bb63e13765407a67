"""Every trainer through nnU-Net's own command: one iteration, and a checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

import cdm_nnunet
from cdm_nnunet import trainers

NAMES = sorted(set(trainers.find_trainers()) - {"nnUNetTrainerCDM"})  # that one runs in tests/end_to_end
ONE_AFTER_THE_OTHER = """
import sys
from nnunetv2.run.run_training import run_training_entry
for name in sys.argv[1:]:
    sys.argv = ["nnUNetv2_train", "532", "3d_fullres", "0", "-tr", name, "-device", "cpu"]
    run_training_entry()
"""


@pytest.mark.slow
def test_one_iteration(preprocessed, tmp_path, monkeypatch):
    """In one process, which spares the others the import of nnU-Net."""
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(cdm_nnunet.__file__).parent / "ext_trainers"))
    for variable in ("NUM_EPOCHS", "NUM_ITERATIONS", "NUM_VAL_ITERATIONS"):
        monkeypatch.setenv(f"CDM_{variable}", "1")
    monkeypatch.setenv("CDM_LOSS_START", "0")
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Epoch 0") == len(NAMES)
    for name in NAMES:
        assert list((tmp_path / "results").glob(f"*/{name}__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth")), name


def test_the_folder_of_nnunet_offers_every_trainer():
    from cdm_nnunet.ext_trainers import cdm_nnunet_trainers as offered

    assert sorted(offered.__all__) == sorted(trainers.find_trainers())
    for name in trainers.find_trainers():
        assert getattr(offered, name) is getattr(trainers, name)
    assert offered.nnUNetTrainerCDM_250epochs is trainers.nnUNetTrainerCDM_250epochs
    assert not hasattr(offered, "nnUNetTrainerNone")
    assert not hasattr(offered, "__path__")  # (of a package, which this file is not)
