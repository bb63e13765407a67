"""nnU-Net's own commands on dose data: one line that names the command to use, and nothing changed."""

import json
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cdm_nnunet import stock_commands

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMANDS = {
    "train": ("531 3d_fullres 0 -device cpu", "Dataset531_Small", "-tr nnUNetTrainerCDM"),
    "plan_experiment": ("-d 531 -gpu_memory_target 8", "Dataset531_Small", "cdm-nnunet plan -d 531"),
    "preprocess": ("-d 531 -c 3d_fullres -np 1", "Dataset531_Small", "cdm-nnunet preprocess -d 531"),
    "find_best_configuration": ("531 -c 3d_fullres", "Dataset531_Small", "cdm-nnunet find-best -d 531"),
    "plot_overlay_pngs": ("-d 531 -o out", "Dataset531_Small", "cdm-nnunet evaluate"),
    "ensemble": ("-o out -i plain doses", "doses", "cdm-nnunet ensemble"),
    "evaluate_folder": (
        "plain plain -djfile raw/Dataset531_Small/dataset.json -pfile plain/p.json",
        "raw/Dataset531_Small/dataset.json",
        "cdm-nnunet evaluate",
    ),
    "apply_postprocessing": ("-i doses -o out -pp_pkl_file x", "doses", "cdm-nnunet evaluate"),
}


def run_all(root: Path, commands: dict[str, str]) -> dict[str, subprocess.CompletedProcess]:
    """Each command of nnU-Net, as installed, in a separate process."""

    def run(name: str) -> subprocess.CompletedProcess:
        command = [str(SCRIPTS / f"nnUNetv2_{name}"), *commands[name].split()]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500, check=False)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(commands, pool.map(run, commands), strict=True))


@pytest.fixture(scope="module")
def refused(planned_once, tmp_path_factory):
    """All commands, run once on a planned data set, and the folders before and after."""
    root = tmp_path_factory.mktemp("commands")
    for name in ("raw", "preprocessed"):
        shutil.copytree(planned_once.root / name, root / name)
    for name in ("plain", "doses"):
        (root / name).mkdir()
    (root / "doses" / "case.prediction.json").write_text("{}")
    before = contents(root)
    with pytest.MonkeyPatch.context() as patch:
        type(planned_once)(root, planned_once.raw).use(patch)
        (root / "results").rmdir()
        done = run_all(root, {name: command for name, (command, _, _) in COMMANDS.items()})
    assert contents(root) == before
    return done


def contents(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_for_segmentation_names_the_one_to_use(refused, name):
    _, what, use = COMMANDS[name]
    (line,) = refused[name].stderr.splitlines()
    assert line.startswith(f"nnUNetv2_{name}: error: {what} is ")
    assert "dose prediction, and this command is for segmentation; " in line
    assert use in line
    assert refused[name].returncode == 2


def test_torch_is_told(planned):
    """An installation without this entry point would run nnU-Net's commands unasked."""
    (ours,) = [one for one in entry_points(group="torch.backends") if one.name == "cdm_nnunet"]
    assert ours.load() is stock_commands.refuse_segmentation


def quiet(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"/somewhere/{arguments[0]}", *arguments[1:]])
    stock_commands.refuse_segmentation()


@pytest.mark.parametrize(
    "arguments",
    [
        "nnUNetv2_train -p X Dataset531_Small 3d_fullres 0",
        "nnUNetv2_train 531 3d_fullres all -tr nnUNetTrainer_5epochs --npz",
        "nnUNetv2_train -tr nnUNetTrainerDiceLoss --c 0531 3d_fullres 0",
        "nnUNetv2_plan_experiment -d 7 531",
        "nnUNetv2_extract_fingerprint -d 531 --clean -np 1",
        "nnUNetv2_plan_and_preprocess --clean -d 531 -c 3d_fullres",
        "nnUNetv2_accumulate_crossval_results 531 -c 3d_fullres",
        "nnUNetv2_determine_postprocessing -i {1} -ref plain",
        "nnUNetv2_evaluate_simple {0}/labelsTr plain -l 1 2",
        "nnUNetv2_plan_experiment.exe -pl ResEncUNetPlanner -d 531",
        "nnUNetv2_find_best_configuration 531 -tr nnUNetTrainerCDM nnUNetTrainerDoseMAE",
        "nnUNetv2_evaluate_folder {0}/labelsTr plain -djfile none -pfile none",
        "nnUNetv2_ensemble -i plain {0}/../../raw/Dataset531_Small -o out",
        "nnUNetv2_evaluate_folder plain plain -djfile none -pfile {1}/nnUNetPlans.json",
    ],
)
def test_other_ways_to_say_it(planned, monkeypatch, capfd, arguments):
    import nnunetv2  # noqa: F401  # (as in nnU-Net's commands)

    with pytest.raises(SystemExit) as stopped:
        quiet(monkeypatch, *arguments.format(planned.raw.folder, planned.preprocessed).split())
    assert stopped.value.code == 2
    assert "dose prediction" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "python -d 531",
        "nnUNetv2_predict -d 531",
        "nnUNetv2_train 531 3d_fullres 0 -tr nnUNetTrainerCDM",
        "nnUNetv2_train 531 3d_fullres 0 -tr nnUNetTrainerCDM_250epochs --c",
        "nnUNetv2_train 531 3d_fullres 0 -tr SomebodysDoseTrainer",
        "nnUNetv2_train 7 3d_fullres 531",
        "nnUNetv2_train --help",
        "nnUNetv2_train 531",
        "nnUNetv2_plan_experiment -d 7 -pl 531",
        "nnUNetv2_plan_experiment -d Dataset531_Other ../raw ** 5_31",
        "nnUNetv2_ensemble -i plain nowhere -o out",
        "nnUNetv2_evaluate_folder plain plain -djfile nowhere.json -pfile plain/deep.json",
    ],
)
def test_all_others_are_left_alone(planned, monkeypatch, tmp_path, arguments):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "deep.json").write_text("[" * 10_000)
    (tmp_path / "plain" / "plans.json").write_text(json.dumps({"cdm": "something else"}))
    monkeypatch.chdir(tmp_path)
    import nnunetv2  # noqa: F401  # (as in nnU-Net's commands)

    quiet(monkeypatch, *arguments.split())


@pytest.mark.parametrize("option", ["--npz", "--n"])
def test_probabilities_of_a_dose_are_refused_before_the_training(planned, monkeypatch, capfd, option):
    import nnunetv2  # noqa: F401  # (as in nnU-Net's commands)

    with pytest.raises(SystemExit):
        quiet(monkeypatch, "nnUNetv2_train", "531", "3d_fullres", "0", "-tr", "nnUNetTrainerCDM", option)
    assert "--npz: a dose has no class probabilities; leave the option out" in capfd.readouterr().err


def test_without_folders_and_arguments_it_says_nothing(monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    quiet(monkeypatch, "nnUNetv2_plan_experiment", "-d", "531")
    monkeypatch.setattr(sys, "argv", [])
    stock_commands.refuse_segmentation()
