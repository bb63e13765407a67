"""Inspection with a template gives the conversion's messages; the mapping grows, and a table shows the patients."""

import csv
import dataclasses
import json

import numpy as np
import pydicom
import pytest
import yaml

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion import dry_run as dry
from cdm_nnunet.dataset_conversion.dicom_mapping import mapping_from, read_mapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dataset_conversion.mapping_file import extended_text, mapping_text
from cdm_nnunet.dicom.patient_table import COLUMNS, csv_table, html_table
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

TEMPLATE = {
    "format_version": 1,
    "name": "small",
    "rois": [
        {"name": "PTV_High", "kind": "target", "aliases": ["PTV60"], "prescription_gy": "patient"},
        {"name": "SpinalCord", "kind": "oar"},
        {"name": "External", "kind": "external"},
    ],
    "goals": [{"roi": "PTV_High", "metric": "D95%"}],
}
PHANTOM = Phantom(
    {
        "BODY": Cylinder((0.0, 0.0, 0.0), 18.0, 16.0),
        "PTV60": Sphere((0.0, 0.0, 0.0), 8.0),
        "Ring 1": Sphere((0.0, 0.0, 0.0), 12.0, 9.0),
    },
    LinearDose(0, 0.5, 60.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.0)),
    pixels=(24, 24),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)


@pytest.fixture
def exports(tmp_path):
    """Three patients; the second one's dose is in percent, and its CT has a slice without a slope."""
    for seed, doubled in enumerate((False, True, False)):
        dose = LinearDose(0, 0.5, 100.0) if doubled else PHANTOM.dose
        write_phantom(dataclasses.replace(PHANTOM, seed=seed, dose=dose), tmp_path / "exports" / str(seed))
    return tmp_path / "exports"


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(TEMPLATE))
    return path


@pytest.fixture
def inspect(exports, tmp_path, capfd):
    def run(*options):
        given = ["inspect", "dicom", str(exports), "-o", str(tmp_path / "look"), "-np", "1", "--json", *options]
        status = cli.main(given)
        captured = capfd.readouterr()
        return json.loads(captured.out) if status == 0 else captured.err

    return run


def convert(exports, tmp_path, template, *options):
    given = ["convert", "dicom", str(exports), "-d", "502", "-n", "Clinic", "--template", str(template), "-np", "1"]
    return cli.main([*given, "--mapping", str(tmp_path / "look" / "rois.yaml"), *options])


