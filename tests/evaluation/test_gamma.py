import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.gamma import GammaRule, gamma_passes


def passes(reference, predicted, spacing_mm=(2.0, 2.0, 2.0), dose_percent=3.0, distance_mm=3.0, scale_gy=60.0, **how):
    rule = GammaRule(dose_percent, distance_mm, **how)
    return gamma_passes(reference, predicted, rule, spacing_mm=spacing_mm, scale_gy=scale_gy)


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
    assert 0.3 < ours.mean() < 0.98  # the doses differ enough to distinguish
    # both try points, but different ones: they may differ only where gamma is 1 within the resulting error
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


def brute_force(reference, predicted, voxel, spacing_mm, tolerance_gy, distance_mm, steps=24):
    """Bounds of the smallest gamma of one voxel, from a lattice of so many steps a voxel in a ball of the criterion."""
    reach = np.ceil(distance_mm / np.array(spacing_mm)).astype(int)
    axes = [np.arange(-steps * n, steps * n + 1) / steps for n in reach]
    offset = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    at = offset + np.array(voxel)[:, None]
    far = np.sqrt(((offset * np.array(spacing_mm)[:, None]) ** 2).sum(0)) / distance_mm
    kept = ((at >= 0) & (at <= np.array(reference.shape)[:, None] - 1)).all(0)
    error_gy = np.abs(map_coordinates(predicted, at[:, kept], order=1) - reference[tuple(voxel)])
    highest = np.sqrt((error_gy / tolerance_gy) ** 2 + far[kept] ** 2)[far[kept] <= 1].min()
    # between two points the dose changes by no more than its largest steps from voxel to voxel do
    slack_gy = sum(np.abs(np.diff(predicted, axis=axis)).max() for axis in range(3)) / steps / 2
    slack = np.sqrt(sum(step**2 for step in spacing_mm)) / steps / 2 / distance_mm
    nearer = np.maximum(error_gy - slack_gy, 0) / tolerance_gy, np.maximum(far[kept] - slack, 0)
    return float(np.hypot(*nearer).min()), float(highest)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_crossing_inside_a_cell_is_missed(seed, local):
    """In gradients of some Gy/mm a dose passes through a tolerance of 0.2 to 0.6 Gy between two points."""
    rng = np.random.default_rng(seed)
    spacing_mm = (2.5, 3.0, 2.0)
    reference = 6.5 + 15 * rng.random((3, 4, 4))
    predicted = reference + rng.normal(6, 6, reference.shape)
    ours = passes(reference, predicted, spacing_mm, 3.0, 1.5, 60.0 if local else 10.0, local=local)
    assert ours.size == reference.size
    ours = ours.reshape(reference.shape)
    assert 0.2 < ours.mean() < 0.9
    for voxel in np.ndindex(reference.shape):
        tolerance_gy = 0.03 * reference[voxel] if local else 0.3
        lowest, highest = brute_force(reference, predicted, voxel, spacing_mm, tolerance_gy, 1.5)
        assert ours[voxel] or highest > 0.98, (voxel, highest)
        assert not ours[voxel] or lowest <= 1.0, (voxel, lowest)


def test_a_steep_crossing_between_two_lattice_points():
    """5 Gy of reference, 3 % of it, 10 Gy/mm: the dose passes through the tolerance in 0.03 mm."""
    reference = np.full((3, 3, 3), 5.0)
    predicted = np.broadcast_to(np.array([20.0, 5.0 + 8.7, 5.0 - 21.3]).reshape(3, 1, 1), (3, 3, 3))
    result = passes(reference, predicted, (3.0, 3.0, 3.0), scale_gy=20.0, local=True).reshape(reference.shape)
    assert result[1].all()  # 0.87 mm away: gamma is 0.29


def test_threshold_and_rules():
    reference = np.linspace(1.0, 60.0, 27).reshape(3, 3, 3)
    for percent in (5.0, 10.0, 50.0):
        judged = passes(reference, reference, threshold_percent=percent)
        assert judged.size == np.count_nonzero(reference >= percent * 0.6)
    assert GammaRule() == GammaRule(3.0, 2.0, False, 10.0, "prescription")  # AAPM TG-218
    for text in ("2%/1mm-local", "2/1 local", "2 % / 1 mm, LOCAL", "2%/1-Local"):
        assert GammaRule.parse(text, 5.0, "maximum") == GammaRule(2.0, 1.0, True, 5.0, "maximum")
    assert GammaRule.parse("3%/2mm-global") == GammaRule()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3mm/3%", "'3mm/3%' is not a gamma criterion; write '3%/2mm'"),
        ("3%", "is not a gamma criterion"),
        ("0%/2mm", "above 0 and at most 20 % and 20 mm, not 0 % and 2 mm"),
        ("3%/200mm", "not 3 % and 200 mm"),
        ("nan/2", "is not a gamma criterion"),
    ],
)
def test_what_is_no_rule_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        GammaRule.parse(text)
    for percent in (0.0, 100.0, -5.0, float("nan")):
        with pytest.raises(InputError, match="the threshold of gamma is above 0 and below 100 %"):
            GammaRule.parse("3%/2mm", percent)


def test_nothing_to_judge_and_bad_criteria():
    assert passes(np.zeros((3, 3, 3)), np.ones((3, 3, 3))).size == 0
    with pytest.raises(InputError, match=r"gamma needs a dose scale above zero, not 0 Gy"):
        passes(np.ones((3, 3, 3)), np.ones((3, 3, 3)), scale_gy=0.0)


def test_points_beyond_the_grid_are_not_tried():
    # 4 Gy/mm upwards: 10 Gy too hot is made good 2.5 mm below, which the lowest plane lacks
    reference = ramp(6, 8.0, 0, 20.0)
    result = passes(reference, reference + 10.0).reshape(reference.shape)
    assert not result[0].any()
    assert result[2:].all()
