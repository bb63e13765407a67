"""A study with real trainings: stopped in the middle, gone on with, scored and compared."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cdm_nnunet.cli.main import main

STUDY = """
dataset: 500
configuration: 3d_coarse
settings: {num_epochs: 2, num_iterations: 2, num_val_iterations: 1}
trainings:
  mae: {trainer: nnUNetTrainerDoseMAE}
  tuned: {trainer: nnUNetTrainerCDM, starts_from: mae, settings: {num_epochs: 1}}
  wrong: {trainer: nnUNetTrainerNobodyKnows}
baseline: mae
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A planned data set of phantoms, and the file of the study."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(root / name))
        patients = ["--patients", "3", "--test-patients", "1", "-np", "1"]
        assert main(["convert", "synthetic", "-d", "500", "-n", "Demo", *patients]) == 0
        size = ["--spacing", "12", "--base-features", "4", "--gpu-memory", "4"]
        assert main(["plan", "-d", "500", "-c", "3d_coarse", *size, "-np", "1"]) == 0
    (root / "study.yaml").write_text(STUDY)
    return root


def command(folder, *options: str) -> subprocess.Popen:
    folders = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    arguments = [str(folder / "study.yaml"), "-o", str(folder / "out"), "-device", "cpu", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "cdm_nnunet.cli.main", "study", *arguments],
        env={**os.environ, **folders, "nnUNet_n_proc_DA": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_study_is_stopped_and_ends(folder):
    begun = command(folder)
    log = folder / "out" / "mae" / "fold_0.log"
    deadline = time.monotonic() + 300
    while not (log.is_file() and "Epoch 0" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    begun.send_signal(signal.SIGTERM)
    begun.communicate(timeout=300)
    assert begun.returncode == 143

    rows = {row["job"]: row for row in json.loads(command(folder, "--status", "--json").communicate()[0])["jobs"]}
    assert rows["mae, fold 0"]["state"] == "stopped"
    assert rows["mae, scores"]["state"] == "waiting"
    assert "SIGTERM" in log.read_text()  # the training has written a checkpoint

    again = command(folder, "--json")
    out, err = again.communicate(timeout=900)
    record = json.loads(out)
    assert again.returncode == 2  # for the trainer that there is not
    assert " of 6 jobs: wrong, fold 0: failed" in err
    assert {row["job"]: row["state"] for row in record["jobs"]} == {
        "mae, fold 0": "done",
        "tuned, fold 0": "done",
        "wrong, fold 0": "failed",
        "mae, scores": "done",
        "tuned, scores": "done",
        "wrong, scores": "waiting",
    }
    assert "continuing from" in log.read_text()
    assert list(record["scores"]) == ["mae", "tuned"]
    assert all(0 < one["dose_mae_gy"] < 80 for one in record["scores"].values())
    compared = json.loads((folder / "out" / "comparison" / "comparison.json").read_text())
    assert list(compared["models"]) == ["mae", "tuned"]
    assert "weights of" in (folder / "out" / "tuned" / "fold_0.log").read_text()
