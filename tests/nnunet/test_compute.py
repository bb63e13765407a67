"""How a network runs on a device."""

import platform
import subprocess
import sys

import pytest

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
