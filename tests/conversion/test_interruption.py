"""A conversion that is killed at any of its steps leaves nothing that could be taken for whole."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from cdm_nnunet.dataset_conversion.case_files import CompletedCase

# Converts two phantoms; the process kills itself instead of taking its N-th step that changes what is in place.
SCRIPT = """
import os, signal, sys
from pathlib import Path

folder, kill_at, seeds = Path(sys.argv[1]), int(sys.argv[2]), [int(seed) for seed in sys.argv[3:]]
steps = 0

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
from dataclasses import dataclass
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, write_dataset
from cdm_nnunet.dataset_conversion.synthetic import synthetic_patient
from cdm_nnunet.dvh import Template

@dataclass
class Source:
    seed: int
    name: str
    split: str = "Tr"
    def checksums(self):
        return {"seed": str(self.seed)}
    def load(self):
        return synthetic_patient(self.seed, name=self.name, coarseness=2.2)

spec = DatasetSpec(7, "Kill", "", Template.load("openkbp"), "test")
conversion = write_dataset(folder, spec, [Source(seed, f"p{k}") for k, seed in enumerate(seeds)])
print(len(conversion.converted), steps)
"""


def convert(folder: Path, kill_at: int, *seeds: int) -> tuple[int, str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(kill_at), *map(str, seeds)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return process.returncode, process.stdout


def checksums(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*/*.nii.gz"), *folder.glob("*.json")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, str], int]:
    """Checksums of a complete data set, and the number of steps to get there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    returncode, out = convert(folder, 0, 1, 2)
    assert returncode == 0
    return checksums(folder / "Dataset007_Kill"), int(out.split()[1])


def assert_nothing_half_written(folder: Path, complete: dict[str, str]) -> list[str]:
    """Every file in place is whole, every recorded case is complete. Returns the recorded cases."""
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


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.7, 1.0])
def test_killed_and_resumed(tmp_path, undisturbed, fraction):
    complete, n_steps = undisturbed
    kill_at = max(1, round(fraction * (n_steps - 1)))
    folder = tmp_path / "Dataset007_Kill"
    assert convert(tmp_path, kill_at, 1, 2)[0] == -9
    recorded = assert_nothing_half_written(folder, complete)
    returncode, out = convert(tmp_path, 0, 1, 2)
    assert returncode == 0
    assert int(out.split()[0]) == 2 - len(recorded)
    assert checksums(folder) == complete
    assert list((folder / ".conversion").glob("incomplete/*")) == []


@pytest.mark.parametrize(("kill_at", "withdrawn"), [(10, False), (14, True), (19, True)])
def test_killed_while_a_finished_case_is_replaced(tmp_path, undisturbed, kill_at, withdrawn):
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
