"""A conversion that is killed at any step leaves nothing that looks complete."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdm_nnunet.dataset_conversion.case_files import CompletedCase

# Serves orders "KILL_AT FOLDER SEED SEED" on stdin: a fork converts two phantoms, and kills itself instead of taking
# its KILL_AT-th step that changes a name on disk. (One process that forks: the imports take longer than all the rest.)
SERVER = """
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, write_dataset
from cdm_nnunet.dataset_conversion.synthetic import SyntheticSource
from cdm_nnunet.dvh import Template

steps, kill_at = 0, 0

def counted(function):
    def step(*arguments, **options):
        global steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return step

os.replace = counted(os.replace)
Path.unlink = counted(Path.unlink)
spec = DatasetSpec(7, "Kill", "", Template.load("openkbp"), "test")

for order in sys.stdin:
    number, folder, *seeds = order.split()
    pid = os.fork()
    if pid == 0:
        kill_at = int(number)
        sources = [SyntheticSource(int(seed), f"p{k}", "Tr", 2.2) for k, seed in enumerate(seeds)]
        conversion = write_dataset(Path(folder), spec, sources)
        print(0, len(conversion.converted), steps, flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        print(status, 0, 0, flush=True)
"""

Convert = Callable[..., tuple[int, int, int]]


@pytest.fixture(scope="module")
def convert() -> Iterator[Convert]:
    """A function (folder, kill_at, seeds) that gives exit status, number of converted cases, and number of steps."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as server:
        orders, answers = server.stdin, server.stdout
        assert orders is not None
        assert answers is not None

        def order(folder: Path, kill_at: int, *seeds: int) -> tuple[int, int, int]:
            print(kill_at, folder, *seeds, file=orders, flush=True)
            status, n_converted, n_steps = map(int, answers.readline().split())
            return status, n_converted, n_steps

        yield order
        orders.close()


def checksums(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*/*.nii.gz"), *folder.glob("*.json")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(convert, tmp_path_factory) -> tuple[dict[str, str], int]:
    """Checksums of a complete data set, and the number of steps to get there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, n_converted, n_steps = convert(folder, 0, 1, 2)
    assert (status, n_converted) == (0, 2)
    return checksums(folder / "Dataset007_Kill"), n_steps


def assert_nothing_half_written(folder: Path, complete: dict[str, str]) -> list[str]:
    """Every file in place and every recorded case is complete. Returns the recorded cases."""
    found = checksums(folder)
    assert "dataset.json" not in found
    assert {file: found[file] for file in found if file.endswith(".nii.gz")}.items() <= complete.items()
    assert all(path.name.endswith(".nii.gz") for path in folder.glob("images*/*"))
    recorded = [path.stem for path in (folder / ".conversion" / "cases").glob("[!.]*.json")]
    for name in recorded:
        completed = CompletedCase.read(folder, name)
        assert completed is not None
        assert len(completed.files) == 4
        assert all(found[file] == sha256 for file, sha256 in completed.files.items())
    return recorded


@pytest.mark.parametrize("fraction", [0.02, 0.15, 0.3, 0.45, 0.5, 0.55, 0.7, 0.9, 1.0])
def test_killed_and_resumed(convert, tmp_path, undisturbed, fraction):
    complete, n_steps = undisturbed
    kill_at = max(1, round(fraction * (n_steps - 1)))
    folder = tmp_path / "Dataset007_Kill"
    assert convert(tmp_path, kill_at, 1, 2)[0] == -9
    recorded = assert_nothing_half_written(folder, complete)
    status, n_converted, _ = convert(tmp_path, 0, 1, 2)
    assert (status, n_converted) == (0, 2 - len(recorded))
    assert checksums(folder) == complete
    assert list((folder / ".conversion").glob("incomplete/*")) == []


@pytest.mark.parametrize(("kill_at", "withdrawn"), [(10, False), (14, True), (19, True)])
def test_killed_while_a_finished_case_is_replaced(convert, tmp_path, undisturbed, kill_at, withdrawn):
    complete, _ = undisturbed
    assert convert(tmp_path, 0, 1, 3)[0] == 0
    folder = tmp_path / "Dataset007_Kill"
    old = checksums(folder)
    assert convert(tmp_path, kill_at, 1, 2)[0] == -9
    mixed = checksums(folder)
    assert ("dataset.json" not in mixed) is withdrawn
    if withdrawn:
        assert CompletedCase.read(folder, "p1") is None
        assert all(mixed[file] in (old[file], complete[file]) for file in mixed)
    else:
        assert mixed == old
    assert convert(tmp_path, 0, 1, 2)[0] == 0
    assert checksums(folder) == complete
