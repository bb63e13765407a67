import json

import numpy as np
import pytest
from scipy import ndimage

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic, synthetic_patient
from cdm_nnunet.errors import InputError

SEEDS = range(1, 7)


@pytest.fixture(scope="module")
def patients():
    return [synthetic_patient(seed) for seed in SEEDS]


def centre_mm(case, roi):
    """Centre (x, y, z) in LPS."""
    z, y, x = np.argwhere(case.mask(roi)).mean(0)
    return case.grid.origin_xyz_mm + np.array([x, y, z]) * case.grid.spacing_xyz_mm


def zyx_mm(case):
    return case.grid.spacing_zyx_mm


def test_the_same_seed_gives_the_same_patient_and_another_seed_another():
    first, again, other = (synthetic_patient(seed, coarseness=2.2) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.ct_hu, again.ct_hu)
    np.testing.assert_array_equal(first.dose_gy, again.dose_gy)
    np.testing.assert_array_equal(first.roi_bits, again.roi_bits)
    assert not first.grid.same_as(other.grid)


def test_grids_are_modest_and_differ(patients):
    for case in patients:
        n_z, n_y, n_x = case.ct_hu.shape
        assert 48 <= n_z <= 64
        assert 72 <= n_y == n_x <= 96
        z_mm, y_mm, x_mm = case.grid.spacing_zyx_mm
        assert 3.0 <= x_mm == y_mm <= 4.5
        assert 2.5 <= z_mm <= 3.5
    assert len({case.grid.spacing_zyx_mm for case in patients}) == len(patients)


def test_anatomy_lies_as_in_a_patient(patients):
    for case in patients:
        left, right = (centre_mm(case, f"Parotid_{side}") for side in "LR")
        assert 80 < left[0] - right[0] < 150  # LPS: x grows to the left
        cord = centre_mm(case, "SpinalCord")
        assert cord[1] > left[1]
        if "Bone_Mandible" in case.rois:
            assert centre_mm(case, "Bone_Mandible")[1] < cord[1] - 30
        if "Brainstem" in case.rois:
            assert centre_mm(case, "Brainstem")[2] > cord[2] + 20
        if "Larynx" in case.rois:
            assert centre_mm(case, "Larynx")[2] < left[2]
        ct_hu = case.ct_hu.astype(float)
        assert ct_hu[~ndimage.binary_dilation(case.ct_hu > -300, iterations=2)].mean() == pytest.approx(-1000, abs=40)
        if "Bone_Mandible" in case.rois:
            assert ct_hu[case.mask("Bone_Mandible")].mean() > 500


def test_targets_are_disjoint_and_of_clinical_size(patients):
    for case in patients:
        levels = [case.mask(roi) for roi in case.prescriptions_gy]
        assert np.sum(levels, axis=0).max() == 1
        voxel_cc = np.prod(zyx_mm(case)) / 1000
        assert 25 < case.mask("PTV_7000").sum() * voxel_cc < 350
        assert case.prescriptions_gy["PTV_7000"] == 70
    assert any(case.mask("PTV_7000")[case.mask(f"Parotid_{side}")].any() for case in patients for side in "LR") or any(
        (case.prescription_map_gy() > 0)[case.mask(f"Parotid_{side}")].any() for case in patients for side in "LR"
    )
    assert {"PTV_6300" in case.rois for case in patients} == {True, False}


def test_coverage_is_imperfect_and_hot_spots_are_moderate(patients):
    d95_gy = []
    for case in patients:
        dose_gy = case.dose_gy[case.mask("PTV_7000")]
        d95_gy.append(np.percentile(dose_gy, 5))
        assert 65.5 < d95_gy[-1] < 70.5
        assert 102 < np.percentile(dose_gy, 98) / 0.70 < 107
        assert case.dose_gy.max() < 1.08 * 70
        for roi, level_gy in case.prescriptions_gy.items():
            assert np.median(case.dose_gy[case.mask(roi)]) == pytest.approx(1.03 * level_gy, rel=0.06)
    assert np.ptp(d95_gy) > 1


def test_dose_falls_off_as_in_a_plan(patients):
    for case in patients:
        region = case.mask("DoseRegion")
        assert not case.dose_gy[~region].any()
        distance_mm = ndimage.distance_transform_edt(case.prescription_map_gy() == 0, sampling=zyx_mm(case))
        medians = [np.median(case.dose_gy[region & (abs(distance_mm - r) < 3)]) for r in (5, 20, 40, 60)]
        assert medians == sorted(medians, reverse=True)
        assert 15 < medians[1] < 35
        assert 5 < medians[2] < 20
        gradient = np.sqrt(np.sum(np.square(np.gradient(case.dose_gy, *zyx_mm(case))), axis=0))
        assert 1 < np.median(gradient[region & (distance_mm > 0) & (distance_mm < 8)]) < 3  # Gy/mm


def test_organs_are_spared(patients):
    for case in patients:
        assert np.percentile(case.dose_gy[case.mask("SpinalCord")], 99) < 50
        parotid = min(case.dose_gy[case.mask(f"Parotid_{side}")].mean() for side in "LR")
        assert parotid < 45


def test_coarse_patients_are_small():
    case = synthetic_patient(1, coarseness=2.2)
    assert case.ct_hu.size < 100_000
    assert "PTV_7000" in case.rois


def test_what_is_out_of_range_is_refused(tmp_path):
    with pytest.raises(InputError, match="a seed is a number from 0, not -1"):
        synthetic_patient(-1)
    for n_training, n_test in ((1, 3), (2, -1), (900, 100)):
        with pytest.raises(InputError, match=f"{n_training} training and {n_test} test phantoms"):
            convert(find_synthetic(n_training=n_training, n_test=n_test), DatasetPlace(tmp_path, 500, "Demo"))
    with pytest.raises(InputError, match="from 0 to 999999, not 1000000"):
        convert(find_synthetic(n_training=2, seed=1_000_000), DatasetPlace(tmp_path, 500, "Demo"))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_phantoms(tmp_path):
    conversion = convert(find_synthetic(n_training=3, n_test=1, coarseness=2.2), DatasetPlace(tmp_path, 500, "Demo"))
    dataset = RawDataset(conversion.folder)
    assert {name: record.split for name, record in dataset.cases.items()} == {
        "phantom_001": "Tr",
        "phantom_002": "Tr",
        "phantom_003": "Tr",
        "phantom_004": "Ts",
    }
    assert all(dataset.dose_path(name).is_file() for name in dataset.cases)
    assert len(json.loads((conversion.folder / "splits_final.json").read_text())) == 5
    with pytest.raises(InputError, match="holds cases that are not among the patients"):
        convert(find_synthetic(n_training=2, coarseness=2.2), DatasetPlace(tmp_path, 500, "Demo"))
