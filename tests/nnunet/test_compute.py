"""How a network runs on a device."""

import contextlib
import platform
import subprocess
import sys

import pytest
import torch

from cdm_nnunet.cpu.layout import memory_layout
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.compute import autocast, available_device

AGAIN_AND_AGAIN = """
import resource
import torch
from cdm_nnunet.nnunet.compute import prepare_network

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (64, 8):
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults = []
for prepare in (False, True):
    if prepare:
        prepare_network(torch.nn.Identity(), torch.device("cpu"))
    faults.append(min(faults_of_a_step() for _ in range(4)))
print(*faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_training_on_a_cpu_keeps_the_memory_that_it_frees():
    """Pages that a later step has to ask the system for: all of them before, next to none after."""
    done = subprocess.run([sys.executable, "-c", AGAIN_AND_AGAIN], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 100 < 1000 < before


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "taken"),
    [
        (True, True, None, "cuda"),
        (False, True, None, "mps"),
        (False, False, None, "cpu"),
        (True, True, "mps", "mps"),
        (False, True, "cuda", None),
        (True, False, "mps", None),
    ],
)
def test_the_device_is_one_that_is_there(monkeypatch, cuda, mps, asked, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if taken is None:
        with pytest.raises(InputError, match=f"no {asked.upper()} device is available; predict with -device cpu"):
            available_device(asked)
    else:
        assert available_device(asked) == torch.device(taken)


def test_apple_computes_in_float32_and_torchs_own_layout():
    assert isinstance(autocast(torch.device("mps")), contextlib.nullcontext)
    assert memory_layout(torch.device("mps")) == torch.preserve_format
