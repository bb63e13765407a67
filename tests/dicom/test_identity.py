"""Identifying data stay out of the data set, and the patients' folder has the key to trace names back."""

import dataclasses
import errno
import gzip
import hashlib
import json
import os

import numpy as np
import pydicom
import pytest

from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.pseudonyms import KEY_FILE, Pseudonyms, read_pseudonyms
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image, write_image

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_6000", "kind": "target", "prescription_gy": 60},
            {"name": "External", "kind": "external"},
        ],
        "goals": [{"roi": "PTV_6000", "metric": "D95%"}],
    },
    "test",
)
MAPPING = DicomMapping({"PTV60": "PTV_6000", "BODY": "External"}, plans={"default": "each"})
PHANTOM = Phantom(
    {"BODY": Cylinder((0.0, 0.0, 0.0), 18.0, 16.0), "PTV60": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.0)),
    pixels=(24, 24),
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
    beams=2,
    dose_per_beam=True,
)
CORD = {"name": "SpinalCord", "kind": "oar"}
IDS = ("4711", "0815")


@pytest.fixture
def exports(tmp_path):
    """Two patients, with a name in every header and in the folder's."""
    for seed, patient in enumerate(IDS):
        folder = tmp_path / "exports" / f"Mueller_Erika_{patient}"
        write_phantom(dataclasses.replace(PHANTOM, seed=seed), folder)
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.PatientID, dataset.PatientName = patient, "Mueller^Erika"
            dataset.save_as(path)
    return tmp_path / "exports"


def convert(exports, tmp_path, local="local", **options):
    return convert_dicom(
        exports,
        DatasetPlace(tmp_path / "raw", 502, "Clinic"),
        DicomRules(TEMPLATE, MAPPING, "4"),
        tmp_path / local,
        **options,
    )


def uids(exports):
    found = set()

    def collect(_, element):
        if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."):
            found.add(str(element.value))

    for path in exports.rglob("*.dcm"):
        pydicom.dcmread(path).walk(collect)
    return found


def test_no_byte_of_the_data_set_names_a_patient(exports, tmp_path):
    conversion = convert(exports, tmp_path)
    files = [path for path in conversion.folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".gz"]) == 8
    content = {
        path.relative_to(conversion.folder): gzip.decompress(path.read_bytes())
        if path.suffix == ".gz"
        else path.read_bytes()
        for path in files
    }
    known = uids(exports)
    assert len(known) > 40
    guesses = [hashlib.sha256(patient.encode()).hexdigest()[:10] for patient in IDS]
    guesses += [Pseudonyms().patient(patient) for patient in IDS]
    for word in ("Mueller", "Erika", "exports", *known, *guesses):
        told = [str(path) for path, data in content.items() if word.encode() in data or word in str(path)]
        assert not told, (word, told)
    for patient in IDS:  # (four digits occur in checksums by chance)
        for path, data in content.items():
            assert patient not in path.name
            if path.suffix == ".json":
                text = json.dumps(json.loads(data)).replace('"', " ").split()
                assert patient not in text


def test_the_side_file_leads_back(exports, tmp_path):
    conversion = convert(exports, tmp_path)
    path = tmp_path / "local" / "Dataset502_Clinic_sources.json"
    assert path.stat().st_mode & 0o077 == 0
    sources = json.loads(path.read_text())
    records = RawDataset(conversion.folder).cases
    assert set(sources) == set(records)
    assert sorted(entry["patient_id"] for entry in sources.values()) == sorted(IDS)
    for name, entry in sources.items():
        hashed = {value for key, value in records[name].source.items() if key.endswith("(hashed UID)")}
        assert set(entry["uids"]) == hashed
        plan = pydicom.dcmread(entry["plans"][0])
        assert {plan.SOPInstanceUID, plan.StudyInstanceUID} <= set(entry["uids"].values())
        assert (len(entry["ct"]), len(entry["doses"])) == (11, 2)


def test_the_side_file_stays_when_the_conversion_is_refused(exports, tmp_path):
    convert(exports, tmp_path)
    path = tmp_path / "local" / "Dataset502_Clinic_sources.json"
    before = path.read_bytes()
    other = Template.from_json({**TEMPLATE.to_json(), "rois": [*TEMPLATE.to_json()["rois"], CORD]}, "test")
    with pytest.raises(InputError, match="was converted with another catalogue"):
        convert_dicom(
            exports,
            DatasetPlace(tmp_path / "raw", 502, "Clinic"),
            DicomRules(other, MAPPING),
            tmp_path / "local",
            keep_ids=True,
        )
    with pytest.raises(InputError, match="holds cases that are not among the patients to convert"):
        convert_dicom(
            exports,
            DatasetPlace(tmp_path / "raw", 502, "Clinic"),
            DicomRules(TEMPLATE, MAPPING),
            tmp_path / "local",
            keep_ids=True,
        )
    assert path.read_bytes() == before


def test_two_first_readers_get_one_key(tmp_path, monkeypatch):
    link, found = os.link, []

    def late(source, target):
        if not found:
            found.append(None)
            found.append(read_pseudonyms(tmp_path))  # another process is first
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert read_pseudonyms(tmp_path) == found[1] == read_pseudonyms(tmp_path)


