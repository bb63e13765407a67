"""``cdm-nnunet predict --dicom``: CT and contours of new patients in, RTDOSE out, with a hardly trained model."""

import contextlib
import csv
import dataclasses
import json
import re
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from phantoms import CLINIC, change

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.case_files import write_case
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dicom.dose import read_dose
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dicom.plan import ION_PLAN_CLASS
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.nnunet.checkpoint import write_checkpoint
from cdm_nnunet.nnunet.inputs import write_catalogue
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.prediction import described
from cdm_nnunet.prediction.cases import CasePredictor
from cdm_nnunet.prediction_record import digest_of

ID, NAME = 552, "Dataset552_Clinic"
TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
            {"name": "PTV_Low", "kind": "target", "prescription_gy": "patient"},
            {"name": "SpinalCord", "kind": "oar"},
            {"name": "External", "kind": "external"},
        ],
        "goals": [{"roi": "PTV_High", "metric": "D95%"}, {"roi": "SpinalCord", "metric": "Dmax"}],
    },
    "test",
)
MAPPING = DicomMapping({"PTV60": "PTV_High", "Cord": "SpinalCord", "BODY": "External", "Ring": None})
MODEL = ["-d", str(ID), "-c", "3d_fullres", "-f", "0", "-device", "cpu", "-np", "0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data set, plans and model, made of five phantoms."""
    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    root = tmp_path_factory.mktemp("clinic")
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("raw", "preprocessed", "results"):
            (root / folder).mkdir()
            patch.setenv(f"nnUNet_{folder}", str(root / folder))
        for name, value in {"NUM_EPOCHS": "1", "NUM_ITERATIONS": "2", "NUM_VAL_ITERATIONS": "1", "SEED": "3"}.items():
            patch.setenv(f"CDM_{name}", value)
        patch.setenv("nnUNet_n_proc_DA", "0")
        for seed in range(5):
            write_patient(dataclasses.replace(CLINIC, seed=seed), root / "exports" / str(seed))
        convert_dicom(
            root / "exports", DatasetPlace(root / "raw", ID, "Clinic"), DicomRules(TEMPLATE, MAPPING), root / "local"
        )
        plan_and_preprocess(ID, PlanChoices(base_features=4), n_processes=1)
        assert main(["train", str(ID), "3d_fullres", "0", "-device", "cpu"]) == 0
    return root


@pytest.fixture
def model(root, monkeypatch):
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(root / folder))
    return root / "results" / NAME / "nnUNetTrainerCDM__nnUNetPlans__3d_fullres"


@pytest.fixture
def new(model, tmp_path):
    """A new patient, without a dose."""
    files = write_patient(dataclasses.replace(CLINIC, seed=7), tmp_path / "new" / "a")
    files.doses[0].unlink()
    return files


def write_patient(phantom, folder):
    """A phantom with CT noise: a constant image is refused as a patient."""
    files = write_phantom(phantom, folder)
    rng = np.random.default_rng(phantom.seed)

    def add_noise(dataset):
        pixels = dataset.pixel_array.astype(np.int64)
        pixels = np.where(pixels > 500, pixels + rng.integers(-80, 80, pixels.shape), pixels)
        dataset.PixelData = pixels.astype(np.uint16).tobytes()

    for path in files.ct:
        change(path, add_noise)
    return files


def predict(tmp_path, *options):
    return main(["predict", "--dicom", str(tmp_path / "new"), "-o", str(tmp_path / "out"), *MODEL, *options])


def refusal(capfd):
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cdm-nnunet: error:")]
    return line


def test_the_data_set_and_the_model_know_the_mapping(root, model):
    for folder in (root / "raw" / NAME, root / "preprocessed" / NAME, model):
        assert json.loads((folder / "dataset.json").read_text())["cdm"]["mapping"] == MAPPING.to_json()
    assert RawDataset(root / "raw" / NAME).catalogue.names[0] == "PTV_High"


