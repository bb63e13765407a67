"""Patients with several plans: of a course, a replan, a boost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from cdm_nnunet.dicom.phantom import Phantom, PhantomFiles, write_phantom


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