def test_a_key_is_whole_or_not_there(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="full"):
            read_pseudonyms(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "link", lambda *_: full(0))  # a file system without hard links
    assert read_pseudonyms(tmp_path) == read_pseudonyms(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_names_depend_on_the_key_and_stay_the_same_with_it(exports, tmp_path):
    names = list(convert(exports, tmp_path).cases)
    assert convert(exports, tmp_path).converted == ()
    with pytest.raises(InputError, match=r"exists already, but not .*elsewhere.*sources\.json, .* \(--local\)"):
        convert(exports, tmp_path, local="elsewhere")
    (tmp_path / "local" / "Dataset502_Clinic_sources.json").rename(tmp_path / "kept")
    (tmp_path / "local" / KEY_FILE).unlink()
    (tmp_path / "raw" / "Dataset502_Clinic").rename(tmp_path / "other")
    assert not set(names) & set(convert(exports, tmp_path).cases)


def test_a_new_patient_changes_no_name(exports, tmp_path):
    names = set(convert(exports, tmp_path).cases)
    write_phantom(dataclasses.replace(PHANTOM, seed=2), tmp_path / "exports" / "third")
    again = convert(exports, tmp_path)
    assert len(again.converted) == 1
    assert names < set(again.cases)


def test_local_files_within_the_data_set_are_refused(exports, tmp_path):
    with pytest.raises(InputError, match=r"is within the data set .*, and would identify patients"):
        convert(exports, tmp_path, local="raw/Dataset502_Clinic/local")
    assert not (tmp_path / "raw").exists()


def test_patient_ids_are_kept_when_asked_for(exports, tmp_path):
    conversion = convert(exports, tmp_path, keep_ids=True)
    assert sorted(name.split("_")[0] for name in conversion.cases) == sorted(IDS)


def test_a_hostile_patient_id_makes_no_path(exports, tmp_path):
    for path in (exports / "Mueller_Erika_4711").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "../../../evil"
        dataset.save_as(path)
    with pytest.raises(InputError, match=r"PatientID '../../../evil' is not a valid case name"):
        convert(exports, tmp_path, keep_ids=True)
    assert len(convert(exports, tmp_path).cases) == 2


def test_a_damaged_key_is_told(tmp_path):
    for text in ("", "00ff", "not hexadecimal"):
        (tmp_path / KEY_FILE).write_text(text)
        with pytest.raises(InputError, match=r"pseudonyms\.key is damaged: restore it"):
            read_pseudonyms(tmp_path)


def test_a_prediction_for_a_converted_case_finds_its_patient(exports, tmp_path, capfd):
    conversion = convert(exports, tmp_path)
    dataset = RawDataset(conversion.folder)
    name = next(iter(dataset.cases))
    sources = tmp_path / "local" / "Dataset502_Clinic_sources.json"
    prediction = tmp_path / "predictions" / f"{name}.nii.gz"
    prediction.parent.mkdir()
    write_image(dataclasses.replace(read_image(dataset.dose_path(name)), path=prediction))
    out = tmp_path / "out.dcm"
    assert cli.main(["export", "dicom", str(prediction), "--source", str(sources), "-o", str(out)]) == 0
    assert pydicom.dcmread(out).PatientID == json.loads(sources.read_text())[name]["patient_id"]
    other = prediction.rename(prediction.with_name("case_x.nii.gz"))
    assert cli.main(["export", "dicom", str(other), "--source", str(sources), "-o", str(out)]) == 2
    assert "has no case 'case_x'" in capfd.readouterr().err
    record = json.loads(sources.read_text())
    sources.write_text(json.dumps({"case_x": {**record[name], "plans": ["/gone/plan.dcm"]}}))
    assert cli.main(["export", "dicom", str(other), "--source", str(sources), "-o", str(out)]) == 2
    assert "1 file of case 'case_x' missing, for example /gone/plan.dcm" in capfd.readouterr().err
    sources.write_text("[]")
    assert cli.main(["export", "dicom", str(other), "--source", str(sources), "-o", str(out)]) == 2
    assert "expected the list of source files of a conversion" in capfd.readouterr().err


def test_what_inspection_tells_names_no_patient(exports, tmp_path, capfd):
    assert cli.main(["inspect", "dicom", str(exports), "-o", str(tmp_path / "inspection"), "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    names = set(record["patients"])
    assert names == {read_pseudonyms(tmp_path / "inspection").patient(patient) for patient in IDS}
    assert not set(IDS) & set(json.dumps(record).replace('"', " ").split())
    local = tmp_path / "inspection" / "names.json"
    assert set(json.loads(local.read_text()).values()) == set(IDS)
    assert set(json.loads(local.read_text())) == names
    assert local.stat().st_mode & 0o077 == 0


def test_the_order_of_cases_says_nothing_of_patient_ids(exports, tmp_path):
    names = list(convert(exports, tmp_path).cases)
    assert names == sorted(names)
