"""``cdm-nnunet train`` refuses meaningless options with one line and status 2, before a training starts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cdm_nnunet
from cdm_nnunet.cli.main import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "3d_fullres 0 -tr nnUNetTrainerDiceLoss",
            r"trainer 'nnUNetTrainerDiceLoss' is for segmentation; for dose there are nnUNetTrainerCDM, nnU",
        ),
        ("3d_fullres 0 -tr nnUNetTrainer", r"trainer 'nnUNetTrainer' is for segmentation"),
        (
            "3d_fullres 0 -tr nnUNetTrainerNobody",
            r"no trainer named 'nnUNetTrainerNobody'; there are .*nnUNetTrainerDoseVanilla$",
        ),
        (
            "3d_lowres 0",
            r"unknown configuration '3d_lowres'; the plans 'nnUNetPlans' have 3d_fullres, 3d_packed, 3d_coarse",
        ),
        ("3d_coarse 0", r"nnUNetPlans_3d_coarse is missing; run: cdm-nnunet plan -d 532 -c 3d_coarse"),
        (
            "3d_fullres 0 -p MyPlans",
            r"MyPlans\.json is missing; run: cdm-nnunet plan -d 532 -p MyPlans -c 3d_",
        ),
        ("3d_fullres first", r"the fold is a number or 'all', not 'first'"),
        ("3d_fullres 0 --c --val", r"--c continues a training and --val skips it"),
        ("3d_fullres 0 --c --restart", r"--restart starts a training, --c and --val continue one"),
        ("3d_fullres 0 --c -pretrained_weights x.pth", r"--c continues a training and -pretrained_weights starts one"),
        ("3d_fullres 0 -pretrained_weights nowhere.pth", r"no file nowhere\.pth \(-pretrained_weights\)"),
        ("3d_fullres 0 --val", r"--val validates a finished training, and \S+fold_0 has no checkpoint_final\.pth"),
    ],
)
def test_one_line_and_status_2(preprocessed, capfd, options, message):
    assert main(["train", "532", *options.split(), "-device", "cpu"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    assert len(errors) == 1
    assert re.search(message, errors[0])


@pytest.mark.parametrize("place", range(0, 10, 3))
@pytest.mark.parametrize("name", ["nnUNetPlans.json", "dataset.json"])
def test_plans_that_were_cut(preprocessed, tmp_path, monkeypatch, capfd, name, place):
    folder = tmp_path / "preprocessed" / preprocessed.name
    folder.mkdir(parents=True)
    for other in ("nnUNetPlans.json", "dataset.json"):
        text = (preprocessed / other).read_text()
        (folder / other).write_text(text[: place * len(text) // 10] if other == name else text)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu"]) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    assert re.search(rf"{name}: .*; run: cdm-nnunet plan -d 532 -c 3d_fullres$", error)


def test_an_unknown_data_set(preprocessed, capfd):
    assert main(["train", "999", "3d_fullres", "0", "-device", "cpu"]) == 2
    assert "no dataset 999 in" in capfd.readouterr().err


def test_a_models_plans_bring_the_plugin_along(make_trainer):
    """nnUNetv2_predict asks for the label manager before it looks for the trainer, which imports our classes."""
    trainer = make_trainer()
    trainer.initialize()
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    script = """
import sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cpu"))
predictor.initialize_from_trained_model_folder(sys.argv[1], (0,))
assert type(predictor.network).__name__ == "BitDecodeUNet"
try:
    predictor.predict_from_files("nowhere", None)
except ValueError as error:
    print(error, type(predictor).__name__)
"""
    extensions = str(Path(cdm_nnunet.__file__).parent / "ext_trainers")
    done = subprocess.run(
        [sys.executable, "-c", script, trainer.output_folder_base],
        env={**os.environ, "nnUNet_extTrainer": extensions},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("input folder nowhere is missing DosePredictor\n"), done.stderr


@pytest.mark.parametrize("n_processes", ["0", "1"])
# (batchgenerators' own thread may still read from a worker that is being stopped)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_estimate_writes_nothing_into_the_results(preprocessed, tmp_path, monkeypatch, capfd, n_processes):
    monkeypatch.setenv("nnUNet_n_proc_DA", n_processes)
    monkeypatch.setattr("cdm_nnunet.trainers.estimate._REPEATS", 2)
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--estimate", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["loader_processes"] == int(n_processes)
    assert 0 <= record["waiting_share"] <= 1
    assert record["patches_per_second"] > 0
    assert record["epochs"] == 2
    assert record["days"] == pytest.approx(2 * record["epoch_s"] / 86400)
    assert not list((tmp_path / "results").rglob("*"))
