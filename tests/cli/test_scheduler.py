"""The long verbs on a real Dask cluster: the same files as on this machine."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.dicom.phantom import demonstration_phantom, write_phantom

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

VOLATILE = {"seconds", "created", "date"}


@pytest.fixture(scope="module")
def scheduler():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def run_all(root: Path, exports: Path, options: list[str]) -> dict[str, str]:
    """Inspect, convert, plan, evaluate (the references as predictions); digests of all that was written."""
    spread = options or ["-np", "1"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(root / name))
            (root / name).mkdir(parents=True)
        inspected = ["inspect", "dicom", str(exports), "-o", str(root / "inspection")]
        assert main([*inspected, *spread]) == 0
        mapping = root / "inspection" / "rois.yaml"
        reviewed = mapping.read_text().replace(': "PTV_7000"', ': "PTV_High"').replace(': "PTV_5600"', ': "PTV_Mid"')
        mapping.write_text(reviewed)
        convert = ["convert", "dicom", str(exports), "-d", "502", "-n", "Clinic", "--keep-ids"]
        convert += ["--local", str(root.parent / "local")]  # (of both: what hashes UIDs is drawn there)
        assert main([*convert, "--template", "head_neck", "--mapping", str(mapping), *spread]) == 0
        size = ["--base-features", "4", "--gpu-memory", "4"]
        assert main(["plan", "-d", "502", "-c", "3d_coarse", *size, *spread]) == 0
        doses = next((root / "nnUNet_raw").glob("Dataset502_*/labelsTr"))
        assert main(["evaluate", "-d", "502", "-i", str(doses), "-o", str(root / "evaluation"), *spread]) == 0
        assert main([*inspected, "--template", "head_neck", *spread]) == 0
    return {
        str(path.relative_to(root)): digest(path, root)
        for path in sorted(root.rglob("*"))
        if path.suffix in (".json", ".csv", ".gz", ".b2nd", ".html", ".png")
        and not path.is_relative_to(root / "inspection")
    }


def digest(path: Path, root: Path) -> str:
    content = re.sub(rb'"generated":"[^"]*"', b"", path.read_bytes().replace(str(root).encode(), b"ROOT"))
    if path.suffix == ".json":
        values = json.loads(content)
        values = {k: v for k, v in values.items() if k not in VOLATILE} if isinstance(values, dict) else values
        content = json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def lines(text: str) -> list[str]:
    """The printed lines, without times and an inspection's random pseudonyms."""
    return [line for line in text.splitlines() if not re.search(r"\d s$|case_", line)]


def test_the_files_are_those_of_one_process(scheduler, tmp_path, capfd):
    for seed in range(2):
        write_phantom(demonstration_phantom(seed), tmp_path / "exports" / str(seed))
    here = run_all(tmp_path / "here", tmp_path / "exports", [])
    said_here = capfd.readouterr().out.replace(str(tmp_path / "here"), "ROOT")
    there = run_all(tmp_path / "there", tmp_path / "exports", ["--scheduler", scheduler])
    said_there = capfd.readouterr().out.replace(str(tmp_path / "there"), "ROOT")
    assert len(here) > 20
    assert {name for name in {*here, *there} if here.get(name) != there.get(name)} == set()
    assert lines(said_there) == lines(said_here)
    assert not list(tmp_path.rglob(".shared_*"))


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path, capfd):
    assert main(["inspect", "dicom", str(tmp_path), "-o", str(tmp_path / "o"), "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:9" in capfd.readouterr().err
