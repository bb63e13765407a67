import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.gamma import gamma_passes


def passes(reference, predicted, spacing_mm=(2.0, 2.0, 2.0), dose_percent=3.0, distance_mm=3.0, scale_gy=60.0, **how):
    return gamma_passes(
        reference,
        predicted,
        spacing_mm=spacing_mm,
        dose_percent=dose_percent,
        distance_mm=distance_mm,
        scale_gy=scale_gy,
        **how,
    )


def ramp(n, step_gy, axis, from_gy=10.0):
    shape = [1, 1, 1]
    shape[axis] = n
    return np.broadcast_to((from_gy + step_gy * np.arange(n)).reshape(shape), (n, n, n)).astype(np.float64)


def doses(seed, shape=(8, 9, 8), error_gy=2.5):
    rng = np.random.default_rng(seed)
    reference = 60 * gaussian_filter(rng.random(shape), 2.5, mode="nearest")
    reference = 60 * (reference - reference.min()) / np.ptp(reference)
    noise = gaussian_filter(rng.normal(size=shape), 1.5)
    return reference, (reference + error_gy * noise / noise.std()).clip(0)


@pytest.mark.parametrize(
    ("spacing_mm", "criterion", "local"),
    [((2.5, 3.9, 3.9), (3.0, 3.0), False), ((2.5, 3.9, 3.9), (2.0, 2.0), True), ((2.0, 1.5, 3.0), (2.0, 2.0), False)],
)
def test_it_agrees_with_pymedphys(spacing_mm, criterion, local):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that pymedphys imports
        from pymedphys import gamma

        reference, predicted = doses(1)
        axes = tuple(np.arange(n) * step for n, step in zip(reference.shape, spacing_mm, strict=True))
        theirs = gamma(
            axes,
            reference,
            axes,
            predicted,
            *criterion,
            lower_percent_dose_cutoff=10,
            interp_fraction=10,
            max_gamma=1.05,
            local_gamma=local,
            global_normalisation=60.0,
            interp_algo="scipy",
        )
    judged = np.isfinite(theirs)
    ours = passes(reference, predicted, spacing_mm, *criterion, local=local)
    assert ours.size == judged.sum() == np.count_nonzero(reference >= 6)
    assert 0.3 < ours.mean() < 0.98  # the doses are apart enough to tell
    # both try points, not the same ones: they may differ only where gamma is 1 to within what that is worth
    differ = ours != (theirs[judged] <= 1)
    assert differ.mean() < 0.05
    assert np.abs(theirs[judged][differ] - 1).max(initial=0) < 0.05


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("gradient_gy_mm", [0.3, 1.0, 2.7, 5.0])
@pytest.mark.parametrize("error_gy", [0.0, 1.0, 1.95, 2.6, 3.4, 4.2, 6.0, 9.0, 14.0, 16.0])
def test_on_a_ramp_gamma_has_a_closed_form(gradient_gy_mm, error_gy, axis):
    """Min over x of x^2 / D^2 + (e - g x)^2 / T^2 is e^2 / (T^2 + g^2 D^2)."""
    spacing_mm = [1.9, 1.9, 1.9]
    spacing_mm[axis] = 2.6
    reference = ramp(7, gradient_gy_mm * 2.6, axis, 20.0)
    gamma = error_gy / np.hypot(1.8, gradient_gy_mm * 3.0)
    middle = passes(reference, reference + error_gy, tuple(spacing_mm)).reshape(reference.shape)[3, 3, 3]
    if abs(gamma - 1) > 0.02:
        assert middle == (gamma < 1)


def test_local_and_global_tolerance_and_the_threshold():
    reference = np.full((3, 3, 3), 20.0)
    reference[0] = 5.9  # below 10 % of 60 Gy
    reference[1] = 6.0
    for error_gy, expected in ((0.15, (1, 1)), (0.5, (0, 1)), (1.79, (0, 0)), (1.81, (0, 0))):
        local = passes(reference, reference + error_gy, (50.0, 50.0, 50.0), local=True)
        assert (local[0], local[-1]) == expected
        globally = passes(reference, reference + error_gy, (50.0, 50.0, 50.0))
        assert globally.all() == (error_gy < 1.8)
        assert globally.size == local.size == 18


def test_a_float32_error_of_exactly_the_criterion_passes():
    reference = np.full((2, 2, 2), 61.7, np.float32)
    assert passes(reference, reference + np.float32(1.8)).all()


def test_nothing_to_judge_and_bad_criteria():
    assert passes(np.zeros((3, 3, 3)), np.ones((3, 3, 3))).size == 0
    with pytest.raises(InputError, match=r"above zero, not 0 %, 3 mm and a dose scale of 60 Gy"):
        passes(np.ones((3, 3, 3)), np.ones((3, 3, 3)), dose_percent=0.0)


def test_points_beyond_the_grid_are_not_tried():
    # 4 Gy/mm upwards: 10 Gy too hot is made good 2.5 mm below, which the lowest plane has not
    reference = ramp(6, 8.0, 0, 20.0)
    result = passes(reference, reference + 10.0).reshape(reference.shape)
    assert not result[0].any()
    assert result[2:].all()