@pytest.mark.parametrize(("grid", "spacing"), [(None, "5x5x4"), ("ct", "4x4x4"), ("6", "6x6x6")])
def test_the_rtdose_is_the_prediction(new, tmp_path, capfd, grid, spacing):
    second = write_patient(dataclasses.replace(CLINIC, seed=8, position="FFP"), tmp_path / "new" / "b")
    assert predict(tmp_path, *([] if grid is None else ["--grid", grid]), "--json") == 0
    record = json.loads(capfd.readouterr().out)
    found = index_folder(tmp_path / "new").patients(needed=("RTSTRUCT",))
    assert record["files"] == [str(tmp_path / "out" / f"{files.case_name}.dcm") for files in found]
    names = sorted(f.case_name + ending for f in found for ending in (".dcm", ".patient.json"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    # the same patients as a data set, predicted on the way that takes NIfTI
    for files in found:
        case = DicomPatient(files, MAPPING, TEMPLATE, spacing, "Ts").load()
        write_case(tmp_path / "set", case, {})
    write_catalogue(tmp_path / "set", case.catalogue)
    images = str(tmp_path / "set" / "imagesTs")
    assert main(["predict", "-i", images, "-o", str(tmp_path / "nifti"), *MODEL]) == 0
    for files, patient in zip(found, record["patients"], strict=True):
        expected = read_image(tmp_path / "nifti" / f"{files.case_name}.nii.gz")
        written = pydicom.dcmread(patient["file"])
        volume = read_dose([Path(patient["file"])]).volume
        step_gy = float(written.DoseGridScaling)
        assert expected.values.max() > 1
        assert np.abs(volume.values - expected.values).max() <= step_gy * 0.51
        assert np.allclose(volume.grid.origin_xyz_mm, expected.grid.origin_xyz_mm, atol=0.01)
        assert np.allclose(volume.grid.spacing_zyx_mm, expected.grid.spacing_zyx_mm, atol=1e-3)
        assert written.PatientID == files.patient
        assert patient["prescriptions_gy"] == {"PTV_High": 60.0}
        assert patient["absent_rois"] == ["PTV_Low"]
    assert {pydicom.dcmread(file).PatientID for file in record["files"]} == {"phantom_007", "phantom_008"}
    assert second.doses[0].is_file()
    notes = {patient["case"]: patient["notes"] for patient in record["patients"]}
    lies = "unusual: the patient position is FFP, which no training patient had (HFS 5)"
    assert sorted(lies in of_one for of_one in notes.values()) == [False, True]
    statuses = [PatientRecord.read(tmp_path / "out" / f"{case}.patient.json").applicability for case in notes]
    usual, lying_otherwise = sorted(len(found.findings) for found in statuses)
    assert lying_otherwise == usual + 1
    assert (usual == 0) == (grid is None)  # (otherwise the voxel size is another than in training)


def test_record_report_and_objectives_stand_beside_the_rtdose(new, tmp_path, capfd):
    """With the names of the patient's structure set, and numbers of the dose in the RTDOSE."""
    goals = [
        {"roi": "PTV_High", "metric": "D95%", "relation": ">=", "value": 95, "unit": "% of prescription"},
        {"roi": "SpinalCord", "metric": "Dmax", "relation": "<=", "value": 45, "unit": "Gy", "priority": 2},
    ]
    (tmp_path / "own.json").write_text(json.dumps({**TEMPLATE.to_json(), "goals": goals}))
    (found,) = index_folder(tmp_path / "new").patients(needed=("RTSTRUCT",))
    earlier = tmp_path / "out" / f"{found.case_name}.objectives.json"
    earlier.parent.mkdir()
    earlier.write_text("{}")
    options = ["--report", "--objectives", "csv", "--template", str(tmp_path / "own.json")]
    assert predict(tmp_path, *options) == 0
    (dose,) = (tmp_path / "out").glob("*.dcm")
    record = PatientRecord.read(tmp_path / "out" / f"{dose.stem}.patient.json")
    assert (record.dose_file, record.dose_sha256) == (dose.name, digest_of(dose))
    assert {name: roi.name for name, roi in record.rois.items()} == {"PTV_High": "PTV60", "SpinalCord": "Cord"}
    assert record.prescriptions_gy == {"PTV_High": 60.0}
    assert (record.fractions, record.model.dataset) == (35, NAME)
    volume = read_dose([dose]).volume
    cord = record.rois["SpinalCord"].metrics["Dmax"].value
    assert 0 < cord <= float(volume.values.max()) + 0.01
    assert "[" + dose.stem + "] goals: " in capfd.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / f"{dose.stem}.objectives.csv").read_text().splitlines()))
    assert [(row["roi"], row["metric"], row["priority"]) for row in rows] == [
        ("PTV60", "D95%", "1"),
        ("Cord", "Dmax", "2"),
    ]
    assert float(rows[1]["value"]) == cord
    assert {row["label"] for row in rows} == {"PREDICTED, NOT FOR TREATMENT"}
    assert "PREDICTED, NOT FOR TREATMENT" in (tmp_path / "out" / f"{dose.stem}.report.html").read_text()
    assert not earlier.exists()  # (it was of another dose)


