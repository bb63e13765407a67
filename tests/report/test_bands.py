"""Bands of DVH curves over the cases of a cohort, against percentiles by hand."""

import gzip
import json

import numpy as np
import pytest

from cdm_nnunet.report.bands import cohort_bands, packed_bands


def step_at(dose_gy):
    """The curve of an ROI with one dose."""
    return [[0.0, dose_gy, dose_gy], [100.0, 100.0, 0.0]]


def cases(doses_gy, roi="Cord"):
    return [{roi: {"reference": step_at(d), "predicted": step_at(d / 2)}} for d in doses_gy]


def test_percentiles_of_the_volume_at_each_dose():
    ramps = [{"Cord": {"reference": [[0.0, 40.0 + k], [100.0, 0.0]], "predicted": step_at(10.0)}} for k in range(11)]
    found = cohort_bands(ramps, ["Cord"])
    low, middle, high = (np.array(level) / 10 for level in found["rois"]["Cord"]["volumes"]["reference"])
    dose_gy = found["step_gy"] * np.arange(low.size)
    by_case = np.array([np.interp(dose_gy, [0.0, 40.0 + k], [100.0, 0.0]) for k in range(11)])
    for level, shown in ((5, low), (50, middle), (95, high)):
        np.testing.assert_allclose(shown, np.percentile(by_case, level, axis=0), atol=0.051)
    assert dose_gy[-1] == 50.0  # (the longest curve ends there)
    assert found["rois"]["Cord"]["n"] == 11
    assert len(found["rois"]["Cord"]["volumes"]["predicted"][0]) == low.size


def test_rois_of_too_few_cases_are_left_out_and_order_is_that_of_the_template():
    many = [a | b for a, b in zip(cases(range(10, 16)), cases(range(20, 26), "PTV"), strict=True)]
    many[0] |= cases([5.0], "Rare")[0]
    assert list(cohort_bands(many, ["PTV", "Rare", "Cord"])["rois"]) == ["PTV", "Cord"]
    assert cohort_bands(many[:5], ["PTV", "Rare", "Cord"]) is None


def test_bands_are_small():
    rng = np.random.default_rng(0)
    rois = [f"ROI_{k}" for k in range(27)]
    curves = [
        {r: {d: [np.sort(rng.uniform(0, 75, 200)), np.linspace(100, 0, 200)] for d in ("reference", "predicted")}
         for r in rois} for _ in range(6)
    ]  # fmt: skip
    packed = packed_bands(cohort_bands(curves, rois))
    assert len(packed) < 60_000
    assert list(json.loads(gzip.decompress(packed))["rois"]) == rois


@pytest.mark.parametrize("dose_gy", [0.0, 0.2, 7.0])
def test_a_curve_that_ends_on_the_axis(dose_gy):
    found = cohort_bands(cases([dose_gy] * 6), ["Cord"])
    assert found["rois"]["Cord"]["volumes"]["reference"][1][-1] == 0 or dose_gy in (0.0, 7.0)
