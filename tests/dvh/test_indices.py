"""Indices of a sphere in a dose that falls off linearly from its centre: every isodose is a sphere of known radius."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdm_nnunet.dvh import gradient_index, isodose_dice, paddick_conformity, r50, rtog_conformity
from cdm_nnunet.errors import InputError

MAXIMUM_GY = 80.0
TARGET_MM = 14.0
VOXEL_MM = (1.0, 0.9, 1.1)
CENTRE_MM = (35.3, 34.8, 35.6)  # on no voxel's centre, so that no shell of voxels is exactly at an isodose

z, y, x = np.ogrid[:71, :79, :65]
RADIUS_MM = np.sqrt(
    sum((i * size - centre) ** 2 for i, size, centre in zip((z, y, x), VOXEL_MM, CENTRE_MM, strict=True))
)
TARGET = RADIUS_MM <= TARGET_MM
VOXELISATION = 0.01  # relative error of a volume of voxels


def radial_dose_gy(slope_gy_per_mm):
    return np.maximum(MAXIMUM_GY - slope_gy_per_mm * RADIUS_MM, 0.0)


def isodose_radius_mm(level_gy, slope_gy_per_mm):
    return (MAXIMUM_GY - level_gy) / slope_gy_per_mm


@pytest.mark.parametrize("slope_gy_per_mm", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("prescription_gy", [50.0, 58.0])
def test_sphere_in_a_radial_gradient(slope_gy_per_mm, prescription_gy):
    dose_gy = radial_dose_gy(slope_gy_per_mm)
    full_mm = isodose_radius_mm(prescription_gy, slope_gy_per_mm)
    half_mm = isodose_radius_mm(prescription_gy / 2, slope_gy_per_mm)
    ratio = (full_mm / TARGET_MM) ** 3
    if half_mm < 34:  # inside the grid
        assert gradient_index(dose_gy, prescription_gy) == pytest.approx((half_mm / full_mm) ** 3, rel=2 * VOXELISATION)
        assert r50(dose_gy, TARGET, prescription_gy) == pytest.approx((half_mm / TARGET_MM) ** 3, rel=2 * VOXELISATION)
    assert rtog_conformity(dose_gy, TARGET, prescription_gy) == pytest.approx(ratio, rel=2 * VOXELISATION)
    assert paddick_conformity(dose_gy, TARGET, prescription_gy) == pytest.approx(
        min(ratio, 1 / ratio), rel=2 * VOXELISATION
    )


def test_the_cases_above_cover_isodoses_inside_and_outside_the_target_and_half_isodoses_in_the_grid():
    radii_mm = [isodose_radius_mm(p, s) for s in (1.2, 1.5, 2.0) for p in (50.0, 58.0)]
    assert min(radii_mm) < TARGET_MM - 2
    assert max(radii_mm) > TARGET_MM + 2
    assert sum(isodose_radius_mm(p / 2, s) < 34 for s in (1.2, 1.5, 2.0) for p in (50.0, 58.0)) >= 2


def test_another_isodose_than_the_prescription():
    dose_gy = radial_dose_gy(1.5)
    assert paddick_conformity(dose_gy, TARGET, 60.0, isodose_percent=95.0) == paddick_conformity(dose_gy, TARGET, 57.0)
    assert rtog_conformity(dose_gy, TARGET, 60.0, isodose_percent=95.0) == rtog_conformity(dose_gy, TARGET, 57.0)


def test_a_miss_of_the_same_volume_is_seen_by_paddick_only():
    dose_gy = np.zeros(8)
    dose_gy[4:] = 60.0
    target = np.zeros(8, bool)
    target[:4] = True
    assert rtog_conformity(dose_gy, target, 60.0) == 1.0
    assert paddick_conformity(dose_gy, target, 60.0) == 0.0


def test_dice_of_concentric_spheres():
    level_gy = 40.0
    first_mm, second_mm = (isodose_radius_mm(level_gy, slope) for slope in (1.5, 2.0))
    expected = 2 * second_mm**3 / (first_mm**3 + second_mm**3)
    assert isodose_dice(radial_dose_gy(1.5), radial_dose_gy(2.0), level_gy) == pytest.approx(expected, rel=VOXELISATION)


@given(
    arrays(np.float32, 40, elements=st.floats(0, 80, width=32)),
    arrays(np.float32, 40, elements=st.floats(0, 80, width=32)),
    st.floats(1, 70),
)
def test_dice_laws(first_gy, second_gy, level_gy):
    dice = isodose_dice(first_gy, second_gy, level_gy)
    assert isodose_dice(second_gy, first_gy, level_gy) == pytest.approx(dice, nan_ok=True)
    assert np.isnan(dice) == (max(first_gy.max(), second_gy.max()) < np.float32(level_gy))
    assert np.isnan(dice) or 0 <= dice <= 1
    if first_gy.max() >= np.float32(level_gy):
        assert isodose_dice(first_gy, first_gy, level_gy) == 1.0


def test_the_level_itself_is_inside_as_float32_stores_it():
    dose_gy = np.full(10, np.float32(0.95 * 63.0))
    assert rtog_conformity(dose_gy, np.ones(10, bool), 63.0, isodose_percent=95.0) == 1.0
    assert isodose_dice(dose_gy, dose_gy, 0.95 * 63.0) == 1.0


def test_what_is_not_defined_is_nan():
    dose_gy, target = np.full(5, 10.0), np.ones(5, bool)
    assert np.isnan(paddick_conformity(dose_gy, target, 60.0))
    assert np.isnan(gradient_index(dose_gy, 60.0))
    assert np.isnan(isodose_dice(dose_gy, dose_gy, 60.0))
    assert rtog_conformity(dose_gy, target, 60.0) == 0.0


def test_unusable_input_is_refused():
    dose_gy, target = np.full(5, 10.0), np.ones(5, bool)
    with pytest.raises(InputError, match=r"the dose has shape \(5,\), the target \(4,\)"):
        paddick_conformity(dose_gy, target[:4], 60.0)
    with pytest.raises(InputError, match="a mask of booleans, not of int64"):
        rtog_conformity(dose_gy, target.astype(np.int64), 60.0)
    with pytest.raises(InputError, match="the target is empty"):
        r50(dose_gy, ~target, 60.0)
    with pytest.raises(InputError, match="1 of 5 voxel doses are not finite"):
        gradient_index(np.array([1.0, 2.0, np.nan, 4.0, 5.0]), 60.0)
    with pytest.raises(InputError, match="expected doses as floats, not int64"):
        gradient_index(np.arange(5), 60.0)
    for level_gy in (0.0, -1.0, np.inf):
        with pytest.raises(InputError, match="an isodose is above zero and finite"):
            isodose_dice(dose_gy, dose_gy, level_gy)
    with pytest.raises(InputError, match=r"on different grids, \(5,\) and \(4,\)"):
        isodose_dice(dose_gy, dose_gy[:4], 60.0)
