"""Conversion, DVH, evaluation, report and comparison work where neither torch nor nnU-Net is installed."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere

PHANTOM = Phantom(
    {"BODY": Cylinder((0, 0, 0), 16, 20), "PTV60": Sphere((3, 0, 0), 6)},
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.5)),
    pixels=(20, 20),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)
TEMPLATE = {
    "format_version": 1,
    "name": "small",
    "rois": [
        {"name": "PTV_6000", "kind": "target", "aliases": ["PTV60"], "prescription_gy": "patient"},
        {"name": "External", "kind": "external", "aliases": ["BODY"]},
    ],
    "goals": [{"roi": "PTV_6000", "metric": "D95%"}],
}
# Every interpreter of this environment, also workers, runs this first: these modules can't be found.
SITECUSTOMIZE = """
import sys

HIDDEN = {"torch", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "blosc2", "skimage"}

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden)
"""


@pytest.fixture
def bare(tmp_path):
    """Runs a program of Python, or a verb, in an environment without torch; returns what it printed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    folders = {f"nnUNet_{kind}": str(tmp_path / kind) for kind in ("raw", "preprocessed", "results")}
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **folders, "PYTHONPATH": path}

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def verb(*args: object) -> list[str]:
    return ["-m", "cdm_nnunet.cli.main", *map(str, args), "--json"]


def predictions(raw: Path, out: Path, factor: float) -> Path:
    """The reference doses of the test cases, times a factor."""
    out.mkdir()
    for path in sorted((raw / "labelsTs").glob("*.nii.gz")):
        sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(path)) * factor, sitk.sitkFloat32), str(out / path.name))
    return out


def test_the_environment_has_no_torch(bare):
    looked = (
        "from importlib.util import find_spec\ntry:\n    print(find_spec('torch'))\nexcept ImportError: print('none')"
    )
    assert bare("-c", looked).strip() == "none"


def phantoms(bare, folder: Path) -> Path:
    """Three phantoms, made without torch; returns the raw data set."""
    program = "from pathlib import Path\n"
    program += "from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert\n"
    program += "from cdm_nnunet.dataset_conversion.synthetic import find_synthetic\n"
    program += f"place = DatasetPlace(Path({str(folder)!r}), 501, 'Bare')\n"
    program += "convert(find_synthetic(2, 1, coarseness=2.2), place)"
    bare("-c", program)
    return folder / "Dataset501_Bare"


def test_conversion_evaluation_report_and_comparison(bare, tmp_path):
    raw = phantoms(bare, tmp_path / "raw")
    convert(find_synthetic(2, 1, coarseness=2.2), DatasetPlace(tmp_path / "here", 501, "Bare"))
    paths = sorted(raw.rglob("*.nii.gz"))
    assert len(paths) == 12
    for path in paths:  # the converted files are equal
        here = tmp_path / "here" / path.relative_to(tmp_path / "raw")
        theirs, ours = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (path, here))
        np.testing.assert_array_equal(theirs, ours)
    for name, factor in (("low", 0.98), ("high", 1.01)):
        folder = predictions(raw, tmp_path / name, factor)
        bare(*verb("evaluate", "-d", 501, "-i", folder, "-o", tmp_path / f"scored_{name}", "-np", 2))
    out = tmp_path / "scored_low"
    with (out / "metrics.csv").open(newline="") as file:
        rows = {(row["roi"], row["metric"]): row for row in csv.DictReader(file)}
    mean = rows["Parotid_L", "Dmean"]
    assert float(mean["predicted"]) == pytest.approx(0.98 * float(mean["reference"]), rel=1e-5)
    assert (out / "report.html").stat().st_size > 100_000
    bare(*verb("compare", out, tmp_path / "scored_high", "-o", tmp_path / "compared"))
    assert (tmp_path / "compared" / "compare.html").is_file()


def test_dvh_and_conversion_of_a_dicom_patient(bare, tmp_path):
    for seed in range(2):
        files = write_phantom(dataclasses.replace(PHANTOM, seed=seed), tmp_path / "exports" / str(seed))
    given = ("--rtstruct", files.structures, "--rtdose", *files.doses, "--rtplan", files.plan)
    assert json.loads(bare(*verb("dvh", *given, "--metrics", "Dmean")))
    out = tmp_path / "inspection"
    (tmp_path / "small.json").write_text(json.dumps(TEMPLATE))
    options = ("--template", tmp_path / "small.json", "-np", 1)
    bare(*verb("inspect", "dicom", tmp_path / "exports", "-o", out, *options))
    options += ("--mapping", out / "rois.yaml")
    bare(*verb("convert", "dicom", tmp_path / "exports", "-d", 502, "-n", "Clinic", *options))
    assert len(list((tmp_path / "raw" / "Dataset502_Clinic").glob("labelsTr/*.nii.gz"))) == 2
