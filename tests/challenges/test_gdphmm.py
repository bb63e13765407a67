"""The two errors of the challenge against a plain loop over voxels, and on cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdm_nnunet.challenges.gdphmm import gdphmm_error
from cdm_nnunet.errors import InputError

SHAPE = (3, 4, 5)
doses = arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 4.9, 5.0, 5.1, 20.0, 70.0]))


def by_voxel(reference_gy, predicted_gy, body):
    total, n_either, n_reference = 0.0, 0, 0
    for index in np.ndindex(reference_gy.shape):
        if not body[index]:
            continue
        reference, predicted = float(reference_gy[index]), float(predicted_gy[index])
        if reference > 5 or predicted > 5:
            total += abs(reference - predicted)
            n_either += 1
        if reference > 5:
            n_reference += 1
    return total / n_either, total / n_reference


@given(doses, doses, arrays(np.bool_, SHAPE))
def test_errors_are_those_of_a_loop_over_voxels(reference_gy, predicted_gy, body):
    reference_gy[0, 0, 0], body[0, 0, 0] = 60.0, True
    found = gdphmm_error(reference_gy, predicted_gy, body)
    assert found == pytest.approx(by_voxel(reference_gy, predicted_gy, body), rel=1e-12)
    assert found.leaderboard_mae_gy >= found.example_mae_gy


def test_dose_where_there_should_be_none_costs_more_on_the_leaderboard():
    reference_gy = np.array([60.0, 60.0, 0.0, 0.0])
    body = np.ones(4, bool)
    assert gdphmm_error(reference_gy, np.array([58.0, 60.0, 0.0, 0.0]), body) == (1.0, 1.0)
    assert gdphmm_error(reference_gy, np.array([60.0, 60.0, 8.0, 0.0]), body) == (8 / 3, 4.0)
    assert gdphmm_error(reference_gy, np.array([60.0, 60.0, 5.0, 0.0]), body) == (0.0, 0.0)  # 5 Gy are not above 5 Gy
    assert gdphmm_error(reference_gy, np.array([60.0, 60.0, 8.0, 0.0]), np.array([1, 1, 0, 1])) == (0.0, 0.0)


def test_unusable_input_is_refused():
    dose_gy, mask = np.full(4, 60.0), np.ones(4, bool)
    with pytest.raises(InputError, match=r"on different grids: \(4,\), \(3,\) and \(4,\)"):
        gdphmm_error(dose_gy, dose_gy[:3], mask)
    with pytest.raises(InputError, match="a dose is not finite"):
        gdphmm_error(dose_gy, np.array([1.0, np.nan, 1.0, 1.0]), mask)
    with pytest.raises(InputError, match="more than 5 Gy of reference dose; is the dose in Gy"):
        gdphmm_error(dose_gy / 100, dose_gy, mask)