def test_a_record_that_cannot_be_made_leaves_the_rtdose(new, tmp_path, capfd, monkeypatch):
    def fails(*args):
        raise InputError("no such number")

    monkeypatch.setattr(described, "describe_dose", fails)
    assert predict(tmp_path) == 2
    assert re.search(r"1 dose predicted without a record of the patient: \[case_\w+\] no such", refusal(capfd))
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".dcm"]


def test_a_patient_without_a_plan_needs_the_prescription(new, tmp_path, capfd):
    new.plan.unlink()
    assert predict(tmp_path) == 2
    assert "target 'PTV_High' is contoured and has no prescription; give it in Gy" in refusal(capfd)
    assert list((tmp_path / "out").iterdir()) == []
    assert predict(tmp_path, "--prescription", "PTV_High=66", "--bits", "32") == 0
    assert "prescribed PTV_High 66 Gy; without PTV_Low; not for treatment" in capfd.readouterr().out
    (file,) = (tmp_path / "out").glob("*.dcm")
    assert pydicom.dcmread(file).BitsStored == 32


def test_entries_of_a_mapping_come_before_those_of_the_model(new, tmp_path, capfd):
    change(new.structures, lambda d: setattr(d.StructureSetROISequence[3], "ROIName", "Halo"))
    assert predict(tmp_path) == 2
    assert "the mapping lacks Halo; add them, with null" in refusal(capfd)
    new.plan.unlink()
    (tmp_path / "more.yaml").write_text("rois: {Halo: PTV_Low}\nprescriptions_gy: {PTV_High: 70}")
    options = ["--mapping", str(tmp_path / "more.yaml"), "--json"]
    assert predict(tmp_path, *options, "--prescription", "PTV_High=66", "PTV_Low=50") == 2
    assert "--prescription gives 'PTV_High' 66 Gy, and " in refusal(capfd)
    assert predict(tmp_path, *options, "--prescription", "PTV_Low=50") == 0
    (patient,) = json.loads(capfd.readouterr().out)["patients"]
    assert patient["prescriptions_gy"] == {"PTV_High": 70.0, "PTV_Low": 50.0}
    (tmp_path / "more.yaml").write_text("rois: {Halo: Lung_L}")
    assert predict(tmp_path, *options) == 2
    assert "the mapping has ROIs that are not in template 'small': Lung_L" in refusal(capfd)


@contextlib.contextmanager
def trained_on(model, edit):
    """A model whose data set and plans said something else."""
    names = {"dataset_json": "dataset.json", "plans": "plans.json"}
    files = [model / "fold_0" / "checkpoint_final.pth", *(model / name for name in names.values())]
    known = [path.read_bytes() for path in files]
    content = dict(torch.load(files[0], weights_only=True))
    edit(*(content["init_args"][key]["cdm"] for key in names))
    write_checkpoint(files[0], content)
    for key, name in names.items():
        (model / name).write_text(json.dumps(content["init_args"][key]))
    try:
        yield
    finally:
        for path, before in zip(files, known, strict=True):
            path.write_bytes(before)


def test_a_model_of_other_data_needs_a_mapping(new, model, tmp_path, capfd):
    with trained_on(model, lambda dataset, _: dataset.pop("mapping")):
        assert predict(tmp_path) == 2
        assert "was not trained on DICOM files and does not know their ROI names; give --mapping" in refusal(capfd)
        (tmp_path / "rois.yaml").write_text(json.dumps({"rois": MAPPING.rois}))
        assert predict(tmp_path, "--mapping", str(tmp_path / "rois.yaml")) == 0


