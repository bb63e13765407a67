"""The complete workflow of a user in subprocesses: convert, plan, train, continue, predict twice, evaluate."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytestmark = pytest.mark.slow

ID, NAME = "541", "Dataset541_Phantoms"
MODEL = "{}__nnUNetPlans__3d_coarse/fold_0"
SHORT = {"CDM_NUM_ITERATIONS": "3", "CDM_NUM_VAL_ITERATIONS": "2", "CDM_LOSS_START": "0", "CDM_SEED": "1"}
LIMIT_S = 600


class Shell:
    """Runs commands in one folder, with the exports of ``cdm-nnunet env`` and short trainings."""

    def __init__(self, folder: Path):
        self.folder = folder
        bare = {k: v for k, v in os.environ.items() if not k.lower().startswith(("nnunet_", "cdm_"))}
        self.environment = {
            **bare,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "nnUNet_n_proc_DA": "0",
        }

    def __call__(self, command: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env={**self.environment, **SHORT, **variables},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == status, (
            f"{command}: status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done

    def load_exports(self) -> None:
        """The effect of ``eval "$(cdm-nnunet env)"``."""
        for line in self("cdm-nnunet env").stdout.splitlines():
            export, assignment = line.split(" ", 1)
            assert export == "export"
            name, value = assignment.split("=", 1)
            self.environment[name] = shlex.split(value)[0]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("end_to_end"))
    shell.load_exports()
    return shell


@pytest.fixture(scope="module")
def planned(shell) -> Path:
    """The raw data set, converted and planned."""
    shell(f"cdm-nnunet convert synthetic -d {ID} -n Phantoms --patients 4 --test-patients 2 -np 2")
    plan = shell(
        f"cdm-nnunet plan -d {ID} -c 3d_coarse --coarse-spacing 10 --base-features 4 --gpu-memory 1 -np 2 --json"
    )
    record = json.loads(plan.stdout)
    assert record["preprocessed"] == ["3d_coarse"]
    assert record["configurations"]["3d_coarse"]["spacing_mm"] == [10.0, 10.0, 10.0]
    return Path(shell.environment["nnUNet_raw"]) / NAME


@pytest.fixture(scope="module")
def trained(shell, planned) -> Path:
    """The results of one epoch with nnU-Net's own command, continued for a second one."""
    train = f"nnUNetv2_train {ID} 3d_coarse 0 -tr nnUNetTrainerCDM -device cpu"
    refused = shell(f"{train} --npz", status=2, CDM_NUM_EPOCHS="1")
    assert "--npz: a dose has no class probabilities; leave the option out" in refused.stderr
    assert "Epoch 0" not in refused.stdout
    first = shell(train, CDM_NUM_EPOCHS="1", nnUNet_n_proc_DA="1")
    assert "Epoch 0" in first.stdout
    refused = shell(f"{train} --c", status=1, CDM_NUM_EPOCHS="2")
    assert "CDM_NUM_EPOCHS was 1 and is 2" in refused.stderr
    continued = shell(f"{train} --c", CDM_NUM_EPOCHS="2", CDM_CHANGE_SETTINGS="1")
    assert "Epoch 1" in continued.stdout
    assert "Epoch 0" not in continued.stdout
    return Path(shell.environment["nnUNet_results"]) / NAME


@pytest.fixture(scope="module")
def predicted(shell, planned, trained) -> Path:
    """The doses of the test patients by ``cdm-nnunet predict``."""
    shell(f"cdm-nnunet predict -i {planned / 'imagesTs'} -o ours -d {ID} -c 3d_coarse -f 0 -device cpu -np 0")
    return shell.folder / "ours"


def log_text(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("training_log_*.txt")))


def test_a_training_says_dose_errors_and_never_dice(trained):
    folder = trained / MODEL.format("nnUNetTrainerCDM")
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "validation", "debug.json",
    }  # fmt: skip
    assert not (folder / "checkpoint_latest.pth").exists()
    text = log_text(folder)
    assert "dice" not in text.lower()
    found = re.findall(
        r"validation patches: dose MAE (\S+) Gy; metric errors .*: PTV (\S+), OAR (\S+); score (\S+)", text
    )
    assert len(found) == 2  # epochs
    assert np.isfinite(np.array(found, float)).all()
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert summary["n_cases"] == len(list((folder / "validation").glob("*.nii.gz"))) == 1
    assert all(np.isfinite(value) for value in summary["mean"].values())


def predictions(folder: Path) -> dict[str, sitk.Image]:
    return {path.name: sitk.ReadImage(str(path)) for path in sorted(folder.glob("*.nii.gz"))}


