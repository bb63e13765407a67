"""A training on two GPUs, played by two processes of this CPU, through nnU-Net's own way to start them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import distributed

import cdm_nnunet
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import locked
from cdm_nnunet.nnunet.checkpoint import BEST, FINAL, LATEST, read_checkpoint
from cdm_nnunet.trainers.logged import mean_of_samples
from cdm_nnunet.trainers.stopping import StopRequest
from cdm_nnunet.trainers.together import any_of_all, by_the_first, from_all, loss_factor, refuse_torchrun

GLOO = str(Path(__file__).with_name("gloo.py"))
LIMIT_S = 300
TRAIN = ["532", "3d_fullres", "0", "-tr", "nnUNetTrainerCDM", "-p", "Uneven", "-num_gpus", "2"]


class TestOneProcess:
    def test_it_is_all(self):
        assert from_all([1, 2]) == [1, 2]
        assert any_of_all(True, torch.device("cpu"))
        assert not any_of_all(False, torch.device("cpu"))
        assert loss_factor(3, 3) == 1

    def test_torchrun_is_refused(self):
        with pytest.raises(InputError, match=r"torchrun can't start a training: .* use -num_gpus"):
            refuse_torchrun({"TORCHELASTIC_RUN_ID": "none"})
        refuse_torchrun({})

    def test_its_claim(self):
        class Taken:
            def __enter__(self):
                raise InputError("taken")

            def __exit__(self, *_):
                raise AssertionError

        with pytest.raises(InputError, match="taken"), by_the_first(Taken()):
            pass


class Refused:
    """A claim that is refused in the process that may make it, and must not be made in another."""

    def __init__(self, rank: int):
        self.rank = rank

    def __enter__(self):
        assert self.rank == 0
        raise InputError("taken")

    def __exit__(self, *_):
        pass


def of_one_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    samples = torch.tensor([[1.0], [2.0], [6.0]])[2 * rank : 2 + rank]
    network = torch.nn.parallel.DistributedDataParallel(ones())
    (network(samples).square().mean() * loss_factor(len(samples), 3)).backward()
    steps = from_all([{"loss": float(one), "samples": 1} for one in samples])
    refused = ""
    try:
        with by_the_first(Refused(rank)):
            pass
    except InputError as error:
        refused = str(error)
    said = [any_of_all(which == rank, torch.device("cpu")) for which in (0, 1, 2)]
    torch.save((network.module.weight.grad, steps, refused, said), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def ones() -> torch.nn.Linear:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    return layer


@pytest.mark.slow
def test_two_processes_agree_and_count_each_sample_once(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(of_one_process, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert first == second
    gradient, steps, refused, said = first
    whole = ones()
    whole(torch.tensor([[1.0], [2.0], [6.0]])).square().mean().backward()
    assert torch.allclose(gradient, whole.weight.grad)
    assert mean_of_samples(steps, "loss") == pytest.approx(3.0)
    assert refused == "taken"
    assert said == [True, True, False]


@pytest.fixture
def ctrl_c():
    """SIGINT as at the start of Python: a process that a test runner has started may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("orphaned", [False, True])
def test_the_end_of_the_parent_asks_to_stop_and_ctrl_c_ends_at_once(orphaned, monkeypatch):
    request = StopRequest(outlives_parent=True)
    if orphaned:
        monkeypatch.setattr(os, "getppid", lambda: 1)
    with nullcontext() if orphaned else pytest.raises(KeyboardInterrupt), request.on_sigterm():
        signal.raise_signal(signal.SIGINT)
    assert request.asked == orphaned
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def surroundings(root_once, tmp_path_factory):
    """Variables for commands on plans with a batch of three, so that one process has two samples and the other one."""
    folder = root_once / "preprocessed" / "Dataset532_Phantoms"
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"plans_name": "Uneven"}
    plans["configurations"]["3d_fullres"]["batch_size"] = 3
    (folder / "Uneven.json").write_text(json.dumps(plans))
    settings = {"NUM_EPOCHS": "2", "NUM_ITERATIONS": "3", "NUM_VAL_ITERATIONS": "2", "SEED": "3"}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CDM_")},
        **{f"CDM_{name}": value for name, value in settings.items()},
        **{f"nnUNet_{name}": str(root_once / name) for name in ("raw", "preprocessed")},
        "nnUNet_results": str(tmp_path_factory.mktemp("results")),
        "nnUNet_extTrainer": str(Path(cdm_nnunet.__file__).parent / "ext_trainers"),
        "nnUNet_n_proc_DA": "0",
        "OMP_NUM_THREADS": "1",
    }


def start(arguments, surroundings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, GLOO, *arguments],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(text: str, folder: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + LIMIT_S
    while not any(text in path.read_text() for path in folder.glob("training_log_*.txt")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < end
        time.sleep(0.1)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + LIMIT_S
    while left := [pid for pid in pids if not gone(pid)]:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_train_stop_and_go_on(surroundings):
    folder = Path(surroundings["nnUNet_results"]) / "Dataset532_Phantoms/nnUNetTrainerCDM__Uneven__3d_fullres/fold_0"
    first = start(["train", *TRAIN], {**surroundings, "CDM_NUM_ITERATIONS": "100000"})
    wait_for("Epoch 0", folder, first)
    processes = [first.pid, *children_of(first.pid)]
    assert len(processes) > 2
    with pytest.raises(InputError, match="another"), locked(folder / ".training_lock", "another"):
        pass
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 143, said
    wait_until_gone(processes)
    assert "stopped by SIGTERM in epoch 0" in said
    assert read_checkpoint(folder / LATEST).epoch == 0

    changed = {**surroundings, "CDM_CHANGE_SETTINGS": "1"}
    going_on = start(["nnUNetv2_train", *TRAIN, "--c"], changed)
    said, _ = going_on.communicate(timeout=LIMIT_S)
    assert going_on.returncode == 0, said
    assert "continuing from checkpoint_latest.pth, epoch 0 of 2" in said
    assert dict(re.findall(r"worker (\d) batch_size (\d)", said)) == {"0": "2", "1": "1"}
    assert not (folder / LATEST).exists()
    final = read_checkpoint(folder / FINAL)
    assert final.epoch == 2
    assert (folder / BEST).exists()
    logged = final.content["logging"]
    for key in ("train_losses", "train_voxel_error", "val_losses", "val_mae_gy", "val_score"):
        assert len(logged[key]) == 2
        assert all(0 < value < 100 for value in logged[key])
    assert json.loads((folder.parent / "plans.json").read_text())["label_manager"] == "LabelManager"
    (dose,) = (folder / "validation").glob("*.nii.gz")  # (of one case for two processes)
    assert dose.name.partition(".")[0] in (folder / "validation" / "summary.json").read_text()