@pytest.mark.parametrize(("with_external", "status"), [(0, 0), (4, 0), (5, 2)])
def test_an_external_is_needed_where_all_training_patients_had_one(new, model, tmp_path, with_external, status):
    without_body(new)

    def edit(dataset, plans):
        counts = dataset["facts"]["training_cases_with_roi"]
        assert counts == {"PTV_High": 5, "PTV_Low": 0, "SpinalCord": 5, "External": 5}
        counts["External"] = plans["cohort"]["contoured"]["External"] = with_external

    with trained_on(model, edit):
        assert predict(tmp_path) == status


def test_a_mapping_that_was_changed_after_the_training_is_refused(new, model, tmp_path, capfd):
    known = (model / "dataset.json").read_text()
    content = json.loads(known)
    content["cdm"]["mapping"]["rois"] = {"anything": "SpinalCord"}
    (model / "dataset.json").write_text(json.dumps(content))
    try:
        assert predict(tmp_path) == 2
        assert re.search(r"dataset\.json is not the one that the model was trained with \(cdm\.mapping", refusal(capfd))
        (model / "dataset.json").unlink()
        assert predict(tmp_path) == 0
    finally:
        (model / "dataset.json").write_text(known)


def test_the_mapping_chooses_among_plans(new, tmp_path, capfd):
    with_two_plans(new)
    change(new.folder / "second.dcm", lambda d: setattr(d, "RTPlanLabel", "replan"))
    (tmp_path / "more.yaml").write_text("rois: {}\nplans: {case_x: a}")
    assert predict(tmp_path, "--mapping", str(tmp_path / "more.yaml")) == 2
    assert "2 plans: 'replan' of 20260101, 'phantom' of 20260101" in refusal(capfd)
    (name,) = {files.patient_name for files in index_folder(tmp_path / "new").patients(needed=())}
    (tmp_path / "more.yaml").write_text(f"rois: {{}}\nplans: {{{name}: replan}}")
    assert predict(tmp_path, "--mapping", str(tmp_path / "more.yaml")) == 0
    (file,) = (tmp_path / "out").glob("*.dcm")
    assert pydicom.dcmread(file).ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == "1.2.3"


@pytest.mark.parametrize("number", [None, 77])
def test_a_level_without_an_roi_contradicts_the_flag(new, tmp_path, capfd, number):
    def edit(dataset):
        (item,) = dataset.DoseReferenceSequence
        item.DoseReferenceStructureType, item.TargetPrescriptionDose = "SITE", 66
        item.DoseReferenceDescription = ""
        del item.ReferencedROINumber
        if number is not None:
            item.DoseReferenceStructureType, item.ReferencedROINumber = "POINT", number

    change(new.plan, edit)
    assert predict(tmp_path, "--prescription", "PTV_High=70") == 2
    assert "the plan prescribes 66 Gy to 'PTV_High', and 70 Gy are given" in refusal(capfd)


def test_what_the_model_refuses_does_not_end_the_run_and_what_is_unusual_is_told(new, tmp_path, capfd):
    write_patient(dataclasses.replace(CLINIC, seed=8, prescriptions_gy={"PTV60": 66.0}), tmp_path / "new" / "b")
    third = write_patient(dataclasses.replace(CLINIC, seed=9, prescriptions_gy={"PTV60": 25.0}), tmp_path / "new" / "c")
    assert predict(tmp_path) == 2
    assert "1 of 3 patients can't be used: [case_" in (line := refusal(capfd))
    assert "25 Gy for 'PTV_High': the model was trained on 60 Gy and can't predict a dose that far from it" in line
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2
    for path in third.folder.iterdir():
        path.unlink()
    assert predict(tmp_path, "--json") == 0
    notes = [patient["notes"] for patient in json.loads(capfd.readouterr().out)["patients"]]
    assert sorted("unusual: 66 Gy for 'PTV_High' (in training 60 Gy)" in of_one for of_one in notes) == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prescription", "PTV_High=66"], "the plan prescribes 60 Gy to 'PTV_High', and 66 Gy are given"),
        (
            ["--prescription", "PTV_Low=50"],
            "a prescription is given for 'PTV_Low', which is not contoured in this patient",
        ),
        (["--prescription", "PTV=50"], "'PTV' is not a target of the model; those are PTV_High, PTV_Low"),
        (["--prescription", "PTV_High"], "--prescription takes ROI=GY, for example PTV_High=70, not 'PTV_High'"),
        (["--prescription", "PTV_High=60", "PTV_High=61"], "--prescription gives 'PTV_High' twice"),
        (["--grid", "dose"], "a new patient has no dose grid; --grid takes 'ct' or a voxel size"),
        (["--grid", ""], "or a voxel size of 0.5 to 10 mm, as 3 or 2.5x2.5x2 (x, y, z), not ''"),
        (["--grid", "2x2"], "or a voxel size of 0.5 to 10 mm, as 3 or 2.5x2.5x2 (x, y, z), not '2x2'"),
        (["--continue_prediction"], "--continue_prediction goes with -i"),
    ],
)
def test_options_that_cannot_be_meant(new, tmp_path, capfd, options, message):
    assert predict(tmp_path, *options) == 2
    assert message in refusal(capfd)


