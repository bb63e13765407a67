"""The order of jobs, failures, and reports."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cdm_nnunet.cli.study import _tell
from cdm_nnunet.errors import InputError
from cdm_nnunet.studies import jobs as jobs_module
from cdm_nnunet.studies.definition import StudyFile, members_of
from cdm_nnunet.studies.jobs import Job, Layout, Place, jobs_of
from cdm_nnunet.studies.run import Study
from cdm_nnunet.studies.running import run_jobs
from cdm_nnunet.studies.status import status_rows

STUDY = StudyFile(
    dataset=500,
    folds=[0, 1],
    trainings={
        "cdm": {"trainer": "nnUNetTrainerCDM", "starts_from": "mae"},
        "mae": {"trainer": "nnUNetTrainerDoseMAE"},
    },
    baseline="mae",
)
PLACES = [Place(device="cpu"), Place(device="cpu")]


@pytest.fixture
def commands(monkeypatch):
    """The jobs' commands in order, and the highest number at a time; statuses by trainer and fold."""

    class Commands:
        begun: list[str] = []  # noqa: RUF012  # made anew for each test
        statuses: dict[str, int] = {}  # noqa: RUF012
        most = 0

    record, lock, running = Commands(), threading.Lock(), [0]
    record.begun, record.statuses = [], {}

    def command(self: Job, arguments, place) -> int:
        name = f"{self.member.name} {self.fold} {arguments[0]}"
        with lock:
            record.begun.append(name)
            running[0] += 1
            record.most = max(record.most, running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        if arguments[0] == "train":
            folder = self.layout.fold(self.member, self.fold)
            (folder / "validation").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint_final.pth").touch()
        return record.statuses.get(name, 0)

    monkeypatch.setattr(Job, "_command", command)
    return record


def study(tmp_path: Path, definition: StudyFile = STUDY) -> tuple[Job, ...]:
    layout = Layout(study=definition, dataset="Dataset500_Demo", out=tmp_path)
    return jobs_of(layout, members_of(definition))


def test_each_job_begins_after_what_it_needs_and_two_run_at_a_time(tmp_path, commands):
    told = []
    assert run_jobs(study(tmp_path), PLACES, None, lambda job, state: told.append((job.name, state))) == {}
    order = {name: place for place, name in enumerate(commands.begun)}
    for fold in (0, 1):
        assert order[f"mae {fold} train"] < order[f"cdm {fold} train"] < order["cdm None evaluate"]
    assert commands.most == 2
    assert {row.state for row in status_rows(study(tmp_path), is_running=False)} == {"done"}
    assert [name for name, _ in told].count("mae, fold 0") == 2  # as it begins and as it ends


def test_a_training_starts_from_the_weights_of_a_model(tmp_path):
    trainings = {"mae": {"trainer": "nnUNetTrainerDoseMAE", "pretrained": "openkbp_hn"}}
    (job, _) = study(tmp_path, StudyFile(dataset=500, trainings=trainings, baseline="mae"))
    (command,) = job._train(PLACES[0])
    assert command[-2:] == ("-pretrained_weights", "openkbp_hn")
    assert job.asked["pretrained"] == "openkbp_hn"
    assert "pretrained" not in study(tmp_path)[0].asked  # studies begun before there was this key go on


def test_what_is_done_is_not_done_again(tmp_path, commands):
    run_jobs(study(tmp_path), PLACES, None, lambda job, state: None)
    commands.begun.clear()
    assert run_jobs(study(tmp_path), PLACES, None, lambda job, state: None) == {}
    assert commands.begun == []


def test_one_failure_stops_only_what_needs_it_and_is_tried_again(tmp_path, commands):
    commands.statuses["mae 1 train"] = 2
    faults = run_jobs(study(tmp_path), PLACES, None, lambda job, state: None)
    assert faults == {
        "mae, fold 1": f"failed, see {tmp_path}/mae/fold_1.log",
        "cdm, fold 1": "not started, because mae, fold 1 is not done",
        "mae, scores": "not started, because mae, fold 1 is not done",
        "cdm, scores": "not started, because cdm, fold 1 is not done",
    }
    assert "cdm 0 train" in commands.begun
    states = {row.job: row.state for row in status_rows(study(tmp_path), is_running=False)}
    assert states["mae, fold 1"] == "failed"
    assert states["cdm, fold 1"] == "waiting"
    commands.statuses.clear()
    commands.begun.clear()
    assert run_jobs(study(tmp_path), PLACES, None, lambda job, state: None) == {}
    assert commands.begun[0] == "mae 1 train"
    assert "mae 0 train" not in commands.begun


def test_the_reason_of_a_failure_is_in_the_status(tmp_path):
    job = study(tmp_path)[0]
    job.log.parent.mkdir(parents=True)
    job.log.write_text("Epoch 3\ncdm-nnunet: error: no CUDA device is available\n")
    job.log.with_suffix(".json").write_text('{"state": "failed", "seconds": 7200, "asked": {}}')
    row = status_rows([job], is_running=False)[0]
    assert (row.state, row.hours, row.remark) == ("failed", 2.0, "no CUDA device is available")
    job.log.with_suffix(".json").write_text('{"state": "running", "seconds": 1, "asked": {}}')
    assert [status_rows([job], is_running=now)[0].state for now in (True, False)] == ["running", "stopped"]
    assert status_rows([job], is_running=True)[0].remark == "epoch 3"


def test_a_message_is_written_at_once(tmp_path, monkeypatch):
    """Two jobs begin at the same moment, each in its thread."""
    written = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    _tell(study(tmp_path)[0], None)
    assert [text[len("12:00:00") :] for text in written if text] == [" mae, fold 0: begins\n"]


@pytest.mark.parametrize("is_running", [True, False])
def test_the_time_of_a_run_without_an_end_is_that_of_its_log(tmp_path, is_running):
    """It runs, or it was killed."""
    job = study(tmp_path)[0]
    job.log.parent.mkdir(parents=True)
    job.log.write_text("Epoch 3\n")
    job.log.with_suffix(".json").write_text('{"state": "running", "seconds": 1800, "asked": {}}')
    for path, second in ((job.log.with_suffix(".json"), 1_000), (job.log, 2_800)):
        os.utime(path, (second, second))
    assert status_rows([job], is_running=is_running)[0].hours == 1.0


def test_a_stopped_training_is_no_failed_one(tmp_path, commands):
    commands.statuses["mae 0 train"] = jobs_module._ENDED[0]
    run_jobs(study(tmp_path), PLACES, None, lambda job, state: None)
    assert status_rows(study(tmp_path), is_running=False)[0].state == "stopped"


def test_a_training_never_goes_on_with_other_settings(tmp_path, commands):
    run_jobs(study(tmp_path), PLACES, None, lambda job, state: None)
    changed = STUDY.model_copy(update={"settings": {"num_epochs": 7}})
    with pytest.raises(
        InputError, match=r"mae, fold 0 started with another settings \(\{\}, now \{\"num_epochs\": 7\}\)"
    ):
        study(tmp_path, changed)[0].refuse_other_settings()
    more = STUDY.model_copy(update={"folds": [0]})  # trainings remain; scores belong to other cases
    assert [job.is_done for job in study(tmp_path, more)] == [True, True, False, False]


def test_settings_of_the_study_alone_reach_a_training(tmp_path, monkeypatch):
    monkeypatch.setenv("CDM_LOSS_WEIGHT", "5")
    job = study(tmp_path, STUDY.model_copy(update={"settings": {"num_epochs": 7}}))[0]
    environment = job.environment(Place(device="cuda", gpu=3))
    ours = {name: value for name, value in environment.items() if name.startswith("CDM_")}
    assert ours == {"CDM_NUM_EPOCHS": "7", "CDM_SEED": "0"}
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["nnUNet_results"] == str(tmp_path / "mae" / "results")


def test_scores_of_other_folds_are_not_shown(tmp_path, commands):
    run_jobs(study(tmp_path), PLACES, None, lambda job, state: None)
    for name in ("mae", "cdm"):
        (tmp_path / name / "evaluation").mkdir()
        text = '{"scores": {"dose_mae_gy": 2.5, "ptv_score": 1.5, "oar_score": null}}'
        (tmp_path / name / "evaluation" / "result.json").write_text(text)
    shown = {}
    for folds in ([0, 1], [0]):
        jobs = study(tmp_path, STUDY.model_copy(update={"folds": folds}))
        shown[len(folds)] = Study(jobs[0].layout, members_of(STUDY), jobs).scores()
    assert list(shown[2]) == ["mae", "cdm"]
    assert shown[1] == {}
