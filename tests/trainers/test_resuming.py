"""A training that is stopped, continued, or restarted over an earlier one: nothing is lost or mixed up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.run import run_training

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.nnunet.checkpoint import BEST, FINAL, LATEST, read_checkpoint, write_checkpoint
from cdm_nnunet.trainers.checkpoints import newest_whole


def go_on(trainer):
    run_training.maybe_load_checkpoint(trainer, True, False)
    return trainer


def folder_of(trainer) -> Path:
    return Path(trainer.output_folder)


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


@pytest.fixture(scope="module")
def trained_once(root_once, tmp_path_factory):
    """The results of two epochs, once for all tests, that may not be changed."""
    results = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(root_once / "raw"))
        patch.setenv("nnUNet_preprocessed", str(root_once / "preprocessed"))
        patch.setenv("nnUNet_results", str(results))
        patch.setenv("nnUNet_n_proc_DA", "0")
        for name, value in {"NUM_EPOCHS": "2", "NUM_ITERATIONS": "1", "NUM_VAL_ITERATIONS": "1", "SEED": "3"}.items():
            patch.setenv(f"CDM_{name}", value)
        assert main(["train", "532", "3d_fullres", "0", "-device", "cpu"]) == 0
    return results


@pytest.fixture
def trained(trained_once, preprocessed, tmp_path, monkeypatch):
    """A copy of it: the fold's folder."""
    import shutil

    shutil.copytree(trained_once, tmp_path / "results")
    monkeypatch.setenv("CDM_NUM_ITERATIONS", "1")
    return next((tmp_path / "results").glob("*/nnUNetTrainerCDM__*/fold_0"))


def set_epoch(path: Path, epoch: int, **more) -> None:
    content = dict(torch.load(path, weights_only=True))
    write_checkpoint(path, {**content, "current_epoch": epoch, **more})


def error_of(capfd) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    return line


def test_a_checkpoint_keeps_the_settings_and_no_more_than_plain_values(trained):
    final = torch.load(trained / FINAL, weights_only=True)
    assert final["cdm"]["settings"]["num_epochs"] == 2
    assert final["cdm"]["settings"]["loss_weight"] is None
    assert "plugin" not in final["init_args"]
    text = "".join(path.read_text() for path in trained.glob("training_log_*.txt"))
    assert "TrainingSettings(num_epochs=2, num_iterations=1," in text
    assert json.loads((trained.parent / "plans.json").read_text())["label_manager"] == "LabelManager"
    assert sorted(path.name for path in trained.glob(".*")) == [".training_lock"]