def test_options_of_dicom_go_with_it(model, tmp_path, capfd):
    assert main(["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), *MODEL, "--bits", "16"]) == 2
    assert "--bits goes with --dicom" in refusal(capfd)
    assert main(["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), *MODEL, "--match-geometry"]) == 2
    assert "--match-geometry goes with --dicom" in refusal(capfd)


def without_body(files):
    change(files.structures, lambda d: d.ROIContourSequence[0].ContourSequence.clear())


def without_target(files):
    change(files.structures, lambda d: d.ROIContourSequence[1].ContourSequence.clear())


def with_two_plans(files):
    def rename(dataset):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    (files.folder / "second.dcm").write_bytes(files.plan.read_bytes())
    change(files.folder / "second.dcm", rename)


def in_another_frame(files):
    change(files.plan, lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"))


def of_ions(files):
    change(files.plan, lambda d: setattr(d, "SOPClassUID", ION_PLAN_CLASS))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: (files.structures.unlink(), files.plan.unlink()), "no structure set (RTSTRUCT)"),
        (without_body, "ROI 'External' (kind external), which all patients of the training data had, is not contoured"),
        (without_target, "no target with a prescription; contoured are SpinalCord, External"),
        (with_two_plans, "2 plans: 'phantom' of 20260101 (1.2.3), 'phantom' of 20260101 (1.2.826"),
        (lambda files: [path.unlink() for path in files.ct], "no CT"),
        (in_another_frame, "CT, RTSTRUCT, RTPLAN lie in 2 different frames of reference"),
        (of_ions, "the plan is one of ions (RT Ion Plan), and the model was trained on none"),
    ],
)
def test_a_patient_that_cannot_be_used_does_not_stop_the_others(new, tmp_path, capfd, monkeypatch, damage, message):
    write_patient(dataclasses.replace(CLINIC, seed=8), tmp_path / "new" / "b")
    damage(new)
    given = []
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: given.append(cases) or one_dose(out, cases))
    assert predict(tmp_path) == 2
    shown = capfd.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("cdm-nnunet: error:")]
    assert message in line
    assert "1 of 2 patients can't be used: [case_" in line
    assert "1 dose in" in shown.out
    assert [len(cases) for cases in given] == [1]  # nothing of the other was predicted
    (file,) = (tmp_path / "out").glob("*.dcm")
    assert pydicom.dcmread(file).PatientID == "phantom_008"


def one_dose(out, cases):
    """Replaces the network: 60 Gy on the grid of each case."""
    from cdm_nnunet.prediction_record import PredictionRecord

    out.mkdir(exist_ok=True)
    for files in cases:
        image = read_image(Path(files[0]))
        name = Path(files[0]).name.replace("_0000", "")
        values = np.full(image.values.shape, 60.0, np.float32)
        with PredictionRecord(case=name.removesuffix(".nii.gz"), prescriptions_gy=None, notes=[]).beside(out / name):
            write_image(dataclasses.replace(image, path=out / name, values=values))


