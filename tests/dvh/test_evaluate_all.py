import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdm_nnunet.dvh import Metric, evaluate_all
from cdm_nnunet.errors import InputError

PERCENTS = (100.0, 98.0, 95.0, 50.0, 12.5, 2.0, 0.0)
LEVELS_GY = (0.5, 20.0, 66.5)


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 80, width=32)))
def test_values_are_those_of_numpy_on_unsorted_doses(dose_gy):
    metrics = [Metric("dose_at_percent", percent, "openkbp") for percent in PERCENTS]
    metrics += [Metric("volume_at_gy", level_gy) for level_gy in LEVELS_GY]
    metrics += [
        Metric.parse(key) for key in ("Dmean", "Dmin", "Dmax", "D0.02cc[openkbp]", "V70%", "V20Gy[cc]", "gEUD2")
    ]
    found = evaluate_all(metrics, dose_gy, voxel_volume_cc=0.01, prescription_gy=60.0)
    exact_gy = dose_gy.astype(np.float64)
    n = dose_gy.size
    expected = [np.quantile(exact_gy, 1 - percent / 100) for percent in PERCENTS]
    expected += [100 * np.mean(dose_gy >= np.float32(level_gy)) for level_gy in LEVELS_GY]
    expected += [exact_gy.mean(), exact_gy.min(), exact_gy.max(), np.quantile(exact_gy, 1 - min(2, n) / n)]
    expected += [100 * np.mean(dose_gy >= 42), 0.01 * np.sum(dose_gy >= 20), np.sqrt(np.mean(exact_gy**2))]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_no_metrics_no_values():
    assert evaluate_all([], np.array([1.0]), voxel_volume_cc=1.0) == ()


def test_one_metric_that_cannot_be_had_is_an_error():
    metrics = [Metric.parse("Dmean"), Metric.parse("V95%")]
    with pytest.raises(InputError, match="V95% is a percentage of the prescription, and the ROI has none"):
        evaluate_all(metrics, np.array([1.0]), voxel_volume_cc=1.0)


def test_the_doses_are_left_as_they_were():
    dose_gy = np.array([3.0, 1.0, 2.0])
    evaluate_all([Metric.parse("Dmax")], dose_gy, voxel_volume_cc=1.0)
    np.testing.assert_array_equal(dose_gy, [3.0, 1.0, 2.0])
