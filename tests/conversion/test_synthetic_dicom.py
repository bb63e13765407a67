"""Head-and-neck phantoms as DICOM files: the read contours equal the drawn ones."""

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion import synthetic_dicom
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.synthetic_anatomy import Canvas
from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import mask_of


@pytest.fixture(scope="module")
def phantom():
    return synthetic_dicom.head_neck_phantom(0)


@pytest.fixture(scope="module")
def dataset(phantom, tmp_path_factory):
    """The files of two phantoms, converted with their names as they are."""
    folder = tmp_path_factory.mktemp("phantom")
    other = synthetic_dicom.head_neck_phantom(1)
    for one in (phantom, other):
        write_phantom(one, folder / "patients" / f"patient_{one.seed}")
    names = {name: name for one in (phantom, other) for name in one.solids} | {"BODY": "DoseRegion"}
    place = DatasetPlace(folder / "raw", 501, "P")
    rules = DicomRules(Template.load("openkbp"), DicomMapping(names))
    convert_dicom(folder / "patients", place, rules, folder / "local", keep_ids=True)
    return folder / "raw" / "Dataset501_P"


def channel(dataset, kind):
    folder, end = {"ct": ("imagesTr", "_0000"), "bits": ("imagesTr", "_0002"), "dose": ("labelsTr", "")}[kind]
    (path,) = (dataset / folder).glob(f"phantom_1000{end}.nii.gz")
    return read_image(path)


def test_contours_give_the_voxels_back(phantom, dataset):
    bits = channel(dataset, "bits")
    template = Template.load("openkbp")
    for bit, roi in enumerate(template.rois):
        solid = phantom.solids.get("BODY" if roi.name == "DoseRegion" else roi.name)
        mask = mask_of(bits.values, bit)
        if solid is None:
            assert not mask.any(), roi.name
        else:
            assert np.count_nonzero(mask != solid.mask) <= 0.02 * solid.mask.sum(), roi.name


def test_dose_and_ct_are_those_that_were_drawn(phantom, dataset):
    high = phantom.solids["PTV_7000"]
    dose = channel(dataset, "dose").values
    assert 69 < np.median(dose[high.mask]) < 74
    points = np.stack(np.meshgrid(*(np.arange(3.0),) * 3, indexing="ij"), -1) * 4
    assert np.ptp(phantom.ct_hu(points)) > 0
    assert np.median(channel(dataset, "ct").values[high.mask]) == pytest.approx(45, abs=15)


def test_another_seed_is_another_patient_and_the_same_seed_is_not(phantom):
    def volumes(one):
        return {name: solid.volume_cc for name, solid in one.solids.items()}

    assert volumes(synthetic_dicom.head_neck_phantom(0)) == volumes(phantom)
    assert volumes(synthetic_dicom.head_neck_phantom(1)) != volumes(phantom)


def test_a_box_of_voxels_has_its_volume_contours_and_shares():
    grid = Canvas((5, 6, 8), (3.0, 2.0, 1.0), np.array((10.0, 20.0, 30.0)))
    mask = np.zeros(grid.shape, bool)
    mask[1:3, 2:4, 2:6] = True
    solid = synthetic_dicom.MaskSolid(mask, grid)
    assert solid.volume_cc == pytest.approx(16 * 6 / 1000)
    assert solid.extent_z_mm == (33.0, 36.0)
    assert solid.sections(30.0) == []
    (outline,) = solid.sections(33.0)
    assert (outline.min(0), outline.max(0)) == (pytest.approx([11.5, 23.0]), pytest.approx([15.5, 27.0]))
    assert [solid.fraction_below(axis, at) for axis, at in ((0, 14.0), (1, 25.0), (2, 34.0))] == [0.5, 0.5, 0.5]
    assert solid.contains(np.array([[12.0, 24.0, 33.0], [11.0, 24.0, 33.0]])).tolist() == [True, False]


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="exists and is not an empty folder; name a new one with -o"):
        synthetic_dicom.write_patients(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
