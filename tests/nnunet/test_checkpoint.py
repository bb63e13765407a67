"""Checkpoints: complete or absent, every changed byte found, nothing named in a file is run."""

import errno
import io
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet import checkpoint as module
from cdm_nnunet.nnunet.checkpoint import read_checkpoint, weights_digest, write_checkpoint
from cdm_nnunet.nnunet.registration import register


def content(seed: int = 0, size: int = 50) -> dict:
    torch.manual_seed(seed)
    return {
        "network_weights": {"b": torch.randn(size), "a": torch.randn(2, 3)},
        "optimizer_state": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        "logging": {"epoch_start_timestamps": [1.5e9], "val_losses": [np.float64(0.25), np.float32(0.5)]},
        "_best_ema": np.float64(1.25),
        "current_epoch": np.int64(3),
        "init_args": {
            "plans": {"plans_name": "p"},
            "dataset_json": {},
            "configuration": "3d_fullres",
            "fold": 0,
            "device": torch.device("cuda:0"),
        },
        "trainer_name": "nnUNetTrainerCDM",
        "cdm": {"settings": {"seed": 3}},
    }


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "c.pth", content())
    return tmp_path / "c.pth"


def test_what_is_written_is_read_in_plain_numbers(path):
    read = read_checkpoint(path)
    expected = content()
    assert all(torch.equal(read.weights[name], expected["network_weights"][name]) for name in ("a", "b"))
    assert read.content["logging"] == {"epoch_start_timestamps": [1.5e9], "val_losses": [0.25, 0.5]}
    assert [type(value) for value in read.content["logging"]["val_losses"]] == [float, float]
    assert type(read.content["_best_ema"]) is float
    assert type(read.content["current_epoch"]) is int
    assert read.content["init_args"]["device"] == "cuda:0"
    assert read.content["optimizer_state"]["param_groups"] == [{"betas": (0.9, 0.999)}]
    assert (read.epoch, read.fold, read.settings, read.started_at) == (3, "0", {"seed": 3}, 1.5e9)
    assert os.listdir(path.parent) == ["c.pth"]


def test_anyone_can_read_it_without_trusting_it(path):
    plain = torch.load(path, weights_only=True)
    assert plain["cdm"]["weights_sha256"] == weights_digest(plain["network_weights"])


def test_something_that_is_no_plain_value_is_not_written(path):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="numbers, text and tensors, not function"):
        write_checkpoint(path, {**content(), "plugin": register})
    assert path.read_bytes() == before


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    """They hold NumPy's numbers and a function of ours, as torch.save writes them."""
    old = content()
    del old["cdm"]
    old["init_args"]["plugin"] = register
    torch.save(old, tmp_path / "old.pth")
    read = read_checkpoint(tmp_path / "old.pth")
    assert read.content["logging"]["val_losses"] == [0.25, 0.5]
    assert type(read.content["logging"]["val_losses"][0]) is float
    assert (type(read.content["current_epoch"]), read.epoch) == (int, 3)
    assert "plugin" not in read.content["init_args"]
    assert read.settings is None


