"""Subjects of the fuzzer: small valid files of every kind, and the expected results of reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from record_subjects import RECORDS
from subject import Subject

from cdm_nnunet.dataset import CaseRecord, RawDataset
from cdm_nnunet.dataset_conversion.case import Case
from cdm_nnunet.dataset_conversion.dicom import DicomPatient
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, read_mapping
from cdm_nnunet.dataset_conversion.dicom_sources import read_sources
from cdm_nnunet.dataset_conversion.gdphmm import find_plans
from cdm_nnunet.dataset_conversion.nifti import find_patients
from cdm_nnunet.dataset_conversion.openkbp_csv import read_mask, read_spacing_mm, read_values, write_values
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.documents import check, json_document, yaml_document
from cdm_nnunet.dvh import Template, match_rois
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, read_image, write_image

NAMES = ("PTV 60", "cord", "Spinal_cord 2", "MYELON", "Rectum")
GOALS = [{"roi": "PTV_6000", "metric": "D95%"}, {"roi": "SpinalCord", "metric": "Dmax"}]
ROIS = [
    {"name": "PTV_6000", "kind": "target", "prescription_gy": "patient", "aliases": ["PTV 60"]},
    {"name": "SpinalCord", "kind": "oar", "regex": ["(spinal[_ ]?)?cord.*", "myelon"]},
    {"name": "External", "kind": "external"},
]
TEMPLATE = Template.from_json({"format_version": 1, "name": "small", "rois": ROIS, "goals": GOALS}, "fuzz")
MAPPING = """\
rois:
  "PTV60": "PTV_6000"  # 2 patients
  Cord: SpinalCord
  BODY: External
  "Ring": null