def test_the_newest_whole_checkpoint_is_taken(trained, make_trainer):
    (trained / LATEST).write_bytes((trained / FINAL).read_bytes())
    set_epoch(trained / LATEST, 1)
    whole = (trained / FINAL).read_bytes()
    (trained / FINAL).write_bytes(whole[: len(whole) // 2])
    (trained / BEST).write_bytes(b"")
    trainer = go_on(make_trainer(continue_training=True))
    assert trainer.current_epoch == 1
    text = log_of(trainer)
    assert "continuing from checkpoint_latest.pth, epoch 1 of 2" in text
    assert "ignored: " in text
    assert "checkpoint_final.pth is damaged or cut" in text
    assert "checkpoint_best.pth is empty" in text


@pytest.mark.parametrize("place", range(10))
def test_a_final_checkpoint_that_is_cut_anywhere_costs_one_epoch_at_most(trained, place):
    whole = (trained / FINAL).read_bytes()
    (trained / FINAL).write_bytes(whole[: place * len(whole) // 10])
    checkpoint, damaged = newest_whole(trained)
    assert checkpoint.path.name == BEST
    assert len(damaged) == 1


def test_no_whole_checkpoint_is_one_line(trained, capfd):
    for path in trained.glob("checkpoint_*.pth"):
        path.write_bytes(path.read_bytes()[:100])
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--c"]) == 2
    line = error_of(capfd)
    assert "no checkpoint in" in line
    assert "train from the start with --restart" in line


def test_a_checkpoint_that_would_run_something_is_left_aside(trained, make_trainer, tmp_path, capfd):
    mark = tmp_path / "mark"
    script = "import os, torch, sys\nclass E:\n def __reduce__(s): return os.mkdir, (sys.argv[2],)\n"
    script += "c = torch.load(sys.argv[1]); c['more'] = E(); torch.save(c, sys.argv[1])"
    for name in (FINAL, BEST):
        subprocess.run([sys.executable, "-c", script, str(trained / name), str(mark)], check=True)
    for options in (["--c"], ["--val"], ["--val", "--val_best"]):
        assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", *options]) == 2
        assert "names 'posix.mkdir', which no checkpoint of this software needs" in error_of(capfd)
    assert not mark.exists()


def test_checkpoints_of_two_trainings_are_not_mixed(trained, make_trainer):
    content = dict(torch.load(trained / FINAL, weights_only=True))
    content["logging"]["epoch_start_timestamps"][0] += 1000
    write_checkpoint(trained / LATEST, content)
    with pytest.raises(InputError, match=r"belong to several trainings: checkpoint_final\.pth \(epoch 2, begun 20"):
        go_on(make_trainer(continue_training=True))


@pytest.mark.parametrize("final", [None, b"cut"])
def test_a_training_killed_after_its_last_epoch_gets_its_final_checkpoint(trained, make_trainer, final):
    (trained / FINAL).rename(trained / LATEST)
    if final is not None:
        (trained / FINAL).write_bytes(final)
    trainer = make_trainer(continue_training=True)
    go_on(trainer)
    written, kept = (torch.load(trained / name, weights_only=True) for name in (FINAL, LATEST))
    assert written["current_epoch"] == kept["current_epoch"] == 2
    for name, weight in kept["network_weights"].items():
        assert torch.equal(written["network_weights"][name], weight)


def test_a_finished_fold_is_validated_again_and_not_written_over(trained, capfd):
    before = (trained / FINAL).read_bytes()
    for path in (trained / "validation").iterdir():
        path.unlink()
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--c"]) == 0
    assert "all 2 epochs are done; only the validation is done again" in capfd.readouterr().err
    assert (trained / FINAL).read_bytes() == before
    assert (trained / "validation" / "summary.json").is_file()


def test_forgotten_variables_do_not_start_a_thousand_epochs(trained, make_trainer, monkeypatch):
    for name in ("NUM_EPOCHS", "NUM_ITERATIONS", "SEED"):
        monkeypatch.delenv(f"CDM_{name}")
    trainer = go_on(make_trainer(continue_training=True))
    assert trainer.num_epochs == trainer.settings.num_epochs == 2
    assert trainer.num_iterations_per_epoch == 1
    assert trainer.settings.seed == 3


def test_other_settings_are_refused_unless_asked_for(trained, make_trainer, monkeypatch, capfd):
    monkeypatch.setenv("CDM_LOSS_WEIGHT", "5")
    monkeypatch.setenv("CDM_NUM_EPOCHS", "3")
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--c"]) == 2
    assert "CDM_NUM_EPOCHS was 2 and is 3; CDM_LOSS_WEIGHT was None and is 5.0" in error_of(capfd)
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--c", "--change-settings"]) == 0
    final = read_checkpoint(trained / FINAL)
    assert (final.epoch, final.settings["loss_weight"]) == (3, 5.0)


def test_an_old_finished_training_without_settings_is_not_trained_on_by_itself(trained, make_trainer):
    content = dict(torch.load(trained / FINAL, weights_only=True))
    del content["cdm"]
    for name in (FINAL, BEST):
        torch.save(content, trained / name)
    with pytest.raises(InputError, match="ended a training of 2 epochs, and 1000 are requested: set CDM_NUM_EPOCHS=2"):
        go_on(make_trainer(continue_training=True, NUM_EPOCHS="1000"))
    assert go_on(make_trainer(continue_training=True, NUM_EPOCHS="2")).current_epoch == 2


def test_a_fold_is_not_trained_over_without_being_asked(trained, monkeypatch, capfd):
    before = {path.name: path.read_bytes() for path in trained.glob("checkpoint_*.pth")}
    monkeypatch.setenv("CDM_LOSS_WEIGHT", "5")
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu"]) == 2
    assert "a training already (checkpoint_best.pth, checkpoint_final.pth): continue it (--c)" in error_of(capfd)
    assert {path.name: path.read_bytes() for path in trained.glob("checkpoint_*.pth")} == before
    assert main(["train", "532", "3d_fullres", "0", "-device", "cpu", "--restart"]) == 0
    (replaced,) = trained.glob("replaced_*")
    assert {path.name: path.read_bytes() for path in replaced.iterdir()} == before
    assert read_checkpoint(trained / FINAL).settings["loss_weight"] == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer_name", "nnUNetTrainerDoseMAE", "is of trainer nnUNetTrainerDoseMAE, not of nnUNetTrainerCDM"),
        ("fold", 1, "is of fold 1, not of 0"),
        ("configuration", "3d_coarse", "is of configuration 3d_coarse, not of 3d_fullres"),
        ("optimizer_state", {}, "does not fit this training"),
    ],
)
def test_a_checkpoint_of_another_fold_or_trainer(trained, make_trainer, key, value, message):
    content = dict(torch.load(trained / FINAL, weights_only=True))
    (content["init_args"] if key in content["init_args"] else content)[key] = value
    for name in (FINAL, BEST):
        write_checkpoint(trained / name, content)
    with pytest.raises(InputError, match=message):
        go_on(make_trainer(continue_training=True))


def test_plans_that_changed_since(trained, preprocessed):
    from cdm_nnunet.trainers import nnUNetTrainerCDM

    def trainer(fold):
        plans, dataset_json = (
            json.loads((preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json")
        )
        plans["configurations"]["3d_fullres"]["batch_size"] = 1
        plans["continue_training"] = True
        return nnUNetTrainerCDM(plans, "3d_fullres", fold, dataset_json, torch.device("cpu"))

    copies = {path: path.read_bytes() for path in trained.parent.glob("*.json")}
    with pytest.raises(InputError, match=r"with other plans \(plans.configurations.3d_fullres.batch_size is"):
        go_on(trainer(0))
    with pytest.raises(InputError, match=r"holds folds that were trained with other .*'cdm-nnunet plan -p NAME'"):
        trainer(1).run_training()
    assert {path: path.read_bytes() for path in trained.parent.glob("*.json")} == copies


def test_a_training_without_checkpoints_touches_none(trained, make_trainer):
    """nnU-Net removes the latest one at the end of every training."""
    (trained / LATEST).write_bytes((trained / BEST).read_bytes())
    for goes_on, message in ((True, "--disable_checkpointing and --c"), (False, "holds a training already")):
        trainer = make_trainer(continue_training=goes_on, NUM_EPOCHS="3", CHANGE_SETTINGS="1")
        trainer.disable_checkpointing = True
        if goes_on:
            go_on(trainer)
        with pytest.raises(InputError, match=message):
            trainer.run_training()
    assert (trained / LATEST).exists()


def test_two_trainings_of_a_fold(make_trainer):
    trainer = make_trainer()
    with (
        locked(folder_of(trainer) / ".training_lock", "busy"),
        pytest.raises(InputError, match="another process is training in"),
    ):
        trainer.run_training()


def test_what_a_killed_process_left_is_cleared(make_trainer):
    trainer = make_trainer()
    left = folder_of(trainer) / f".{LATEST}.partial_1"
    left.write_bytes(b"half")
    trainer.run_training()
    assert not left.exists()


def test_sigterm_writes_a_checkpoint_of_the_epochs_that_are_whole(make_trainer, monkeypatch):
    trainer = make_trainer(NUM_EPOCHS="3")
    steps = []
    step = type(trainer).train_step

    def signalled(batch):
        steps.append(1)
        if len(steps) == 3:  # the first step of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, batch)

    monkeypatch.setattr(trainer, "train_step", signalled)
    with pytest.raises(SystemExit) as caught:
        trainer.run_training()
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    latest = read_checkpoint(folder_of(trainer) / LATEST)
    assert latest.epoch == 1
    assert {len(values) for values in latest.content["logging"].values()} == {1}
    assert "stopped by SIGTERM in epoch 1; " in log_of(trainer)
    further = go_on(make_trainer(continue_training=True))
    assert further.current_epoch == 1
    further.run_training()
    assert {len(values) for values in further.logger.get_checkpoint().values()} == {3}
    assert not (folder_of(trainer) / LATEST).exists()


def test_a_job_that_a_cluster_ends(preprocessed, tmp_path):
    """The command itself, with a loader process, stopped by SIGTERM in the midst of its steps."""
    environment = {**os.environ, "CDM_NUM_EPOCHS": "1000", "CDM_NUM_ITERATIONS": "50", "nnUNet_n_proc_DA": "1"}
    command = [sys.executable, "-m", "cdm_nnunet.cli.main", "train", "532", "3d_fullres", "0", "-device", "cpu"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "Current learning rate" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 143, rest
    assert "Traceback" not in rest
    (latest,) = (tmp_path / "results").rglob(LATEST)
    assert read_checkpoint(latest).epoch == 0
