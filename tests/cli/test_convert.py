import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdm_nnunet import ranges
from cdm_nnunet.cli.convert import note_lines
from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion import synthetic


@pytest.fixture(autouse=True)
def raw_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


@pytest.fixture
def coarse(monkeypatch):
    """Phantoms of a few voxels."""
    make = synthetic.synthetic_patient
    monkeypatch.setattr(synthetic, "synthetic_patient", lambda *a, **k: make(*a, **{**k, "coarseness": 2.2}))


SYNTHETIC = ["convert", "synthetic", "-d", "500", "-n", "Demo", "--patients", "2", "--test-patients", "1", "-np", "1"]


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("place", [1, len(SYNTHETIC)])
def test_the_record_is_json_wherever_the_flag_stands(raw_folder, capfd, place):
    assert main([*SYNTHETIC[:place], "--json", *SYNTHETIC[place:]]) == 0
    captured = capfd.readouterr()
    record = json.loads(captured.out)
    assert record["dataset"] == str(raw_folder / "Dataset500_Demo")
    assert record["converted"] == ["phantom_001", "phantom_002", "phantom_003"]
    assert (record["training_cases"], record["test_cases"], record["unchanged"]) == (2, 1, [])
    assert record["seconds"] > 0
    assert record["absent_rois"]["PTV_7000"] == 0
    assert captured.err == ""
    assert set(RawDataset(raw_folder / "Dataset500_Demo").cases) == set(record["converted"])


@pytest.mark.usefixtures("coarse")
def test_the_text_says_what_was_done(raw_folder, capfd):
    assert main(SYNTHETIC) == 0
    first = capfd.readouterr().out
    assert main(SYNTHETIC) == 0
    second = capfd.readouterr().out
    assert "3 cases (2 for training, 1 for testing): 3 converted, 0 unchanged" in first
    assert "0 converted, 3 unchanged" in second
    assert f"dataset: {raw_folder / 'Dataset500_Demo'}" in second


def test_real_patients_from_end_to_end(openkbp_patients, raw_folder, tmp_path, capfd):
    arguments = ["convert", "openkbp", str(openkbp_patients), "-d", "501", "-n", "OpenKBP", "-np", "2", "--json"]
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out)["converted"] == ["pt_1", "pt_201"]
    labels = raw_folder / "Dataset501_OpenKBP" / "labelsTr"
    assert main(["convert", "to-openkbp", str(labels), "-d", "501", "-o", str(tmp_path / "out")]) == 0
    assert capfd.readouterr().out == f"2 predicted doses written to {tmp_path / 'out'}\n"
    written = (tmp_path / "out" / "pt_1.csv").read_text()
    assert written == (openkbp_patients / "train-pats" / "pt_1" / "dose.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["openkbp", "nowhere", "-d", "501", "-n", "X"], "nowhere is not a folder; expected OpenKBP's"),
        (["openkbp", ".", "-d", "501", "-n", "X", "--template", "mine"], "no template 'mine'; shipped are"),
        (["synthetic", "-d", "0", "-n", "X"], "a dataset id is a number from 1 to 999, not 0"),
        (["synthetic", "-d", "5", "-n", "a b"], "a dataset name has letters"),
        (["synthetic", "-d", "5", "-n", "X", "-np", "0"], "-np takes at least 1 process, not 0"),
        (["synthetic", "-d", "5", "-n", "X", "--patients", "1"], "1 training and 3 test phantoms"),
        (["to-openkbp", ".", "-d", "77", "-o", "out"], "no dataset 77 in"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capfd, arguments, message):
    assert main(["convert", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cdm-nnunet: error: ")
    assert message in lines[0]


@pytest.mark.usefixtures("coarse")
def test_without_the_folder_variable_the_data_set_goes_below_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.chdir(tmp_path)
    assert main(SYNTHETIC) == 0
    assert len(RawDataset(tmp_path / "nnunet_data" / "nnUNet_raw" / "Dataset500_Demo").cases) == 3


@pytest.mark.usefixtures("coarse")
def test_a_full_disk_is_one_line_and_exit_2(monkeypatch, raw_folder, capfd):
    from cdm_nnunet.dataset_conversion import case_files

    def full(image):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(image.path))

    monkeypatch.setattr(case_files, "write_image", full)
    assert main(SYNTHETIC) == 2
    assert "the disk is full" in capfd.readouterr().err
    assert not (raw_folder / "Dataset500_Demo" / "dataset.json").exists()
    assert list(raw_folder.glob("*/images*/*")) == []


@pytest.mark.parametrize("conversion", ["openkbp", "synthetic", "to-openkbp"])
def test_help_has_an_example(capfd, conversion):
    with pytest.raises(SystemExit, match="0"):
        main(["convert", conversion, "--help"])
    assert f"example:\n  cdm-nnunet convert {conversion} " in capfd.readouterr().out


def test_the_verb_module_is_light():
    heavy = ("numpy", "SimpleITK", "scipy", "torch", "tqdm", "pydantic")
    code = f"import sys, cdm_nnunet.cli.convert; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.strip() == "[]"


def test_conversion_needs_neither_torch_nor_nnunet():
    code = (
        "import sys, cdm_nnunet.dataset_conversion.openkbp, cdm_nnunet.dataset_conversion.synthetic; "
        "print([m for m in ('torch', 'nnunetv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.strip() == "[]"


def test_notes_are_printed_once_with_their_cases():
    notes = {"a": ["no plan", "gap", "gap"], **{name: ["no plan"] for name in "bcde"}}
    assert note_lines(notes) == ["note: no plan [a, b, c and 2 others]", "note: gap [a]"]


@pytest.mark.usefixtures("coarse")
def test_the_conversion_prints_what_is_unusual(raw_folder, monkeypatch, capfd):
    unusual = dataclasses.replace(ranges.PRESCRIPTION_GY, usual=(12.0, 65.0))
    monkeypatch.setattr(ranges, "PRESCRIPTION_GY", unusual)
    for _ in range(2):  # converted, and unchanged
        assert main(SYNTHETIC) == 0
        out = capfd.readouterr().out
        line = (
            "note: unusual: the prescription of 'PTV_7000' is 70 Gy (usually 12 to 65 Gy) [phantom_001, phantom_002, "
        )
        assert line in out
    assert RawDataset(raw_folder / "Dataset500_Demo").record("phantom_001").notes[0].startswith("unusual: ")