prescriptions_gy: {PTV_6000: 60, "PTV_5400": 54.5}
plans: {default: latest, case_1a2b: "Boost"}
patients: {case_1a2b3c4d5e: {rois: {PTV_60: PTV_6000}}}
"""
SHAPE, SPACING, ORIGIN = (6, 9, 10), (3.0, 2.5, 2.0), (-11.5, 20.25, -300.0)
GRID = Grid(SHAPE, SPACING, np.array(ORIGIN))
PHANTOM = Phantom(
    {"BODY": Cylinder((0, 0, 0), 16, 20), "PTV60": Sphere((3, 0, 0), 6), "Cord": Cylinder((0, 9, 0), 3, 20)},
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.5)),
    pixels=(20, 20),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)


def ct_hu() -> np.ndarray:
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 1:8, 1:9] = np.arange(6 * 7 * 8).reshape(6, 7, 8) % 90
    return hu


def masks() -> dict[str, np.ndarray]:
    found = {name: np.zeros(SHAPE, bool) for name in ("PTV_6000", "SpinalCord", "External")}
    found["PTV_6000"][1:5, 2:6, 3:7] = found["SpinalCord"][:, 6:8, 4:6] = True
    found["External"][:, 1:8, 1:9] = True
    return found


def dose_gy() -> np.ndarray:
    return (np.where(masks()["PTV_6000"], 60, 20) + np.arange(6 * 9 * 10).reshape(SHAPE) / 540).astype(np.float32)


def write_nifti_patient(folder: Path) -> None:
    patient = folder / "patients" / "case_1"
    (patient / "masks").mkdir(parents=True)
    images = {"ct": ct_hu(), "dose": dose_gy(), **{f"masks/{k}": v.astype(np.uint8) for k, v in masks().items()}}
    for name, values in images.items():
        write_image(Image(values, GRID, patient / f"{name}.nii.gz"))
    (patient / "prescriptions.json").write_text(json.dumps({"PTV_6000": 60}))


def geometry_of(grid: Grid) -> tuple[Any, ...]:
    return grid.spacing_zyx_mm, grid.origin_zyx_mm, grid.direction


def content_of(case: Case) -> dict[str, Any]:
    return {
        "values": (case.ct_hu, case.roi_bits, case.dose_gy),
        "geometry": geometry_of(case.grid),
        "prescriptions_gy": dict(case.prescriptions_gy),
        "rois": case.rois,
    }


def read_nifti_patient(folder: Path) -> dict[str, Any]:
    (patient,) = find_patients(folder / "patients", TEMPLATE).patients
    return content_of(patient.load())


def read_one_image(folder: Path) -> dict[str, Any]:
    image = read_image(folder / "ct.nii.gz")
    return {"values": image.values, "geometry": geometry_of(image.grid)}


def write_dataset(folder: Path) -> None:
    catalogue = template_catalogue(TEMPLATE)
    section = {"format_version": 1, "units": {"dose": "Gy", "ct": "HU"}, "catalogue": catalogue.to_json()}
    dataset = {"channel_names": {"0": "CT"}, "numTraining": 1, "cdm": {**section, "template": TEMPLATE.to_json()}}
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))
    record = CaseRecord(
        prescriptions_gy={"PTV_6000": 60.0}, rois=("PTV_6000", "SpinalCord"), spacing_mm=SPACING, split="Tr",
        source={"patient": "a"},
    )  # fmt: skip
    (folder / "cdm_cases.json").write_text(json.dumps({"a": record.to_json(), "b": record.to_json()}, indent=1))


def read_dataset(folder: Path) -> Any:
    dataset = RawDataset(folder)
    notes = [record.notes for record in dataset.cases.values()]
    return [dataset.catalogue, dataset.template, dataset.cases, notes]


def typed_value(document: Any) -> Any:
    checked = check(document, dict[str, object])
    if checked.faults:
        raise InputError(str(checked.faults[0]))
    return checked.value


def write_challenge(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: np.zeros((8, 9, 8), np.uint8) for name in ("PTVHighOPT", "Body", "BrainStem_03")}
    arrays["Body"][:, 1:8, 1:7] = arrays["PTVHighOPT"][2:5, 3:6, 3:6] = arrays["BrainStem_03"][3, 2, 4] = 1
    dose = rng.integers(20_000, 30_000, (8, 9, 8)).astype(np.uint32) * arrays["Body"]
    (folder / "HaN").mkdir()
    image = rng.integers(-1000, 900, (8, 9, 8)).astype(np.int16)
    content = {**arrays, "all_mask": list(arrays), "img": image, "dose": dose, "dose_scale": 0.0025, "isVMAT": True}
    np.savez_compressed(folder / "HaN" / "HNC_001+9Ag+MOS_1.npz", content)
    targets = {"HNC_001": {"PTV_High": {"OPTName": "PTVHighOPT", "PDose": 70}}}
    (folder / "PTV_DICT.json").write_text(json.dumps(targets))
    (folder / "Pat_Obj_DICT.json").write_text(json.dumps({"HNC_001": ["PTVHighOPT"]}))


def read_challenge(folder: Path) -> Any:
    return [content_of(plan.load()) for plan in find_plans(folder, folder, Template.load("gdphmm")).plans]


def read_template(folder: Path) -> Any:
    """A template, and its matches among names on which an expression may run for long."""
    template = Template.load(str(folder / "clinic.json"))
    return [template, [match_rois(template, [name]) for name in (*NAMES, "a" * 60 + "!", "cord" * 16 + "_")]]


def read_csv(folder: Path) -> Any:
    values = [read_values(folder / f"{name}.csv") for name in ("ct", "dose")]
    return [*values, read_mask(folder / "Larynx.csv"), read_spacing_mm(folder / "voxel_dimensions.csv")]


def write_csv(folder: Path) -> None:
    index = np.arange(40, 70, 3)
    for name in ("ct", "dose"):
        write_values(folder / f"{name}.csv", index, (index * 1.5 + 0.1).astype(np.float32))
    (folder / "Larynx.csv").write_text(",data\n" + "".join(f"{k},\n" for k in index))
    (folder / "voxel_dimensions.csv").write_text("3.906\n3.906\n2.5\n")


def read_dicom(folder: Path) -> Any:
    mapping = DicomMapping({"PTV60": "PTV_6000", "Cord": "SpinalCord", "BODY": "External"})
    index = index_folder(folder / "phantom")
    cases = []
    for files in index.patients():
        case = DicomPatient(files, mapping, TEMPLATE, "dose").load()
        cases.append({**content_of(case), "notes": (case.notes, index.unread)})
    if not cases:
        raise InputError("no patient")
    return cases


def write_side_file(folder: Path) -> None:
    for name in ("ct", "rs", "rp"):
        (folder / name).touch()
    files = {"ct": [str(folder / "ct")], "structures": str(folder / "rs"), "plans": [str(folder / "rp")], "doses": []}
    content = {"case_1": {"patient_id": "7", "uids": {"a": "1.2.3"}, **files}}
    (folder / "sources.json").write_text(json.dumps(content, indent=1))


def write_index(folder: Path) -> None:
    write_phantom(PHANTOM, folder / "phantom")
    index_folder(folder / "phantom", folder / "index.jsonl")


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "JSON text",
            "json",
            "text.json",
            lambda folder: (folder / "text.json").write_text(json.dumps(TEMPLATE.to_json(), indent=1)),
            lambda folder: typed_value(json_document((folder / "text.json").read_bytes().decode("utf-8-sig"))),
        ),
        Subject(
            "YAML text",
            "yaml",
            "text.yaml",
            lambda folder: (folder / "text.yaml").write_text(MAPPING),
            lambda folder: typed_value(yaml_document((folder / "text.yaml").read_bytes().decode("utf-8-sig"))),
        ),
        Subject(
            "template",
            "json",
            "clinic.json",
            lambda folder: (folder / "clinic.json").write_text(json.dumps(TEMPLATE.to_json(), indent=1)),
            read_template,
        ),
        Subject(
            "mapping",
            "yaml",
            "rois.yaml",
            lambda folder: (folder / "rois.yaml").write_text(MAPPING),
            lambda folder: read_mapping(folder / "rois.yaml"),
        ),
        Subject("OpenKBP files", "csv", "*.csv", write_csv, read_csv),
        *RECORDS,
        Subject("data set", "json", "*.json", write_dataset, read_dataset),
        Subject(
            "side file", "json", "sources.json", write_side_file, lambda f: read_sources(f / "sources.json", "case_1")
        ),
        Subject(
            "image",
            "nifti",
            "ct.nii.gz",
            lambda folder: write_image(Image(ct_hu(), GRID, folder / "ct.nii.gz")),
            read_one_image,
        ),
        Subject("NIfTI patient", "nifti", "patients/case_1/**/*.nii.gz", write_nifti_patient, read_nifti_patient),
        Subject("NIfTI prescriptions", "json", "patients/case_1/*.json", write_nifti_patient, read_nifti_patient),
        Subject("GDP-HMM plan", "packed", "HaN/*.npz", write_challenge, read_challenge),
        Subject("GDP-HMM tables", "json", "*.json", write_challenge, read_challenge),
        Subject(
            "DICOM patient", "dicom", "phantom/*", lambda folder: write_phantom(PHANTOM, folder / "phantom"), read_dicom
        ),
        Subject(
            "index",
            "cache",
            "index.jsonl",
            write_index,
            lambda f: index_folder(f / "phantom", f / "index.jsonl").entries,
        ),
    )
}
