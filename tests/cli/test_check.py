import json
import subprocess
import sys

import pytest

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic

CLINIC = """{
  "format_version": 1,
  "name": "clinic",
  "rois": [
    {"name": "PTV_High", "kind": "target", "aliases": ["PTV_7000"], "prescription_gy": "patient"},
    {"name": "Glottis", "kind": "oar", "regex": ["laryn.*"]},
    {"name": "Heart", "kind": "oar"}
  ],
  "goals": [
    {"roi": "PTV_High", "metric": "D95%", "relation": ">=", "value": 95, "unit": "% of prescription"},
    {"roi": "Glottis", "metric": "Dmean"},
    {"roi": "Heart", "metric": "Dmean"}
  ]
}
"""


@pytest.fixture
def clinic(tmp_path):
    """Writes the template, with something replaced, and returns its path."""

    def write(old="", new=""):
        path = tmp_path / "clinic.json"
        assert old in CLINIC
        path.write_text(CLINIC.replace(old, new, 1) if old else CLINIC, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    convert(find_synthetic(n_training=2, n_test=0, coarseness=2.0), DatasetPlace(folder, 501, "OpenKBP"))
    return folder


def test_sound_templates(clinic, capfd):
    path = clinic()
    assert cli.main(["check", path, "openkbp"]) == 0
    shown = capfd.readouterr()
    assert shown.out.splitlines() == [
        f"{path}: no faults; 3 ROIs, 3 goals, 1 of them with a limit",
        "openkbp: no faults; 11 ROIs, 42 goals, 10 of them with a limit",
    ]
    assert shown.err == "next: add -d ID to see which ROIs of a data set the template finds\n"


def test_every_fault_of_every_template_is_told(clinic, capfd):
    path = clinic('"metric": "D95%", "relation": ">=",', '"metric": "D95",')
    assert cli.main(["check", path, "gone.json", "openkbp"]) == 2
    assert capfd.readouterr().out.splitlines() == [
        f"{path}:10:35: goals.0.metric: 'D95' has no unit: write 'D95%' (dose that the hottest 95 % of the volume "
        "reach) or 'D95cc' (dose that the hottest 95 cc reach)",
        f"{path}: 1 fault",
        "gone.json: gone.json is missing; shipped templates are gdphmm, head_neck, openkbp, prostate",
        "gone.json: 1 fault",
        "openkbp: no faults; 11 ROIs, 42 goals, 10 of them with a limit",
    ]


def test_json(clinic, capfd):
    path = clinic('"roi": "Heart"', '"roi": "Lung"')
    assert cli.main(["check", path, "--json"]) == 2
    record = json.loads(capfd.readouterr().out)
    assert (record["dataset"], record["exit_status"]) == (None, 2)
    (one,) = record["templates"]
    assert one["template"] == path
    assert one["n_goals"] is None
    assert one["faults"] == [
        {
            "line": 12,
            "column": 13,
            "field": "goals.2.roi",
            "message": "goal Lung Dmean: the template has no such ROI; it has PTV_High, Glottis, Heart",
        }
    ]


def test_what_fits_a_data_set(clinic, raw, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(raw))
    path = clinic()
    assert cli.main(["check", path, "-d", "501"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        f"{path}: no faults; 3 ROIs, 3 goals, 1 of them with a limit",
        "in Dataset501_OpenKBP: 2 of 3 ROIs and 2 of 3 goals",
        "  under another name: PTV_High (there PTV_7000), Glottis (there Larynx)",
        "  not in the data set: Heart",
        "  ROIs that the template does not name: PTV_6300, PTV_5600, Brainstem, SpinalCord, Parotid_R, Parotid_L, "
        "Esophagus, Bone_Mandible, DoseRegion",
    ]
    assert cli.main(["check", path, "-d", "501", "--json"]) == 0
    match = json.loads(capfd.readouterr().out)["templates"][0]["match"]
    assert match["rois"] == {"PTV_High": "PTV_7000", "Glottis": "Larynx", "Heart": None}
    assert match["goals"] == ["PTV_High D95%", "Glottis Dmean"]
    assert match["goals_without_roi"] == ["Heart Dmean"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("laryn.*", "parotid.*", "does not say which ROI is which: 'Glottis' may be any of 'Parotid_R', 'Parotid_L'"),
        ("laryn.*", "ptv_6300", "'Glottis' is of kind 'oar', and 'PTV_6300' in the data set is 'target'"),
    ],
)
def test_what_does_not_fit_a_data_set(clinic, raw, monkeypatch, capfd, old, new, message):
    monkeypatch.setenv("nnUNet_raw", str(raw))
    assert cli.main(["check", clinic(old, new), "-d", "501"]) == 2
    assert message in capfd.readouterr().out


def test_a_template_for_other_data(raw, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(raw))
    assert cli.main(["check", "prostate", "openkbp", "-d", "501"]) == 2
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("prostate: template 'prostate' has no goal for the ROIs of this data set (PTV_7000, ")
    assert "in Dataset501_OpenKBP: 11 of 11 ROIs and 42 of 42 goals" in lines


def test_an_unknown_data_set_is_one_line(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert cli.main(["check", "openkbp", "-d", "777"]) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "777" in shown.err


def test_importing_the_verb_is_light():
    heavy = ("numpy", "SimpleITK", "pydantic", "torch", "nnunetv2")
    code = f"import sys, cdm_nnunet.cli.check; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