def test_both_predictions_give_the_same_dose_in_the_inputs_geometry(shell, planned, predicted):
    source = planned / "imagesTs"
    shell(
        f"nnUNetv2_predict -i {source} -o theirs -d {ID} -c 3d_coarse -f 0 -tr nnUNetTrainerCDM -device cpu "
        "-npp 2 -nps 2"
    )
    ours, theirs = predictions(predicted), predictions(shell.folder / "theirs")
    assert list(ours) == list(theirs) == ["phantom_005.nii.gz", "phantom_006.nii.gz"]
    catalogue = json.loads((planned / "dataset.json").read_text())["cdm"]["catalogue"]
    region_bit = next(roi["bit"] for roi in catalogue if roi["kind"] == "dose_region")
    for name, image in ours.items():
        ct = sitk.ReadImage(str(source / name.replace(".nii.gz", "_0000.nii.gz")))
        bits = sitk.GetArrayFromImage(sitk.ReadImage(str(source / name.replace(".nii.gz", "_0002.nii.gz"))))
        region = (bits >> region_bit) & 1 == 1
        for dose_image in (image, theirs[name]):
            assert dose_image.GetPixelIDTypeAsString() == "32-bit float"
            assert dose_image.GetSize() == ct.GetSize()
            for quantity in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(dose_image, quantity)(), getattr(ct, quantity)(), atol=1e-5)
        dose = sitk.GetArrayFromImage(image)
        np.testing.assert_allclose(sitk.GetArrayFromImage(theirs[name]), dose, rtol=1e-5, atol=1e-5)
        assert dose.min() >= 0
        assert not dose[~region].any()
        assert dose[region].max() > 0


def test_nnunets_own_zip_of_a_model_and_ours(shell, planned, trained):
    stock = "-c 3d_coarse -tr nnUNetTrainerCDM -f 0"
    shell(f"nnUNetv2_export_model_to_zip -d {ID} -o stock.zip {stock}")
    shell(f"cdm-nnunet model export -d {ID} {stock} -o ours.zip")
    elsewhere = shell.folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("stock", "ours"):
        shell(f"nnUNetv2_install_pretrained_model_from_zip {name}.zip", nnUNet_results=str(elsewhere))
    assert sorted(path.name for path in elsewhere.iterdir()) == [NAME, "ours"]  # none of our files are left
    predict = f"-i {planned / 'imagesTs'} -device cpu"
    shell(f"cdm-nnunet predict {predict} -o packaged -m {elsewhere / 'ours'} -np 0")
    folder = elsewhere / NAME / "nnUNetTrainerCDM__nnUNetPlans__3d_coarse"
    shell(f"nnUNetv2_predict_from_modelfolder {predict} -o by_folder -m {folder} -f 0 -npp 1 -nps 1")
    ours, theirs = predictions(shell.folder / "packaged"), predictions(shell.folder / "by_folder")
    assert list(ours) == list(theirs) == ["phantom_005.nii.gz", "phantom_006.nii.gz"]
    for name, image in ours.items():
        dose, other = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(theirs[name])
        assert dose.max() > 0
        np.testing.assert_allclose(other, dose, rtol=1e-5, atol=1e-5)


def test_predictions_can_be_scored(shell, predicted):
    shell(f"cdm-nnunet evaluate -d {ID} -i {predicted} -o evaluation --pictures 0")
    scores = json.loads((shell.folder / "evaluation" / "result.json").read_text())["scores"]
    values = [scores["openkbp"]["dose_score"], scores["openkbp"]["dvh_score"], scores["ptv_score"], scores["oar_score"]]
    assert np.isfinite(values).all()
    assert min(values) > 0


def test_probabilities_and_an_absent_fold_are_refused(shell, planned, trained):
    refused = shell(
        f"nnUNetv2_predict -i {planned / 'imagesTs'} -o no -d {ID} -c 3d_coarse -f 0 -tr nnUNetTrainerCDM -device cpu "
        "--save_probabilities",
        status=1,
    )
    assert "--save_probabilities: a dose model has no class probabilities" in refused.stderr
    assert not list((shell.folder / "no").glob("*.nii.gz"))
    absent = shell(
        f"cdm-nnunet predict -i {planned / 'imagesTs'} -o no -d {ID} -c 3d_coarse -f 3 -device cpu", status=2
    )
    assert re.fullmatch(r"cdm-nnunet: error: .*fold 3 was not trained to its end.*\n", absent.stderr)


def test_the_baseline_trains_on_the_same_plans_from_pretrained_weights(shell, planned, trained):
    weights = trained / MODEL.format("nnUNetTrainerCDM") / "checkpoint_final.pth"
    shell(
        f"cdm-nnunet train {ID} 3d_coarse 0 -tr nnUNetTrainerDoseMAE -device cpu -pretrained_weights {weights}",
        CDM_NUM_EPOCHS="1",
    )
    folder = trained / MODEL.format("nnUNetTrainerDoseMAE")
    assert (folder / "checkpoint_final.pth").is_file()
    assert "dice" not in log_text(folder).lower()
