"""Curves of a training in TensorBoard, W&B and MLflow: sent values, and no failure ends a training."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.trainers.run_facts import dataset_digest, facts_text, git_state
from cdm_nnunet.trainers.tracking import WANDB_VARIABLE, Run, Service, Tracker, opened_later, trackers_for

FACTS = {"training": {"dataset_sha256": "ab12"}, "settings": {"num_epochs": 2, "loss_weight": None},
         "software": {"torch": "2"}, "machine": {"host": "here", "gpu": ""}}  # fmt: skip
UNTIDY = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::UserWarning")


class Recorded:
    """A service that records its input, and fails on request."""

    def __init__(self, knows_run=False):
        self.values, self.facts, self.ends, self.fails, self.knows_run = [], [], [], False, knows_run

    def open(self) -> Service:
        self.check()
        return Service(send=self.send, tell=self.facts.append, close=self.ends.append, knows_run=self.knows_run)

    def send(self, values):
        self.check()
        self.values += [(value.name, value.value, value.epoch) for value in values]

    def check(self):
        if self.fails:
            raise OSError(28, "No space left on device")


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def tracker(recorded, said):
    return Tracker("Here", recorded.open, FACTS, said.append)


def log_epoch(tracker, epoch: int, **values: float) -> None:
    tracker.log("epoch_start_timestamps", 100.0 * epoch, epoch)
    for key, value in ({"train_losses": 0.5 + epoch} | values).items():
        tracker.log(key, value, epoch)
    tracker.log("epoch_end_timestamps", 100.0 * epoch + 7, epoch)


def test_an_epoch_is_sent_at_its_end_and_facts_once(tracker, recorded, said):
    log_epoch(tracker, 0, train_dvh_loss=float("nan"), val_cdm=1.0)
    log_epoch(tracker, 1)
    tracker.close(is_done=True)
    log_epoch(tracker, 2)
    sent = [("loss/training", 0.5, 0), ("time/epoch_s", 7.0, 0), ("loss/training", 1.5, 1), ("time/epoch_s", 7.0, 1)]
    assert recorded.values == sent
    assert recorded.facts == [FACTS]
    assert recorded.ends == [True]
    assert said == []


def test_a_service_that_knows_the_training_gets_no_facts_again(said):
    recorded = Recorded(knows_run=True)
    log_epoch(Tracker("Here", recorded.open, FACTS, said.append), 3)
    assert recorded.facts == []
    assert len(recorded.values) == 2


def test_a_failure_is_one_line_and_what_was_not_sent_follows(tracker, recorded, said):
    log_epoch(tracker, 0)
    recorded.fails = True
    for epoch in (1, 2):
        log_epoch(tracker, epoch)
    assert said == ["Here got no curves ([Errno 28] No space left on device); the training continues"]
    recorded.fails = False
    log_epoch(tracker, 3)
    assert [epoch for name, _, epoch in recorded.values if name == "loss/training"] == [0, 1, 2, 3]


def test_a_service_that_can_not_be_opened_is_left_out(tracker, recorded, said):
    recorded.fails = True
    log_epoch(tracker, 0)
    recorded.fails = False
    log_epoch(tracker, 1)
    tracker.close(is_done=False)
    assert (recorded.values, len(said)) == ([], 1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "nnUNet_wandb"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("cdm_nnunet.trainers.tracking.find_spec", lambda _: None)
    return Run(folder=tmp_path, name="CDM fold 0", group="Dataset501_Test", first_epoch=0, facts=FACTS)


def of_epochs(run, *epochs: int) -> list[str]:
    said: list[str] = []
    (tracker,) = trackers_for(run, said.append)
    for epoch in epochs:
        log_epoch(tracker, epoch)
    tracker.close(is_done=True)
    return said


def again(run: Run, first_epoch: int) -> Run:
    return Run(folder=run.folder, name=run.name, group=run.group, first_epoch=first_epoch, facts=run.facts)


@pytest.mark.filterwarnings(*UNTIDY)
def test_tensorboard_shows_each_epoch_once_after_a_training_went_on(run, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra 'tracking' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("cdm_nnunet.trainers.tracking.find_spec", lambda _: object())
    assert of_epochs(run, 0, 1, 2) == []
    assert of_epochs(again(run, 2), 2, 3) == []
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss/training")] == [(k, 0.5 + k) for k in range(4)]
    (text,) = {one.tensor_proto.string_val[0] for one in events.Tensors("training/text_summary")}
    assert b'"dataset_sha256": "ab12"' in text


@pytest.mark.filterwarnings(*UNTIDY)
def test_mlflow_keeps_one_run_for_a_training_that_goes_on(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra 'tracking' is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    assert of_epochs(run, 0, 1) == []
    assert of_epochs(again(run, 2), 2) == []
    client = mlflow.tracking.MlflowClient()
    experiment = client.get_experiment_by_name("Dataset501_Test")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "CDM fold 0"
    assert found.info.status == "FINISHED"
    assert found.data.params["settings.num_epochs"] == "2"
    history = client.get_metric_history(found.info.run_id, "loss/training")
    assert [(one.step, one.value) for one in history] == [(0, 0.5), (1, 1.5), (2, 2.5)]


@pytest.mark.filterwarnings(*UNTIDY)
def test_a_store_of_mlflow_that_can_not_be_written_is_one_line(run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra 'tracking' is not installed")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "store").as_uri())
    (line,) = of_epochs(run, 0, 1)
    assert line.startswith("MLflow got no curves (")


@pytest.mark.filterwarnings(*UNTIDY)
@pytest.mark.slow  # (it starts a separate process)
def test_wandb_offline_by_the_switch_of_nnunet(run, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra 'tracking' is not installed")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(run.folder / "data"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(run.folder / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(run.folder / "cache"))
    assert of_epochs(run, 0, 1) == []
    wandb.teardown()  # (its process writes the rest)
    (kept,) = run.folder.glob("wandb/offline-run-*/*.wandb")
    content = kept.read_bytes()
    for text in (b"loss/training", b"time/epoch_s", b"dataset_sha256", b"ab12"):
        assert text in content


def test_what_is_asked_for_and_missing_is_one_line(run, monkeypatch):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.wandb", None)
    (line,) = of_epochs(run, 0)
    assert line.startswith("Weights & Biases got no curves (wandb is not installed: pip install")


def test_nnunet_does_not_open_wandb_itself(monkeypatch):
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    with opened_later():
        assert "nnUNet_wandb_enabled" not in os.environ
    assert os.environ[WANDB_VARIABLE] == "1"
    monkeypatch.setenv("nnUNet_wandb_enabled", "yes")
    with pytest.raises(InputError, match="nnUNet_wandb_enabled is 0 or 1, not 'yes'"), opened_later():
        pass


def test_git_state_is_that_of_the_sources(tmp_path):
    def git(*arguments: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *named, *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("a")
    assert git_state(package) == ""
    git("init")
    assert git_state(package) == ""  # somebody's checkout, of other files
    git("add", ".")
    git("commit", "-m", "a")
    commit = git_state(package)
    assert len(commit) == 40
    (package / "a.py").write_text("b")
    assert git_state(package) == f"{commit} changed"


def test_the_digest_is_of_the_data_set(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    first = dataset_digest(tmp_path)
    (tmp_path / "splits_final.json").write_text("[]")
    assert len({first, dataset_digest(tmp_path)}) == 2
    assert dataset_digest(Path("nowhere")) != first


def test_the_log_says_what_ran_where():
    assert facts_text(FACTS) == "torch 2\nhost here\ndata set: SHA-256 ab12"
    json.dumps(FACTS)


def test_a_training_tells_its_trackers(make_trainer, monkeypatch, recorded):
    from cdm_nnunet.trainers import logged

    def for_run(run, tell):
        recorded.facts.append(run.facts)
        return [Tracker("Here", recorded.open, {}, tell)]

    monkeypatch.setattr(logged, "trackers_for", for_run)
    trainer = make_trainer(NUM_EPOCHS="1")
    trainer.run_training()
    facts = recorded.facts[0]
    assert facts["settings"]["num_epochs"] == 1
    assert facts["training"]["trainer"] == "nnUNetTrainerCDM"
    assert len(facts["training"]["dataset_sha256"]) == 64
    assert facts["software"]["cdm_nnunet"]
    names = {name for name, _, _ in recorded.values}
    assert {"loss/training", "loss/validation", "validation/score", "learning_rate", "time/epoch_s"} <= names
    assert recorded.ends == [True]
    assert facts["training"]["dataset_sha256"] in Path(trainer.log_file).read_text()