def test_a_dry_run_says_what_the_conversion_says(exports, tmp_path, template, inspect, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    rows = inspect("--template", str(template))["patients"]
    (refused,) = [case for case, row in rows.items() if not row["convertible"]]
    (words,) = rows[refused]["problems"]
    assert "the dose looks like percent" in words
    assert not (tmp_path / "raw").exists()
    assert convert(exports, tmp_path, template) == 2
    assert f"1 of 3 patients can't be used: [{refused}] {words}. The others are" in capfd.readouterr().err
    assert convert(exports, tmp_path, template, "--exclude", refused, "--json") == 0
    notes = json.loads(capfd.readouterr().out)["notes"]
    records = RawDataset(tmp_path / "raw" / "Dataset502_Clinic").cases
    assert set(records) == set(rows) - {refused}
    for case, record in records.items():
        assert rows[case]["notes"] == notes[case] == list(record.notes) != []
        assert rows[case]["prescriptions_gy"] == dict(record.prescriptions_gy)
        assert rows[case]["rois"] == list(record.rois)
        assert rows[case]["spacing_mm"] == list(reversed(record.spacing_mm))
    left = inspect("--template", str(template), "--exclude", refused)
    assert (left["excluded"], set(left["patients"])) == ([refused], set(records))


def test_what_nobody_foresaw_in_one_patient_ends_neither_run(exports, tmp_path, template, inspect, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    whole = DicomPatient.load

    def load(patient):
        if patient.files.patient == "phantom_001":
            raise ZeroDivisionError("odd")
        return whole(patient)

    monkeypatch.setattr(DicomPatient, "load", load)
    rows = inspect("--template", str(template))["patients"].values()
    (refused,) = [row["problems"][0] for row in rows if not row["convertible"]]
    assert refused.startswith("internal error (ZeroDivisionError: odd); left out, see ")
    assert "ZeroDivisionError" in (tmp_path / "look" / "errors.log").read_text()
    assert convert(exports, tmp_path, template) == 2
    assert "] internal error (ZeroDivisionError: odd); left out, see " in capfd.readouterr().err


def test_the_conversion_names_what_it_could_not_read(exports, tmp_path, template, inspect, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (exports / "a.txt").write_text("no image")
    (exports / "b.txt").write_text("no image")
    rows = inspect("--template", str(template))["patients"]
    (refused,) = [case for case, row in rows.items() if not row["convertible"]]
    assert convert(exports, tmp_path, template, "--exclude", refused) == 0
    out = capfd.readouterr().out
    assert f"not read: 2 files: is not a DICOM file ({exports / 'a.txt'}, {exports / 'b.txt'})" in out
    assert "note: " in out


def test_what_is_wrong_with_the_settings_is_said_as_in_the_conversion(exports, tmp_path, template, inspect, capfd):
    assert "--grid takes 'dose', 'ct' or" in inspect("--template", str(template), "--grid", "30")
    assert "to be excluded, but not in" in inspect("--template", str(template), "--exclude", "case_x")
    (tmp_path / "look" / "rois.yaml").write_text("rois: {BODY: Outline}")
    assert "has ROIs that are not in template 'small': Outline" in inspect(
        "--template", str(template), "--mapping", str(tmp_path / "look" / "rois.yaml")
    )
    assert "other.yaml is missing" in inspect("--mapping", str(tmp_path / "other.yaml"))


def test_outcomes_are_kept_while_files_and_settings_stay(exports, tmp_path, template, inspect, monkeypatch):
    first = inspect("--template", str(template))["patients"]
    looked = []
    attempt = dry._attempt
    monkeypatch.setattr(
        dry, "_attempt", lambda patient, **given: looked.append(patient.name) or attempt(patient, **given)
    )
    assert inspect("--template", str(template))["patients"] == first
    assert looked == []
    mapping = tmp_path / "look" / "rois.yaml"
    mapping.write_text(mapping.read_text().replace('"BODY": "External"', '"BODY": null'))
    again = inspect("--template", str(template))["patients"]
    assert sorted(looked) == sorted(first)
    assert [row["rois"] for row in again.values() if row["convertible"]] == [["PTV_High"]] * 2


def test_a_new_mapping_proposes_what_the_template_has(tmp_path, template, inspect):
    inspect("--template", str(template))
    assert read_mapping(tmp_path / "look" / "rois.yaml").rois == {
        "BODY": "External",
        "PTV60": "PTV_High",
        "Ring 1": None,
    }


def test_a_mapping_keeps_what_a_person_wrote_and_gets_new_names(exports, tmp_path, inspect):
    path = tmp_path / "look" / "rois.yaml"
    path.parent.mkdir()
    written = '# mine\nrois:\n    BODY: External   # by hand\n    "Gone": null\nplans: latest\n# end\n'
    path.write_text(written)
    record = inspect()
    assert sorted(record["new_names"]) == ["PTV60", "Ring 1"]
    text = path.read_text()
    assert [line for line in text.splitlines() if "new; " not in line] == written.splitlines()
    mapping = read_mapping(path)
    assert mapping.rois == {"BODY": "External", "Gone": None, "PTV60": "PTV_6000", "Ring 1": None}
    assert mapping.plans == {"default": "latest"}
    assert inspect()["new_names"] == []
    assert path.read_text() == text


@pytest.mark.parametrize("form", [lambda names: mapping_text(names), lambda names: extended_text("rois: {}", names)[0]])
def test_any_name_is_written_so_that_it_is_read_back(form):
    odd = [
        "a\x85b",
        "a\u2028b",
        "\U0001f600",
        'q"\\',
        "tab\there",
        "line\nbreak",
        "a: b # c",
        " ",
        "null",
    ]
    assert set(yaml.safe_load(form(dict.fromkeys(odd, 1)))["rois"]) == set(odd)


COUNTS = {"BODY": 2, "Cord: 'x' #1": 3, "Rectum": 1}


@pytest.mark.parametrize(
    "text",
    [
        "rois: {}\n",
        "rois:\n  BODY: null\n",
        "rois:\n\n  # first\n  BODY: null\nplans: {}\n",
        "plans: {default: latest}\nrois: {}  # none yet\npatients: {}\n",
        "rois:\n        BODY: null",
        "patients:\n  case_1:\n    rois:\n      BODY: null\nrois:\n  BODY: External\n",
        "rois:\n  ? BODY\n  : External\n",
    ],
)
def test_a_mapping_is_extended_in_its_own_form(text):
    before = yaml.safe_load(text)
    after, names = extended_text(text, COUNTS)
    content = yaml.safe_load(after)
    assert set(names) == set(COUNTS) - set(before["rois"])
    assert content == {**before, "rois": {**{name: content["rois"][name] for name in names}, **before["rois"]}}
    assert [line for line in after.splitlines() if "new; " not in line] == text.replace(
        "rois: {}", "rois:"
    ).splitlines()
    assert extended_text(after, COUNTS) == (after, ())


@pytest.mark.parametrize("text", ["rois: {BODY: External}\n", "'rois':\n  BODY: External", "{rois: {BODY: null}}"])
def test_a_mapping_in_another_form_is_left_to_the_person(text):
    with pytest.raises(InputError, match=r'not written one name per line; add: .*"Rectum": "Rectum"'):
        extended_text(text, COUNTS)


def test_what_cannot_be_added_is_told_and_ends_nothing(exports, tmp_path, template, inspect):
    path = tmp_path / "look" / "rois.yaml"
    path.parent.mkdir()
    path.write_text("rois: {BODY: External}\n")
    record = inspect("--template", str(template))
    assert path.read_text() == "rois: {BODY: External}\n"
    assert 'not written one name per line; add: "PTV60": "PTV_High"' in record["to_add"]
    assert {row["problems"][0].split(": ", 1)[1] for row in record["patients"].values()} == {
        "the mapping lacks PTV60, Ring 1; add them, with null to leave them out"
    }
    path.write_text("\ufeffrois:\n  BODY: External\n", encoding="utf-8")
    assert sorted(inspect()["new_names"]) == ["PTV60", "Ring 1"]


def test_one_line_leaves_out_all_helper_structures(exports, tmp_path, template, inspect):
    inspect("--leave-out-helpers", "--template", str(template))
    path = tmp_path / "look" / "rois.yaml"
    mapping = read_mapping(path)
    assert (set(mapping.rois), mapping.leave_out_helpers) == ({"BODY", "PTV60"}, True)
    record = inspect("--template", str(template))
    assert record["new_names"] == []
    fit = [row for row in record["patients"].values() if row["convertible"]]
    assert len(fit) == 2
    assert all("left out as helper structures: Ring 1" in row["notes"] for row in fit)
    assert mapping_from(mapping.to_json(), "dataset.json").helpers(["Ring 2", "Rectum", "PTV60"]) == ("Ring 2",)
    with pytest.raises(InputError, match="the mapping lacks Rectum; add them"):
        mapping.names(["BODY", "zRing_opt", "Rectum"], "here")
    path.write_text("rois:\n  BODY: External\n")
    assert inspect("--leave-out-helpers")["new_names"] == ["PTV60"]
    assert read_mapping(path).leave_out_helpers
    with pytest.raises(InputError, match="leave_out_helpers: Input should be a valid boolean, not 'yes'"):
        mapping_from({"rois": {}, "leave_out_helpers": "yes"}, "rois.yaml")
    without = mapping_from({"rois": {"Ring 1": "External"}, "leave_out_helpers": True}, "rois.yaml")
    assert without.names(["Ring 1"], "here") == {"External": "Ring 1"}  # (listed names count)


def test_the_tables_show_grids_systems_and_approval(exports, tmp_path, inspect):
    for path in exports.glob("0/*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.Manufacturer, dataset.ManufacturerModelName = "=Maker", "<b>M1</b>"
        if dataset.Modality == "RTPLAN":
            dataset.ApprovalStatus, dataset.RTPlanDate = "APPROVED", "20260102"
        dataset.save_as(path)
    patients = inspect()["patients"]
    (case,) = [name for name, row in patients.items() if row["facts"]["plan_approval"] == "APPROVED"]
    with (tmp_path / "look" / "patients.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(patients)
    row = rows[case]
    assert (row["CT images"], row["CT size"], row["dose type"]) == ("11", "24 x 24 x 11", "PHYSICAL PLAN GY")
    assert row["CT spacing (mm)"].endswith(" x 2")
    assert (row["plan date"], row["plan approval"], row["prescriptions (Gy)"]) == ("20260102", "APPROVED", "PTV60: 60")
    assert row["scanner"] == row["planning system"] == "'=Maker <b>M1</b>"
    page = (tmp_path / "look" / "patients.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;M1&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    for name in ("patients.csv", "patients.html", "patients.jsonl"):
        assert (tmp_path / "look" / name).stat().st_mode & 0o077 == 0


def test_a_table_has_a_cell_for_each_column():
    row = {"convertible": False, "facts": {}, "prescriptions_gy": {}, "plans": ["a"], "problems": ["x\ny"], "notes": []}
    assert len(next(csv.reader([csv_table({"case_1": row}).splitlines()[0]]))) == len(COLUMNS)
    assert "x<br>y" in html_table({"case_1": row}, "<t>")
    assert "<title>&lt;t&gt;" in html_table({"case_1": row}, "<t>")


def test_a_mapping_written_with_a_template_reads_back():
    text = mapping_text({"PTV60": 1, "cord": 2, "Odd": 1}, template=Template.from_json(TEMPLATE, "test"))
    assert yaml.safe_load(text)["rois"] == {"PTV60": "PTV_High", "cord": "SpinalCord", "Odd": None}


def test_a_proposal_follows_the_rule_by_which_rois_are_found_everywhere():
    """An expression that is too wide is no reason to propose a planning risk volume or the other side as the organ."""
    rois = [
        {"name": "SpinalCord", "kind": "oar", "regex": ["cord.*"]},
        {"name": "Parotid_L", "kind": "oar", "regex": [".*parotid.*"]},
        {"name": "Lens_L", "kind": "oar", "regex": ["lens.*"]},
        {"name": "Lens_R", "kind": "oar", "regex": ["lens.*"]},
    ]
    content = {"format_version": 1, "name": "wide", "rois": rois, "goals": [{"roi": "SpinalCord", "metric": "Dmax"}]}
    names = ["cord", "cord_prv5", "Parotid_L", "parotid right", "lens", "Lens L"]
    text = mapping_text(dict.fromkeys(names, 1), template=Template.from_json(content, "test"))
    found = yaml.safe_load(text)["rois"]
    assert found == {
        "cord": "SpinalCord", "cord_prv5": None, "Parotid_L": "Parotid_L", "parotid right": None, "lens": None,
        "Lens L": "Lens_L",
    }  # fmt: skip
    rois.insert(1, {"name": "SpinalCord_PRV05", "kind": "oar", "regex": ["cord_prv.*"]})
    text = mapping_text({"cord_prv5": 1}, template=Template.from_json(content, "test"))
    assert yaml.safe_load(text)["rois"] == {"cord_prv5": "SpinalCord_PRV05"}
