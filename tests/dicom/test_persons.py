"""Assignment of files to persons if PatientID is empty or the same for everybody; no file is lost."""

import dataclasses
import json

import pydicom
import pytest
from phantoms import change

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dicom.destination import find_destination
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dicom.plan_choice import Choice
from cdm_nnunet.errors import InputError


@pytest.fixture
def exports(tmp_path, clinic):
    """Three patients in one folder."""
    for seed in range(3):
        write_phantom(dataclasses.replace(clinic.phantom, seed=seed), tmp_path / "exports" / str(seed))
    return tmp_path / "exports"


def call(folder, patient):
    """Give a folder's files a PatientID; None removes the element."""
    for path in folder.rglob("*.dcm"):
        change(path, lambda d: delattr(d, "PatientID") if patient is None else setattr(d, "PatientID", patient))


@pytest.mark.parametrize("keep_ids", [False, True])
def test_patients_without_an_id_are_told_apart_by_study(exports, tmp_path, keep_ids, clinic):
    call(exports / "0", "")
    call(exports / "1", None)
    change(exports / "1" / "plan.dcm", lambda d: setattr(d, "StudyInstanceUID", "1.2.3"))
    change(exports / "1" / "dose.dcm", lambda d: setattr(d, "StudyInstanceUID", "1.2.3"))
    conversion = clinic.convert(keep_ids=keep_ids)
    assert len(conversion.cases) == 3
    told = [note for case in conversion.cases.values() for note in json.loads(case.record.source["notes"])]
    assert sum(note.startswith("no PatientID") for note in told) == 2
    studies = {str(pydicom.dcmread(path / "ct_000.dcm").StudyInstanceUID) for path in exports.iterdir()}
    everything = "".join(path.read_text() for path in conversion.folder.rglob("*.json"))
    assert not [uid for uid in studies if uid in everything]
    assert ("phantom_002" in conversion.cases) == keep_ids
    assert clinic.convert(keep_ids=keep_ids).converted == ()
    assert find_destination(exports / "1").plan.label == "phantom"


def test_inspection_names_patients_without_an_id(exports, tmp_path, capfd):
    call(exports, "")
    out = tmp_path / "inspection"
    assert cli.main(["inspect", "dicom", str(exports), "-o", str(out)]) == 0
    assert "3 patients in 36 DICOM files; 3 can be converted" in capfd.readouterr().out
    names = json.loads((out / "names.json").read_text())
    assert all(patient.startswith("study 1.2.826") for patient in names.values())


def test_a_placeholder_for_everybody_is_told(exports, tmp_path, clinic):
    call(exports, "ANON")
    for plans in ({}, {"default": "latest"}):
        with pytest.raises(
            InputError, match=r"3 sets of files that don't refer to each other have one PatientID, 'ANON'"
        ):
            clinic.convert(dataclasses.replace(clinic.mapping, plans=plans))
    write_phantom(dataclasses.replace(clinic.phantom, seed=3), exports / "3")
    conversion = clinic.convert(dataclasses.replace(clinic.mapping, plans={"default": "each"}))
    assert len(conversion.cases) == 4


def test_a_second_course_is_told_and_taken(exports):
    call(exports, "4711")
    change(exports / "0" / "plan.dcm", lambda d: setattr(d, "RTPlanDate", "20260301"))
    (exports / "2" / "plan.dcm").unlink()
    (exports / "2" / "dose.dcm").unlink()
    (found,) = index_folder(exports).patients(choice=Choice({"default": "latest"}))
    assert found.problems == ()
    assert found.plans == (exports / "0" / "plan.dcm",)
    told = "3 sets of files that don't refer to each other have one PatientID: a second course, or several persons?"
    assert told in found.notes


def test_no_file_is_missing_from_the_summary(exports, tmp_path, monkeypatch, capfd, clinic):
    (exports / "readme.txt").write_text("not an image")
    for k in range(2):
        change(
            exports / "2" / f"ct_{k:03d}.dcm", lambda d: [setattr(d, "Modality", "MR"), setattr(d, "PatientID", "9")]
        )
    for path in list((exports / "2").iterdir()):
        if path.name not in ("ct_000.dcm", "ct_001.dcm"):
            path.unlink()
    lines = (
        f"not read: {exports / 'readme.txt'} is not a DICOM file",
        "ignored: 2 files (MR) of 1 patient without CT, RTSTRUCT, RTPLAN, RTDOSE",
    )
    assert index_folder(exports).remarks == lines[1:]
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "small.json").write_text(json.dumps(clinic.template.to_json()))
    (tmp_path / "rois.yaml").write_text(json.dumps({"rois": clinic.mapping.rois}))
    options = ["--template", str(tmp_path / "small.json"), "--mapping", str(tmp_path / "rois.yaml"), "-np", "1"]
    assert cli.main(["convert", "dicom", str(exports), "-d", "502", "-n", "C", *options]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert set(lines) <= set(shown)
    change(exports / "0" / "plan.dcm", lambda d: setattr(d, "ApprovalStatus", "REJECTED"))
    assert cli.main(["convert", "dicom", str(exports), "-d", "502", "-n", "C", *options]) == 2
    assert lines[1] in capfd.readouterr().err
