"""Damage inside a patient's files that each of them hides: lost slices and points, values that are not HU."""

import dataclasses
import re

import numpy as np
import pytest
from phantoms import change

from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dicom.ct import read_ct
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_6000", "kind": "target", "prescription_gy": "patient"},
            {"name": "External", "kind": "external"},
        ],
        "goals": [{"roi": "PTV_6000", "metric": "D95%"}],
    },
    "test",
)
PHANTOM = Phantom(
    {"BODY": Cylinder((0.0, 0.0, 0.0), 22.0, 32.0), "PTV60": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.5, 60.0),
    slices_z_mm=tuple(np.arange(-16.0, 17.0, 2.0)),
    pixels=(28, 28),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)


@pytest.fixture
def files(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "patient")


def load(files, rois=("PTV_6000", "External"), grid="dose"):
    (found,) = index_folder(files.folder).patients()
    return DicomPatient(found, DicomMapping(dict(zip(("PTV60", "BODY"), rois, strict=True))), TEMPLATE, grid).load()


def contours(dataset, name):
    (number,) = [item.ROINumber for item in dataset.StructureSetROISequence if item.ROIName == name]
    (found,) = [item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number]
    return found.ContourSequence


@pytest.mark.parametrize("slope", ["0", "-1", "1e-6", "1000"])
def test_a_slope_that_gives_no_hu_is_refused_in_any_slice(files, slope):
    change(files.ct[7], lambda d: setattr(d, "RescaleSlope", slope))
    for pixels in (False, True):
        with pytest.raises(InputError, match=r"RescaleSlope \(0028,1053\) is .*, so that its values are not HU"):
            read_ct(files.ct, pixels=pixels)


def test_a_blank_slice_between_others_is_refused(files):
    change(files.ct[7], lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))))
    with pytest.raises(InputError, match="the image at z = -2 mm has one value everywhere"):
        read_ct(files.ct)


@pytest.mark.parametrize(
    ("edit", "mean_hu"),
    [
        (lambda d: setattr(d, "RescaleIntercept", 0), "10"),
        (lambda d: setattr(d, "RescaleIntercept", "-2048"), "-10"),
        (lambda d: setattr(d, "RescaleSlope", 2), "10"),
        (lambda d: setattr(d, "PixelData", d.pixel_array.astype(">u2").tobytes()), "-10"),
    ],
)
def test_an_image_that_was_rescaled_in_another_way_is_refused(files, edit, mean_hu):
    change(files.ct[7], edit)
    with pytest.raises(InputError, match=rf"the image at z = -2 mm has {mean_hu}\d* HU on average, but its neighb"):
        read_ct(files.ct)


def test_images_in_order_are_no_damage(files):
    for k, path in enumerate(files.ct):
        change(path, lambda d, k=k: (setattr(d, "RescaleSlope", 1 + k / 20), setattr(d, "RescaleIntercept", -1024)))
    read_ct(files.ct)


def lose(count):
    def edit(dataset):
        item = contours(dataset, "PTV60")[2]
        item.ContourData = item.ContourData[: len(item.ContourData) - 3 * count]

    return edit


@pytest.mark.parametrize("count", [2, 20])
def test_lost_contour_points_are_refused(files, count):
    change(files.structures, lose(count))
    with pytest.raises(InputError, match=r"NumberOfContourPoints .* is \d+, but there are \d+; were points lost"):
        read_structures(files.structures)


def test_a_closing_point_need_not_be_counted(files):
    def close(dataset):
        for k, item in enumerate(contours(dataset, "PTV60")):
            item.ContourData = [*item.ContourData, *item.ContourData[:3]]
            item.NumberOfContourPoints += k % 2

    before = read_structures(files.structures).roi("PTV60")
    change(files.structures, close)
    after = read_structures(files.structures).roi("PTV60")
    assert all((a == b).all() for a, b in zip(before.contours, after.contours, strict=True))


@pytest.mark.parametrize("far_mm", [1e7, -3e3, 9e3])
def test_a_contour_point_that_is_far_away_is_refused(files, far_mm):
    def edit(dataset):
        item = contours(dataset, "PTV60")[2]
        item.ContourData = [*item.ContourData[:9], far_mm, *item.ContourData[10:]]

    change(files.structures, edit)
    place = re.escape(f"({far_mm:g}, ")
    with pytest.raises(InputError, match=rf"a contour has a point at {place}.* mm, far from its others"):
        read_structures(files.structures)


def without_references(dataset):
    """As of systems that name no images."""
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        for study in frame.RTReferencedStudySequence:
            for series in study.RTReferencedSeriesSequence:
                series.ContourImageSequence = []
    for roi in dataset.ROIContourSequence:
        for item in roi.ContourSequence:
            item.ContourImageSequence = []


def test_a_ct_that_ends_before_the_contours_is_refused_without_references_too(files):
    change(files.structures, without_references)
    assert "beyond the CT" not in load(files).record().source["notes"]
    for path in files.ct[-6:]:
        path.unlink()
    with pytest.raises(
        InputError, match=r"contours of ROI 'BODY' reach 11 mm beyond the CT .head-feet.: images are mi"
    ):
        load(files, grid="ct")
    load(files, ("PTV_6000", None), grid="ct")  # all relevant data are in the CT


def test_contours_a_little_beyond_the_ct_are_told(files):
    change(files.structures, without_references)
    for path in files.ct[-2:]:
        path.unlink()
    notes = load(files, grid="ct").record().source["notes"]
    assert "unusual: the contours of ROI 'BODY' reach 3 mm beyond the CT (head-feet); there the CT counts" in notes


def test_contours_of_another_patient_position_are_refused(files):
    def shift(dataset):
        for roi in dataset.ROIContourSequence:
            for item in roi.ContourSequence:
                points = np.reshape([float(x) for x in item.ContourData], (-1, 3)) + np.array([500, 0, 0])
                item.ContourData = [f"{x:.4f}" for x in points.ravel()]

    change(files.structures, shift)
    with pytest.raises(InputError, match=r"contours of ROI 'BODY' reach 4\d\d.* mm beyond the CT .left-right."):
        load(files)


def test_the_dose_of_a_fraction_is_no_prescription(tmp_path):
    small = dataclasses.replace(PHANTOM, prescriptions_gy={"PTV60": 6.0}, dose=LinearDose(0, 0.05, 6.0))
    files = write_phantom(small, tmp_path / "patient")  # in 35 fractions
    with pytest.raises(InputError, match=r"'PTV_6000' \(6 Gy in 35 fractions\) is 0.1714 Gy, .* of a single fraction"):
        load(files)
