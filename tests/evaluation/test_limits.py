import numpy as np
import pytest

from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.dvh.values import VoxelDoses
from cdm_nnunet.evaluation.limits import mask_error, roi_surface
from cdm_nnunet.evaluation.rois import roi_boxes
from cdm_nnunet.roi import pack

GRADIENT_GY_MM = 1.0
SPACING_MM = 2.5


def box_in_ramp(n=16, low=4, high=12):
    """A cube in a dose that rises by 1 Gy/mm along x; voxels of 2.5 mm."""
    dose = np.broadcast_to(GRADIENT_GY_MM * SPACING_MM * np.arange(n), (n, n, n)).astype(np.float64)
    mask = np.zeros((n, n, n), bool)
    mask[low:high, low:high, low:high] = True
    return dose, mask


def error_of(key, dose, mask, prescription_gy=None):
    (box,) = roi_boxes(pack(mask[None]), 1)
    metric = Metric.parse(key)
    given = {"voxel_volume_cc": SPACING_MM**3 / 1000, "prescription_gy": prescription_gy}
    value = evaluate(metric, dose[mask], **given)
    return mask_error(metric, value, roi_surface(dose, mask[box], box), VoxelDoses(np.sort(dose[mask]), **given))


@pytest.mark.parametrize("key", ["D95%", "D98%", "D50%", "D2%", "Dmin", "Dmax", "D0.1cc"])
def test_a_dose_metric_on_a_ramp_is_off_by_half_a_voxel_of_it(key):
    dose, mask = box_in_ramp()
    assert error_of(key, dose, mask) == pytest.approx(0.5 * SPACING_MM * GRADIENT_GY_MM)


def test_volumes_homogeneity_and_mean():
    dose, mask = box_in_ramp()  # 8 layers from 10 to 27.5 Gy
    # layers within 1.25 Gy of 20.5 Gy: one of eight, counted in one direction
    assert error_of("V20.5Gy", dose, mask) == pytest.approx(100 / 8 / 2)
    assert error_of("V20.5Gy[cc]", dose, mask) == pytest.approx(64 * SPACING_MM**3 / 1000 / 2)
    assert error_of("V50%", dose, mask, 41.0) == pytest.approx(100 / 8 / 2)
    d2, d98, d50 = 27.5, 10.0, 20.0  # (of 512 voxels in eight layers)
    assert error_of("HI", dose, mask) == pytest.approx(1.25 * (2 + (d2 - d98) / d50) / d50)
    assert error_of("gEUD8", dose, mask) is None
    # the surface of a cube in a ramp has the mean dose of the cube; that of a hot core does not
    assert error_of("Dmean", dose, mask) == pytest.approx(0.0, abs=1e-9)
    core = np.where(np.pad(np.ones((6, 6, 6), bool), 5), 60.0, 50.0)
    assert error_of("Dmean", core, mask) == pytest.approx(0.5 * 296 / 512 * (core[mask].mean() - 50.0))


def test_a_uniform_dose_has_no_mask_error():
    _, mask = box_in_ramp()
    assert error_of("D95%", np.full(mask.shape, 50.0), mask) == 0.0


def test_what_half_a_voxel_does_to_a_sphere_is_near_the_estimate():
    """A sphere of 30 mm in a ramp of 1 Gy/mm: its D95% as drawn and half a voxel larger or smaller."""
    n, radius_mm = 24, 15.0
    axis = SPACING_MM * (np.arange(n) - (n - 1) / 2)
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    dose = np.broadcast_to(50.0 + axis, r.shape).astype(np.float64)
    d95 = [np.percentile(dose[r <= radius_mm + shift], 5) for shift in (-SPACING_MM / 2, SPACING_MM / 2)]
    assert error_of("D95%", dose, r <= radius_mm) == pytest.approx(abs(d95[1] - d95[0]) / 2, rel=0.4)


def test_the_border_of_the_grid_is_no_surface():
    dose, mask = box_in_ramp(n=8, low=0, high=8)
    assert roi_surface(dose, mask, (slice(0, 8),) * 3) is None
    assert error_of("D95%", dose, mask) == 0.0
    mask[:, :, 4:] = False
    surface = roi_surface(dose, mask[:, :, :4], (slice(0, 8), slice(0, 8), slice(0, 4)))
    assert surface is not None
    assert surface.dose_gy.tolist() == [7.5] * 64


def test_surface_voxels_are_those_with_a_face_outside():
    rng = np.random.default_rng(0)
    mask = rng.random((6, 7, 8)) < 0.7
    dose = rng.random(mask.shape)
    (box,) = roi_boxes(pack(mask[None]), 1)
    expected = []
    for place in zip(*np.nonzero(mask), strict=True):
        for axis in range(3):
            for step in (-1, 1):
                at = list(place)
                at[axis] += step
                if 0 <= at[axis] < mask.shape[axis] and not mask[tuple(at)]:
                    expected.append(place)
    surface = roi_surface(dose, mask[box], box)
    assert sorted(surface.dose_gy) == sorted(dose[place] for place in set(expected))


def test_boxes_are_tight_and_empty_rois_have_none():
    masks = np.zeros((3, 5, 6, 7), bool)
    masks[0, 1:3, 2:5, 3:4] = True
    masks[2, 4, 5, 6] = True
    assert roi_boxes(pack(masks), 3) == [
        (slice(1, 3), slice(2, 5), slice(3, 4)),
        None,
        (slice(4, 5), slice(5, 6), slice(6, 7)),
    ]
