import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.dvh import cumulative_dvh
from cdm_nnunet.report.curves import MAX_POINTS, drawn_curve


def height(drawn, dose_gy):
    """The polyline from the left: at a vertical piece its upper end."""
    right = np.searchsorted(drawn.dose_gy, dose_gy, side="left")
    if right == 0:
        return 100.0
    if right == drawn.dose_gy.size:
        return 0.0
    return float(np.interp(dose_gy, drawn.dose_gy[[right - 1, right]], drawn.volume_percent[[right - 1, right]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3]))
def test_the_stated_error_holds_everywhere(n, seed, share_without_dose):
    rng = np.random.default_rng(seed)
    dose_gy = rng.gamma(rng.uniform(0.5, 40), 1.5, n) * (rng.random(n) >= share_without_dose)
    curve = cumulative_dvh(dose_gy)
    drawn = drawn_curve(curve)
    assert drawn.dose_gy.size == drawn.volume_percent.size <= MAX_POINTS
    assert (drawn.dose_gy[0], drawn.volume_percent[0], drawn.volume_percent[-1]) == (0.0, 100.0, 0.0)
    assert (np.diff(drawn.dose_gy) >= 0).all()
    assert (np.diff(drawn.volume_percent) <= 0).all()
    for dose in rng.uniform(0, dose_gy.max() + 1, 30):
        if np.abs(curve.dose_gy - dose).min() > 2e-3:  # doses are rounded to 0.001 Gy
            steepest = np.abs(np.diff(drawn.volume_percent) / np.maximum(np.diff(drawn.dose_gy), 1e-3)).max(initial=0)
            slack = 2e-3 + 1e-3 * steepest
            assert abs(height(drawn, dose) - float(curve.volume_percent_at(dose))) <= drawn.max_error_percent + slack


def test_few_steps_are_kept_whole():
    drawn = drawn_curve(cumulative_dvh(np.arange(1.0, 100.0)))
    assert (drawn.dose_gy.size, drawn.max_error_percent) == (199, 0.0)


def test_more_points_are_nearer():
    curve = cumulative_dvh(np.random.default_rng(0).normal(60, 5, 20000).clip(0))
    errors = [drawn_curve(curve, n).max_error_percent for n in (20, 60, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] == pytest.approx(0.06, abs=0.05)
