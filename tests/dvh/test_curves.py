import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from cdm_nnunet.dvh import Metric, cumulative_dvh, dvh_distance_gy, evaluate
from cdm_nnunet.errors import InputError

doses = arrays(np.float32, st.integers(1, 50), elements=st.floats(0, 80, width=32))


def test_steps_of_a_small_roi():
    curve = cumulative_dvh(np.array([30.0, 10.0, 30.0, 20.0], np.float32))
    np.testing.assert_array_equal(curve.dose_gy, [10, 20, 30])
    np.testing.assert_array_equal(curve.volume_percent, [100, 75, 50])
    np.testing.assert_array_equal(
        curve.volume_percent_at(np.array([0, 10, 10.5, 20, 30, 30.001])), [100, 100, 75, 75, 50, 0]
    )


@given(doses, st.floats(0.001, 90))
def test_curve_holds_every_v_metric(dose_gy, at_gy):
    at_gy = float(np.float32(at_gy))  # (a float64 threshold between two float32 doses is tested by the metric itself)
    expected = evaluate(Metric("volume_at_gy", at_gy), dose_gy, voxel_volume_cc=1.0)
    assert float(cumulative_dvh(dose_gy).volume_percent_at(at_gy)) == pytest.approx(expected, abs=1e-9)


@given(doses)
def test_area_under_the_curve_is_the_mean_dose(dose_gy):
    curve = cumulative_dvh(dose_gy)
    widths = np.diff(curve.dose_gy, prepend=0.0)
    assert widths @ curve.volume_percent / 100 == pytest.approx(dose_gy.mean(dtype=np.float64), abs=1e-9)


@given(doses)
def test_curve_falls_from_100_percent(dose_gy):
    curve = cumulative_dvh(dose_gy)
    assert curve.volume_percent[0] == 100.0
    assert (np.diff(curve.volume_percent) < 0).all()
    assert (np.diff(curve.dose_gy) > 0).all()
    assert float(curve.volume_percent_at(dose_gy.max())) > 0
    assert float(curve.volume_percent_at(np.nextafter(float(dose_gy.max()), 1e9))) == 0


def test_no_curve_of_nothing():
    with pytest.raises(InputError, match="the ROI is empty"):
        cumulative_dvh(np.array([]))


@given(doses, doses)
def test_distance_is_the_area_between_the_curves(first_gy, second_gy):
    first, second = cumulative_dvh(first_gy), cumulative_dvh(second_gy)
    edges_gy = np.unique(np.concatenate(([0.0], first.dose_gy, second.dose_gy)))
    gap = np.abs(first.volume_percent_at(edges_gy[1:]) - second.volume_percent_at(edges_gy[1:])) / 100
    assert dvh_distance_gy(first_gy, second_gy) == pytest.approx(gap @ np.diff(edges_gy), abs=1e-9)


@given(doses, doses)
def test_distance_agrees_with_scipy(first_gy, second_gy):
    expected = wasserstein_distance(first_gy.astype(np.float64), second_gy.astype(np.float64))
    assert dvh_distance_gy(first_gy, second_gy) == pytest.approx(expected, abs=1e-9)


@given(doses, st.floats(-5, 5), st.integers(2, 4))
def test_distance_of_a_shifted_and_of_a_finer_roi(dose_gy, shift_gy, copies):
    dose_gy = dose_gy.astype(np.float64)
    assert dvh_distance_gy(dose_gy, dose_gy + shift_gy) == pytest.approx(abs(shift_gy), abs=1e-9)
    assert dvh_distance_gy(dose_gy, np.repeat(dose_gy, copies)) == pytest.approx(0, abs=1e-9)


def test_no_distance_to_nothing():
    with pytest.raises(InputError, match="the ROI is empty"):
        dvh_distance_gy(np.array([1.0]), np.array([]))
