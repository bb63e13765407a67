"""Patients with several plans: of a course, a replan, a boost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from phantoms import TINY

from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.raw_layout import Conversion
from cdm_nnunet.dicom.phantom import Phantom, PhantomFiles, write_phantom
from cdm_nnunet.dvh import Template


class Clinic:
    """A small template, a mapping and a phantom that fit together, and the conversion of ``FOLDER/exports``."""

    template = Template.from_json(
        {
            "format_version": 1,
            "name": "small",
            "rois": [
                {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
                {"name": "External", "kind": "external"},
            ],
            "goals": [{"roi": "PTV_High", "metric": "D95%"}],
        },
        "test",
    )
    mapping = DicomMapping({"PTV": "PTV_High", "BODY": "External"})
    phantom = TINY

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def convert(self, mapping: DicomMapping | None = None, **options) -> Conversion:
        return convert_dicom(
            self.folder / "exports",
            DatasetPlace(self.folder / "raw", 502, "C"),
            DicomRules(self.template, mapping or self.mapping),
            self.folder / "local",
            **options,
        )


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def write_plan(patient: PhantomFiles, phantom: Phantom, label: str, made: str = "20260301") -> PhantomFiles:
    """Write a phantom's plan and doses as one more plan of a patient with the same seed; other files stay."""
    folder = patient.folder / label
    files = write_phantom(phantom, folder)
    for path in (*files.ct, files.structures):
        path.unlink()
    plan = pydicom.dcmread(files.plan)
    plan.RTPlanLabel, plan.RTPlanDate = label, made
    plan.SOPInstanceUID = plan.file_meta.MediaStorageSOPInstanceUID = f"{plan.SOPInstanceUID[:50]}.{made}"
    plan.save_as(files.plan)
    for k, path in enumerate(files.doses):
        dose = pydicom.dcmread(path)
        dose.SOPInstanceUID = dose.file_meta.MediaStorageSOPInstanceUID = f"{dose.SOPInstanceUID[:50]}.{made}.{k}"
        dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = plan.SOPInstanceUID
        dose.save_as(path)
    return files


@pytest.fixture
def add_plan() -> Callable[..., PhantomFiles]:
    return write_plan


@pytest.fixture
def shuffled() -> Callable[[Path, Path], None]:
    """Move the files of a tree into one folder, under names that say nothing."""

    def move(tree: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        for k, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
            shutil.move(path, folder / f"IM{k:04d}")

    return move
