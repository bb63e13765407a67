"""A patient with several structure sets or CT series: a person says which counts."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from cdm_nnunet.dataset_conversion.dicom_mapping import mapping_from
from cdm_nnunet.dicom.file_choice import FileChoice
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Sphere
from cdm_nnunet.dicom.plan_choice import Choice
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.errors import InputError

NAME = Pseudonyms().patient("phantom_000")
PHANTOM = Phantom(
    {"PTV60": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.5, 60.0),
    slices_z_mm=tuple(np.arange(-10.0, 11.0, 2.0)),
    pixels=(24, 24),
    prescriptions_gy={"PTV60": 60.0},
)


def change(path, edit):
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)


@pytest.fixture
def patient(tmp_path):
    """No reference from plan to structure set or from there to a CT; two of each."""
    files = write_phantom(PHANTOM, tmp_path / "patient")
    change(files.plan, lambda d: delattr(d, "ReferencedStructureSetSequence"))

    def loose(dataset):
        dataset.StructureSetLabel = "Plan"
        for frame in dataset.ReferencedFrameOfReferenceSequence:
            del frame.RTReferencedStudySequence
        for roi in dataset.ROIContourSequence:
            for item in roi.ContourSequence:
                item.ContourImageSequence = []

    change(files.structures, loose)
    other = shutil.copy(files.structures, files.folder / "other.dcm")
    change(other, lambda d: (setattr(d, "SOPInstanceUID", generate_uid()), setattr(d, "StructureSetLabel", "Draft")))
    series = generate_uid()
    for path in files.ct:
        change(path, lambda d: setattr(d, "SeriesDescription", "Native 2 mm"))
        copy = shutil.copy(path, files.folder / f"contrast_{path.name}")

        def contrast(dataset):
            dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(), series
            dataset.SeriesDescription = "Contrast"

        change(copy, contrast)
    return files


def found(files, **choice):
    (one,) = index_folder(files.folder).patients(choice=Choice(files={NAME: FileChoice(**choice)}))
    return one


def test_nothing_is_chosen_unless_somebody_chose(patient):
    structures, ct = found(patient).problems
    way = "ambiguous, keep one, or choose it by label or UID in the mapping"
    assert structures == (
        f"2 structure sets: {way} ('structures' of the patient, under 'patients'): there are 'Draft', 'Plan'"
    )
    assert ct == (
        f"2 CT series: {way} ('ct' of the patient, under 'patients'): there are 'Contrast' of 11 images, 'Native 2 mm' "
        "of 11 images"
    )


@pytest.mark.parametrize("by", ["label", "uid"])
def test_what_was_chosen_counts(patient, by):
    choice = {"structures": "Plan", "ct": "Native 2 mm"}
    if by == "uid":
        choice = {
            "structures": str(pydicom.dcmread(patient.structures).SOPInstanceUID),
            "ct": str(pydicom.dcmread(patient.ct[0]).SeriesInstanceUID),
        }
    mapping = mapping_from({"rois": {}, "patients": {NAME: choice}}, "rois.yaml")
    (files,) = index_folder(patient.folder).patients(choice=mapping.choice)
    assert files.problems == ()
    assert (files.structures, set(files.ct)) == (patient.structures, set(patient.ct))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"structures": "plan"}, "chooses structure set 'plan', which does not exist: there are 'Draft', 'Plan'"),
        (
            {"ct": "Contrast 5 mm"},
            "chooses CT series 'Contrast 5 mm', which does not exist: there are 'Contrast' of 11",
        ),
    ],
)
def test_a_choice_that_is_not_there_is_refused(patient, choice, message):
    (problem,) = found(patient, **choice).problems
    assert message in problem


def test_a_label_of_two_is_refused_with_their_uids(patient):
    change(patient.folder / "other.dcm", lambda d: setattr(d, "StructureSetLabel", "Plan"))
    (problem,) = found(patient, structures="Plan", ct="Contrast").problems
    assert "which stands for 2 of them; give the UID: there are 'Plan' (" in problem


def test_a_choice_against_the_references_is_refused(tmp_path):
    files = write_phantom(PHANTOM, tmp_path / "patient")
    other = shutil.copy(files.structures, files.folder / "other.dcm")
    change(other, lambda d: (setattr(d, "SOPInstanceUID", generate_uid()), setattr(d, "StructureSetLabel", "Draft")))
    problems = found(files, structures="Draft").problems
    assert "the structure set that the plan refers to is not in the folder, or was not chosen" in problems


def test_other_things_than_names_are_no_choice():
    with pytest.raises(InputError, match=rf"rois.yaml: patients\.{NAME}\.ct: Input should be a valid string, not 3"):
        mapping_from({"rois": {}, "patients": {NAME: {"ct": 3}}}, "rois.yaml")
