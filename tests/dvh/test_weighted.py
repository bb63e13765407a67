"""Weighted metrics: equal volumes give the voxel metrics, a volume counts as often as it is large."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_nnunet.dvh import Metric
from cdm_nnunet.dvh.values import evaluate_all, evaluate_weighted
from cdm_nnunet.errors import InputError

KEYS = (
    "D95%",
    "D2%",
    "D40%",
    "DC2%",
    "Dmean",
    "Dmin",
    "Dmax",
    "V20Gy",
    "V95%",
    "V20Gy[cc]",
    "V95%[cc]",
    "CV20Gy",
    "CV95%[cc]",
    "Volume[cc]",
    "gEUD8",
    "HI",
)
METRICS = [Metric.parse(key) for key in KEYS]


@given(
    st.lists(st.floats(1.0, 80.0), min_size=1, max_size=40),
    st.floats(0.001, 0.5),
)
def test_equal_volumes_give_the_metrics_of_voxels(doses, voxel_cc):
    dose_gy = np.array(doses)
    values = evaluate_weighted(METRICS, dose_gy, np.full(dose_gy.size, voxel_cc), prescription_gy=60.0)
    expected = evaluate_all(METRICS, dose_gy, voxel_volume_cc=voxel_cc, prescription_gy=60.0)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


@given(st.lists(st.tuples(st.floats(0.0, 80.0), st.integers(1, 4)), min_size=2, max_size=20))
def test_a_volume_counts_as_often_as_it_is_large(samples):
    dose_gy, counts = (np.array(column, float) for column in zip(*samples, strict=True))
    metrics = [Metric.parse(key) for key in ("Dmean", "V20Gy", "V20Gy[cc]", "gEUD2")]
    whole = evaluate_weighted(metrics, dose_gy, 0.1 * counts)
    split = evaluate_weighted(metrics, np.repeat(dose_gy, counts.astype(int)), np.full(int(counts.sum()), 0.1))
    np.testing.assert_allclose(whole, split, rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(1.0, 80.0), min_size=1, max_size=40), st.floats(0.001, 0.5), st.floats(0.0005, 5.0))
def test_equal_volumes_give_the_dose_at_a_volume_of_voxels(doses, voxel_cc, x_cc):
    if x_cc > len(doses) * voxel_cc:
        return
    metrics = [Metric("dose_at_cc", x_cc), Metric("cold_dose_at_cc", x_cc)]
    values = evaluate_weighted(metrics, np.array(doses), np.full(len(doses), voxel_cc))
    assert values == evaluate_all(metrics, np.array(doses), voxel_volume_cc=voxel_cc)


samples = st.lists(st.tuples(st.floats(1.0, 80.0), st.floats(0.01, 2.0)), min_size=1, max_size=20)


@given(samples, st.floats(0.01, 0.999))
def test_d_and_v_are_inverse_of_each_other(samples, share):
    dose_gy, volumes_cc = (np.array(column) for column in zip(*samples, strict=True))
    x_cc = share * float(volumes_cc.sum())
    (d_gy,) = evaluate_weighted([Metric("dose_at_cc", x_cc)], dose_gy, volumes_cc)
    reached, above = (Metric("cc_at_gy", level) for level in (d_gy, d_gy + 1e-9))
    found = evaluate_weighted([reached, above], dose_gy, volumes_cc)
    assert found[0] >= x_cc * (1 - 2e-6)
    assert found[1] <= x_cc * (1 + 1e-9)
    (d_gy,) = evaluate_weighted([Metric("dose_at_percent", 100 * share)], dose_gy, volumes_cc)
    reached, above = (Metric("volume_at_gy", level) for level in (d_gy, d_gy + 1e-9))
    found = evaluate_weighted([reached, above], dose_gy, volumes_cc)
    assert found[0] >= 100 * share * (1 - 1e-8)
    assert found[1] <= 100 * share * (1 + 1e-8)


def test_quantiles_of_a_ramp_with_uneven_samples():
    edges = np.sort(np.random.default_rng(0).uniform(0, 100, 20001))
    dose_gy, volumes_cc = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    metrics = [Metric.parse(key) for key in ("D95%", "D2%", "D10cc")]
    np.testing.assert_allclose(evaluate_weighted(metrics, dose_gy, volumes_cc), [5.0, 98.0, 90.0], atol=0.02)


@pytest.mark.parametrize(
    ("key", "dose_gy", "volumes_cc", "message"),
    [
        ("Dmean", [1.0, 2.0], [1.0, 0.0], "expected 2 sample volumes above zero"),
        ("Dmean", [1.0, 2.0], [1.0], "expected 2 sample volumes"),
        ("Dmean", [], [], "the ROI is empty"),
        ("V95%", [1.0], [1.0], "the ROI has none"),
        ("D1cc[openkbp]", [1.0], [1.0], "counts voxels, and there are none"),
        ("D95%[openkbp]", [1.0], [1.0], "counts voxels, and there are none"),
        ("D2cc", [1.0, 2.0], [0.5, 1.0], "D2cc is not defined: the ROI has 1.5 cc, less than 2 cc"),
        ("HI", [0.0, 0.0], [1.0, 1.0], "HI divides by D50%"),
        ("gEUD2", [-1.0, 1.0], [1.0, 1.0], "not defined for negative doses"),
    ],
)
def test_what_has_no_value_is_refused(key, dose_gy, volumes_cc, message):
    with pytest.raises(InputError, match=message):
        evaluate_weighted([Metric.parse(key)], np.array(dose_gy, float), np.array(volumes_cc, float))