def test_a_case_that_the_network_can_not_take_does_not_stop_the_others(new, tmp_path, capfd, monkeypatch):
    write_patient(dataclasses.replace(CLINIC, seed=8), tmp_path / "new" / "b")
    first = min(files.case_name for files in index_folder(tmp_path / "new").patients(needed=()))

    def fails(self, cases, out):
        if any(first in files[0] for files in cases):
            raise RuntimeError("out of memory")
        one_dose(out, cases)

    monkeypatch.setattr(CasePredictor, "predict", fails)
    assert predict(tmp_path) == 2
    log = tmp_path / "out" / "errors.log"
    line = refusal(capfd)
    assert (
        f"1 of 2 patients can't be used: [{first}] internal error (RuntimeError: out of memory); left out, see {log}"
        in line
    )
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 1


def test_a_plan_in_another_study_is_predicted(new, tmp_path, monkeypatch):
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: one_dose(out, cases))
    change(new.plan, lambda d: setattr(d, "StudyInstanceUID", "1.2.3"))
    assert predict(tmp_path) == 0
    (file,) = (tmp_path / "out").glob("*.dcm")
    dose, ct, plan = (pydicom.dcmread(path) for path in (file, new.ct[0], new.plan))
    assert dose.StudyInstanceUID == ct.StudyInstanceUID
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID


def test_a_dose_of_an_earlier_run_is_told_and_so_are_files_and_names_that_were_not_used(
    new, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: one_dose(out, cases))
    (new.folder / "seen.txt").write_text("by Dr X")
    (tmp_path / "more.yaml").write_text("rois: {}\nplans: {case_x: a}\npatients: {case_y: {rois: {}}}")
    assert predict(tmp_path, "--mapping", str(tmp_path / "more.yaml")) == 0
    shown = capfd.readouterr().out
    assert f"not read: {new.folder / 'seen.txt'} is not a DICOM file" in shown
    assert f"named in the mapping, but not in {tmp_path / 'new'}: case_x, case_y" in shown
    (dose,) = (tmp_path / "out").glob("*.dcm")
    new.structures.unlink()
    assert predict(tmp_path) == 2
    assert f"no structure set (RTSTRUCT) ({dose} is of an earlier run)" in refusal(capfd)


def exported_again(files):
    """The CT with other UIDs, in another study and frame of reference, at the same places."""

    def renumber(dataset):
        dataset.FrameOfReferenceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.5", "1.2.6", "1.2.7"
        dataset.StudyDate, dataset.StudyID = "20260202", "again"
        uid = f"1.2.7.{dataset.InstanceNumber}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid

    for path in files.ct:
        change(path, renumber)


@pytest.mark.parametrize("with_plan", [True, False])
def test_a_ct_that_was_exported_again_is_predicted_in_the_frame_of_the_contours(
    new, tmp_path, capfd, monkeypatch, with_plan
):
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: one_dose(out, cases))
    exported_again(new)
    options = ["--prescription", "PTV_High=60"]
    if not with_plan:
        new.plan.unlink()
    assert predict(tmp_path, *options) == 2
    assert "if it was exported again with other UIDs, --match-geometry takes it by its slices" in refusal(capfd)
    assert predict(tmp_path, *options, "--match-geometry", "--json") == 0
    (patient,) = json.loads(capfd.readouterr().out)["patients"]
    told = "the dose belongs to the study and the frame of reference of the structure set, not to those of the CT"
    assert sum(told in note for note in patient["notes"]) == 1
    assert any("was taken by its 21 slices (match geometry)" in note for note in patient["notes"])
    dose, structures, ct = (pydicom.dcmread(path) for path in (patient["file"], new.structures, new.ct[0]))
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert dose.FrameOfReferenceUID == frame.FrameOfReferenceUID != ct.FrameOfReferenceUID
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyID", "PatientID"):
        assert dose[keyword].value == structures[keyword].value
    if with_plan:
        plan = pydicom.dcmread(new.plan)
        assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
        assert plan.FrameOfReferenceUID == dose.FrameOfReferenceUID
        assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID
    else:
        (overview,) = dose.PlanOverviewSequence
        (reference,) = overview.ReferencedStructureSetSequence
        assert reference.ReferencedSOPInstanceUID == structures.SOPInstanceUID
    volume = read_dose([Path(patient["file"])]).volume
    assert volume.values.max() == pytest.approx(60.0, abs=1e-3)
    checker = Path(sysconfig.get_path("scripts")) / "dciodvfy"
    assert "Error" not in subprocess.run([checker, patient["file"]], capture_output=True, text=True, check=False).stderr


