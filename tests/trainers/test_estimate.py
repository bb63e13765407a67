"""``cdm-nnunet train --estimate``: how long a training takes, with nothing trained and nothing written."""

import types

import numpy as np
import pytest
import torch

from cdm_nnunet.cli import train as verb
from cdm_nnunet.cli.main import main
from cdm_nnunet.trainers import estimate


class Clock:
    """Time that passes only where a stub says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stub(clock, *, batch_s, step_s, validation_s=0.5):
    """A trainer whose loader (in this process) and steps take as long as they say."""

    def loader():
        while True:
            clock.now += batch_s
            yield {}

    def step(seconds):
        def run(batch):
            clock.now += seconds

        return run

    trainer = types.SimpleNamespace(
        network=torch.nn.Identity(),
        train_step=step(step_s),
        validation_step=step(validation_s),
        num_iterations_per_epoch=10,
        num_val_iterations_per_epoch=4,
        num_epochs=100,
        batch_size=2,
        configuration_manager=types.SimpleNamespace(patch_size=np.array([8, 8, 8])),
        device=torch.device("cpu"),
    )
    return trainer, loader(), loader()


def test_the_sums(monkeypatch):
    """A batch takes 1 s and a step 3 s, one after the other: 40 s and 4 x 1.5 s an epoch."""
    clock = Clock()
    monkeypatch.setattr(estimate, "perf_counter", clock)
    record = estimate._measure(*stub(clock, batch_s=1.0, step_s=3.0))
    assert record == {
        "device": "cpu",
        "loader_processes": 0,
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "patches_per_second": pytest.approx(2.0),
        "step_s": pytest.approx(3.0),
        "waiting_share": pytest.approx(0.25),
        "epoch_s": pytest.approx(46.0),
        "epochs": 100,
        "days": pytest.approx(4600 / 86400),
    }


def test_a_slow_step_is_measured_once(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(estimate, "perf_counter", clock)
    calls = []

    def action():
        calls.append(1)
        clock.now += 100.0

    assert estimate._seconds(action) == (100.0, 1)
    assert len(calls) == 1


@pytest.mark.parametrize(("device", "hint"), [("cuda", True), ("cpu", False)])
def test_the_words(device, hint):
    record = {"device": device, "loader_processes": 4, "batch_size": 2, "patch_size": [8, 8, 8], "step_s": 0.25}
    record |= {"patches_per_second": 3.0, "waiting_share": 0.5, "epoch_s": 120.0, "epochs": 1000, "days": 1.389}
    text = verb.render(record)
    assert "loader: 3.00 patches per second (4 processes)" in text
    assert "step: 0.250 s for a batch of 2" in text
    assert "waits for the loader 50 % of the time" in text
    assert "epoch: 120 s; 1000 epochs: 1.4 days" in text
    assert ("nnUNet_n_proc_DA" in text) is hint


@pytest.mark.parametrize("options", ["--c", "--val", "-num_gpus 2"])
def test_what_makes_no_sense_with_it(options, capfd):
    assert main(["train", "501", "3d_fullres", "0", "--estimate", *options.split()]) == 2
    assert "--estimate measures the start of a training on one device" in capfd.readouterr().err