@pytest.mark.parametrize("place", range(10))
def test_a_file_that_is_cut_anywhere(path, place):
    whole = path.read_bytes()
    path.write_bytes(whole[: place * len(whole) // 10])
    with pytest.raises(InputError, match=r"c\.pth is (empty|damaged or cut)"):
        read_checkpoint(path)


def test_a_changed_byte_is_found_or_means_nothing(path):
    """Each bit of some bytes, and all bits of the weights'. Bytes that ZIP does not use, such as a date, may change."""
    whole, expected = path.read_bytes(), read_checkpoint(path)
    rng = random.Random(0)
    places = [(rng.randrange(len(whole)), 1 << rng.randrange(8)) for _ in range(300)]
    weights = whole.find(expected.weights["b"].numpy().tobytes())
    assert weights > 0
    places += [(weights + k, 1 << bit) for k in range(0, 200, 9) for bit in range(8)]
    found = 0
    for place, bit in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            read = read_checkpoint(path)
        except InputError:
            found += 1
            continue
        assert not weights <= place < weights + 200
        assert read.digest == expected.digest
        assert {**read.content, "network_weights": 0, "optimizer_state": 0} == {
            **expected.content, "network_weights": 0, "optimizer_state": 0,
        }  # fmt: skip
    assert found > len(places) // 2


def test_weights_that_another_program_replaced_are_found(path):
    changed = torch.load(path, weights_only=True)
    changed["network_weights"]["b"][0] += 1
    torch.save(changed, path)
    with pytest.raises(InputError, match="is damaged: its weights are not those that were saved"):
        read_checkpoint(path)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def evils(mark):
    text = f"open({str(mark)!r}, 'w').close()"
    return {
        "system": Evil(os.system, f"touch {mark}"),
        "eval": Evil(eval, text),
        "exec": Evil(exec, text),
        "popen": Evil(subprocess.Popen, ["touch", str(mark)]),
        "open": Evil(open, str(mark), "w"),
        "nested": [{"a": (1, Evil(os.mkdir, str(mark)))}],
        "numpy": Evil(np.savetxt, str(mark), [1.0]),
        "torch": Evil(torch.save, 1, str(mark)),
        "ours": Evil(write_checkpoint, mark, content()),
        "getattr": Evil(getattr, "text", "upper"),
    }


@pytest.mark.parametrize("key", ["network_weights", "logging", "init_args", "more"])
@pytest.mark.parametrize("name", list(evils("")))
def test_nothing_that_a_file_names_is_run(tmp_path, name, key):
    mark = tmp_path / "mark"
    made = content()
    made[key] = evils(mark)[name]
    torch.save(made, tmp_path / "evil.pth")
    assert not mark.exists()
    with pytest.raises(InputError, match=r"evil\.pth names '[\w.]+', which no checkpoint .* is not read"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_no_checkpoint(tmp_path, protocol):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(evils(tmp_path / "mark")["system"], protocol))
    with pytest.raises(InputError, match="is damaged or cut, or not a checkpoint"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()


def test_the_stand_ins_for_numpys_numbers_take_numbers_only(tmp_path):
    for kind, data in (("O", b"12345678"), ("f8", b"1"), ("f8", 3), ("V8", b"12345678")):
        fake = content()
        fake["more"] = Evil(np._core.multiarray.scalar, Evil(np.dtype, kind), data)
        torch.save(fake, tmp_path / "c.pth")
        with pytest.raises(InputError, match=r"c\.pth asks for something that no checkpoint"):
            read_checkpoint(tmp_path / "c.pth")


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path, path):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
    with pytest.raises(InputError, match="is compressed"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path):
    made = content()
    made["network_weights"]["b"] = torch.zeros(1).expand(10**12)
    torch.save(made, tmp_path / "c.pth")
    with pytest.raises(InputError, match="is not a checkpoint of nnU-Net"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("network_weights"),
        lambda c: c.update(network_weights=[1]),
        lambda c: c["network_weights"].update(a=1.0),
        lambda c: c["network_weights"].update({3: torch.zeros(1)}),
        lambda c: c.pop("init_args"),
        lambda c: c["init_args"].pop("plans"),
        lambda c: c["init_args"].update(configuration=3),
        lambda c: c.update(current_epoch="3"),
        lambda c: c.update(trainer_name=None),
        lambda c: c.update(cdm=[]),
        lambda c: c.pop("logging"),
    ],
)
def test_a_file_of_something_else(tmp_path, change):
    made = content()
    change(made)
    torch.save(made, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"c\.pth is not a checkpoint of nnU-Net$"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_newer_version_a_missing_file_and_a_folder(tmp_path, path):
    torch.save({**torch.load(path, weights_only=True), "cdm": {"format_version": 9}}, path)
    with pytest.raises(InputError, match="has format version 9, this software reads 1; update it"):
        read_checkpoint(path)
    for other in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(InputError, match="is missing"):
            read_checkpoint(other)


@pytest.mark.parametrize("when", ["torch.save", "os.replace", "os.fsync"])
def test_what_was_there_stays_when_writing_ends_early(path, monkeypatch, when):
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    if when == "torch.save":
        write = io.BytesIO()
        torch.save(content(1), write)
        monkeypatch.setattr(torch, "save", lambda _, path: (path.write_bytes(write.getvalue()[:1000]), fail()))
    else:
        monkeypatch.setattr(when, fail)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, content(1))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["c.pth"]


def test_a_full_disk_is_told_and_costs_nothing(path, monkeypatch):
    """Torch says 'unexpected pos'; the system says why."""
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def torchs(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", torchs)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_checkpoint(path, content(1))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["c.pth"]


def test_a_small_disk_that_is_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk can't be mounted here")
    try:
        write_checkpoint(disk / "c.pth", content(0))
        before = (disk / "c.pth").read_bytes()
        with pytest.raises(OSError) as caught:  # noqa: PT011  # the number says which
            write_checkpoint(disk / "c.pth", content(1, 10**6))
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(disk) == ["c.pth"]
        assert (disk / "c.pth").read_bytes() == before
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # (torch's writer may still hold the file)


WRITER = """
import sys, torch
from pathlib import Path
from cdm_nnunet.nnunet.checkpoint import write_checkpoint
sys.path.insert(0, sys.argv[2])
from test_checkpoint import content
print("ready", flush=True)
for seed in range(10**6):
    write_checkpoint(Path(sys.argv[1]), {**content(0, 300_000), "current_epoch": seed})
"""


def test_a_process_that_is_killed_while_it_writes(tmp_path):
    path = tmp_path / "c.pth"
    command = [sys.executable, "-c", WRITER, str(path), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.5)
        writer.send_signal(signal.SIGKILL)
    assert read_checkpoint(path).epoch > 0


def test_the_digest_is_of_names_types_shapes_and_values():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.tensor([[1.0, 0.0], [2.0, 0.0]])[:, 0]}
    assert weights_digest(one) == weights_digest(same)
    for change in ({"a": torch.tensor([1.0, 2.5])}, {"a": torch.tensor([[1.0, 2.0]])}, {"b": torch.tensor(3.0)}):
        assert weights_digest({**one, **change}) != weights_digest(one)
    assert weights_digest({"a": torch.zeros(0), "c": torch.zeros((), dtype=torch.bfloat16)})
    assert re.fullmatch(r"[0-9a-f]{64}", weights_digest(one))
    assert module.FINAL == "checkpoint_final.pth"