def test_a_ct_that_was_exported_again_has_to_have_the_slices_of_the_contours(new, tmp_path, capfd):
    exported_again(new)

    def shift(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + 2]

    for path in new.ct:
        change(path, shift)
    assert predict(tmp_path, "--match-geometry") == 2
    assert "no CT has the slices of the contours" in refusal(capfd)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("folder", ["new", "new/a/predicted"])
def test_doses_do_not_go_among_the_patients(new, tmp_path, capfd, folder):
    assert main(["predict", "--dicom", str(tmp_path / "new"), "-o", str(tmp_path / folder), *MODEL]) == 2
    assert "choose a separate folder for predicted doses" in refusal(capfd)
    assert not (tmp_path / "new" / "a" / "predicted").exists()


def test_the_type_of_dose_is_that_of_the_training_data(new, model, tmp_path, monkeypatch):
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: one_dose(out, cases))

    def edit(dataset, _):
        facts = dataset["facts"]
        assert (facts["dose_type"], facts["ion_plans"]) == ("PHYSICAL", 0)
        facts["dose_type"] = "EFFECTIVE"

    with trained_on(model, edit):
        assert predict(tmp_path) == 0
    (file,) = (tmp_path / "out").glob("*.dcm")
    assert pydicom.dcmread(file).DoseType == "EFFECTIVE"


def test_the_level_of_the_training_data_gives_way_to_the_plan(new, model, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(CasePredictor, "predict", lambda self, cases, out: one_dose(out, cases))
    with trained_on(model, lambda dataset, _: dataset["mapping"].update(prescriptions_gy={"PTV_High": 70.0})):
        assert predict(tmp_path) == 0
        shown = capfd.readouterr().out
        assert "prescribed PTV_High 60 Gy" in shown
        assert "'PTV_High': the plan's 60 Gy are used, not 70 Gy (training data)" in shown
        new.plan.unlink()
        assert predict(tmp_path) == 0
        assert "prescribed PTV_High 70 Gy" in capfd.readouterr().out


def test_a_node_sends_the_dose_that_predict_writes(new, tmp_path, capfd):
    second = write_patient(dataclasses.replace(CLINIC, seed=8), tmp_path / "half")
    second.structures.unlink()
    settings = {
        "ae_title": "NODE",
        "queue": "queue",
        "destinations": {"planning": {"folder": "sent"}},
        "device": "cpu",
        "reports": "reports",
    }
    (tmp_path / "node.yaml").write_text(json.dumps({**settings, "trained": {"dataset": ID}}))
    command = ["node", "--config", str(tmp_path / "node.yaml"), "--json", "--once"]
    assert predict(tmp_path) == 0
    capfd.readouterr()
    assert main([*command, str(tmp_path / "new")]) == 0
    shown = capfd.readouterr()
    assert len(json.loads(shown.out)["sent"]) == 1
    assert "phantom_007" not in shown.err
    (by_verb,), (by_node,) = (list((tmp_path / folder).glob("*.dcm")) for folder in ("out", "sent"))
    expected, written = pydicom.dcmread(by_verb), pydicom.dcmread(by_node)
    assert written.PixelData == expected.PixelData
    assert written.DoseGridScaling == expected.DoseGridScaling
    assert written.SOPInstanceUID.startswith("2.25.")
    kept = sorted((tmp_path / "reports").iterdir())
    assert [path.suffix for path in kept] == [".json", ".html"]
    assert all(str(path) in shown.err and path.stat().st_mode & 0o077 == 0 for path in kept)
    assert "PREDICTED, NOT FOR TREATMENT" in kept[0].read_text()
    assert main(["model", "export", *MODEL[:6], "-o", str(tmp_path / "model.zip")]) == 0
    (tmp_path / "node.yaml").write_text(json.dumps({**settings, "model": "model.zip"}))
    assert main(["node", "--config", str(tmp_path / "node.yaml"), "--check"]) == 0
    assert "the model is intact, and all destinations answer" in capfd.readouterr().out
    assert main([*command, str(tmp_path / "half")]) == 2
    assert "in quarantine: no structure set (RTSTRUCT)" in capfd.readouterr().err
