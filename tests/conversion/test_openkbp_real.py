"""Two real patients; skipped if they are not available."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.openkbp import ROI_FILES, find_openkbp, write_prediction_csv

CASES = {"pt_1": "train-pats", "pt_201": "validation-pats"}


@pytest.fixture(scope="module")
def dataset(openkbp_patients, tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    return RawDataset(convert(find_openkbp(openkbp_patients), DatasetPlace(raw, 501, "OpenKBP")).folder)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def csv_columns(path):
    """Read independently of the code under test."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return np.array([int(row[0]) for row in rows]), [row[1] for row in rows]


def centre_lps_mm(dataset, case, roi):
    image = sitk.ReadImage(str(dataset.image_path(case, 2)))
    mask = sitk.GetArrayFromImage(image) >> np.uint16(dataset.catalogue.bit(roi)) & 1
    z, y, x = np.argwhere(mask).mean(0)
    return image.TransformContinuousIndexToPhysicalPoint((x, y, z))


@pytest.mark.parametrize("case", CASES)
def test_anatomy_lies_as_in_a_patient(dataset, case):
    left, right = (centre_lps_mm(dataset, case, f"Parotid_{side}") for side in "LR")
    cord, brainstem = (centre_lps_mm(dataset, case, roi) for roi in ("SpinalCord", "Brainstem"))
    assert 60 < left[0] - right[0] < 160  # mm; LPS: x grows to the patient's left
    assert right[0] < cord[0] < left[0]
    assert cord[1] > left[1]  # y grows to the back
    assert brainstem[2] > cord[2]  # z grows to the head
    air = read(dataset.image_path(case, 0)) == -1024
    assert 0.2 < air.mean() < 0.99


@pytest.mark.parametrize(("case", "split"), CASES.items())
def test_dose_in_every_roi_is_what_the_csv_files_say(dataset, openkbp_patients, case, split):
    folder = openkbp_patients / split / case
    at, values = csv_columns(folder / "dose.csv")
    flat_gy = np.zeros(128**3, np.float32)
    flat_gy[at] = [float(value) for value in values]
    dose_gy, bits = read(dataset.dose_path(case)), read(dataset.image_path(case, 2))
    contoured = []
    for stem, roi in ROI_FILES.items():
        mask = (bits >> np.uint16(dataset.catalogue.bit(roi)) & 1).astype(bool)
        if not (folder / f"{stem}.csv").exists():
            assert not mask.any()
            continue
        contoured.append(roi)
        expected = flat_gy[csv_columns(folder / f"{stem}.csv")[0]]
        np.testing.assert_array_equal(np.sort(dose_gy[mask]), np.sort(expected), err_msg=roi)
    assert sorted(contoured) == sorted(dataset.record(case).rois)


@pytest.mark.parametrize("case", CASES)
def test_voxel_size_and_prescriptions(dataset, case):
    record = dataset.record(case)
    image = sitk.ReadImage(str(dataset.image_path(case, 0)))
    assert image.GetSpacing()[::-1] == pytest.approx(record.spacing_mm, abs=1e-5)
    assert record.spacing_mm[0] < record.spacing_mm[1]  # slices are thinner than the plane's voxels in these patients
    levels = set(np.unique(read(dataset.image_path(case, 1))).tolist())
    assert levels == {0.0, *record.prescriptions_gy.values()}


@pytest.mark.parametrize(("case", "split"), CASES.items())
def test_the_dose_goes_back_to_the_same_csv_file(dataset, openkbp_patients, tmp_path, case, split):
    folder = openkbp_patients / split / case
    region = folder / "possible_dose_mask.csv"
    n_voxels = write_prediction_csv(dataset.dose_path(case), tmp_path / "dose.csv", region)
    at, values = csv_columns(tmp_path / "dose.csv")
    expected_at, expected = csv_columns(folder / "dose.csv")
    assert n_voxels == len(expected_at)
    np.testing.assert_array_equal(at, expected_at)
    assert values == expected


def test_fold_0_is_the_published_split(dataset):
    folds = json.loads((dataset.folder / "splits_final.json").read_text())
    assert folds[0] == {"train": ["pt_1"], "val": ["pt_201"]}
