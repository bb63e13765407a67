import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.errors import InputError

VOXEL_CC = 0.04
GEUD_KEYS = ("gEUD8", "gEUD-10", "gEUD0.5")
DOSE_KEYS = (
    "D99%",
    "D95%",
    "D50%",
    "D2%",
    "DC2%",
    "D95%[openkbp]",
    "D0.1cc[openkbp]",
    "Dmean",
    "Dmin",
    "Dmax",
    *GEUD_KEYS,
)
RISING_KEYS = (*DOSE_KEYS, "V20Gy", "V95%", "V20Gy[cc]", "V95%[cc]")
KEYS = (*RISING_KEYS, "CV20Gy", "CV95%[cc]", "Volume[cc]")
doses = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 80).map(lambda d: round(d, 3)))


def value(key, dose_gy, **kwargs):
    return evaluate(Metric.parse(key), dose_gy, **{"voxel_volume_cc": VOXEL_CC, "prescription_gy": 60.0, **kwargs})


@pytest.mark.parametrize("key", DOSE_KEYS)
def test_uniform_dose_is_every_dose_metric(key):
    assert value(key, np.full(137, 42.5)) == pytest.approx(42.5, abs=1e-12)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("D95%", 5.0),
        ("D50%", 50.0),
        ("D2%", 98.0),
        ("D100%", 0.0),
        ("D0%", 100.0),
        ("Dmean", 50.0),
        ("Dmin", 0.0),
        ("Dmax", 100.0),
        ("V20Gy", 100 * 801 / 1001),  # the voxel at exactly 20 Gy counts
        ("V20.05Gy", 100 * 800 / 1001),
        ("V95%", 100 * 431 / 1001),  # 57 Gy and above
        ("D4cc", 100.1 - 10),  # the hottest 100 of 1001 voxels of 0.04 cc
        ("D4000mm3", 100.1 - 10),
        ("D4.004cc", 90.0),  # a tenth of them, 100.1 voxels: 101 hold as much
        ("D95%[openkbp]", 5.0),
        ("D4.004cc[openkbp]", 100 * (1 - 100 / 1001)),
        ("DC4cc", 9.9),
        ("DC5%", 5.0),
        ("CV20Gy", 100 * 200 / 1001),  # the voxel at exactly 20 Gy does not count
        ("CV95%", 100 * 570 / 1001),
        ("CV20Gy[cc]", 200 * VOXEL_CC),
        ("CV95%[cc]", 570 * VOXEL_CC),
        ("Volume[cc]", 1001 * VOXEL_CC),
        ("V20Gy[cc]", 801 * VOXEL_CC),
        ("V95%[cc]", 431 * VOXEL_CC),
        ("gEUD1", 50.0),
        ("gEUD2", 100 * math.sqrt(2001 / 6000)),  # mean of squares of 0..n: n (2n + 1) / 6
        ("gEUD-3", 0.0),  # a voxel without dose
        ("HI", (98 - 2) / 50),
    ],
)
def test_linear_ramp_from_0_to_100_gy(key, expected):
    ramp = np.round(np.arange(1001) * 0.1, 6)
    assert value(key, np.random.default_rng(1).permutation(ramp)) == pytest.approx(expected, abs=1e-9)


def test_sphere_in_a_gradient_has_the_dvh_of_a_ball():
    # dose = 50 + z Gy in a ball of 30 voxels radius: the volume above the plane z = h is a spherical cap
    radius = 30
    z, y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    dose_gy = (50.0 + z)[z**2 + y**2 + x**2 <= radius**2]
    h = 9.5  # a face between two layers of voxels
    cap_percent = 100 * (2 * radius**3 - 3 * radius**2 * h + h**3) / (4 * radius**3)
    assert value("V59.5Gy", dose_gy) == pytest.approx(cap_percent, abs=0.2)
    assert value(f"D{cap_percent:.4f}%", dose_gy) == pytest.approx(59.5, abs=0.5)
    assert value("Dmean", dose_gy) == pytest.approx(50.0, abs=1e-9)


def test_openkbp_counts_as_its_evaluator_does():
    rng = np.random.default_rng(3)
    for n in (1, 2, 3, 14, 1000):
        dose_gy = rng.gamma(3, 15, n)
        for x in (99, 98, 95, 50, 2, 1):
            assert value(f"D{x}%[openkbp]", dose_gy) == pytest.approx(np.percentile(dose_gy, 100 - x), abs=1e-9)
        voxel_mm3 = 38.2
        k = max(1, round(100 / voxel_mm3))
        expected = np.percentile(dose_gy, max(0.0, 100 - 100 * k / n))
        openkbp = value("D0.1cc[openkbp]", dose_gy, voxel_volume_cc=voxel_mm3 / 1000)
        assert openkbp == pytest.approx(expected, abs=1e-9)


def test_d_of_the_hottest_voxels_is_the_dose_of_the_last_of_them():
    dose_gy = np.arange(100.0)
    assert value("D0.1cc", dose_gy) == 97.0  # 0.1 cc are 2.5 voxels, and three hold as much
    assert value("D0.04cc", dose_gy) == 99.0  # one voxel: the hottest, not the next one
    assert value("D0.1cc[openkbp]", dose_gy) == pytest.approx(0.98 * 99, abs=1e-9)


def test_a_single_hot_voxel_that_holds_the_volume_is_the_near_maximum():
    """As in a real brainstem: 0.062 cc at 38.6 Gy, the next voxel at 33.9 Gy."""
    dose_gy = np.concatenate([np.linspace(2.0, 33.9, 400), [38.6]])
    assert value("D0.03cc", dose_gy, voxel_volume_cc=0.062) == 38.6
    assert value("V38Gy[cc]", dose_gy, voxel_volume_cc=0.062) == 0.062
    assert value("D0.1cc", dose_gy, voxel_volume_cc=0.062) == 33.9


def test_an_roi_smaller_than_x_has_no_d_at_x():
    dose_gy = np.linspace(26.6, 53.4, 4)  # 0.02 cc
    for key in ("D0.03cc", "DC0.03cc"):
        with pytest.raises(InputError, match=f"{key} is not defined: the ROI has 0.02 cc, less than 0.03 cc"):
            value(key, dose_gy, voxel_volume_cc=0.005)
    assert value("D0.02cc", dose_gy, voxel_volume_cc=0.005) == 26.6


def test_float32_doses_of_exactly_the_threshold_count():
    # 95 % of 63 Gy is 59.85 Gy, which float32 cannot hold exactly
    assert value("V95%", np.full(5, 59.85, np.float32), prescription_gy=63.0) == 100.0


def test_float32_doses_are_evaluated_in_float64():
    dose_gy = np.array([1.0, 1.0 + 2.0**-23], np.float32)
    assert value("D50%[openkbp]", dose_gy) == 1.0 + 2.0**-24
    assert value("Dmean", dose_gy) == 1.0 + 2.0**-24


@given(doses, st.randoms(use_true_random=False), st.sampled_from(KEYS))
def test_order_of_voxels_does_not_matter(dose_gy, random, key):
    shuffled = dose_gy.tolist()
    random.shuffle(shuffled)
    assert value(key, np.array(shuffled)) == pytest.approx(value(key, dose_gy), rel=1e-12, abs=1e-12)


@given(doses, st.sampled_from(DOSE_KEYS), st.floats(0.1, 10))
def test_dose_metrics_scale_with_the_dose(dose_gy, key, factor):
    assert value(key, factor * dose_gy) == pytest.approx(factor * value(key, dose_gy), rel=1e-9, abs=1e-9)


@given(doses, st.floats(0.1, 10))
def test_volume_of_a_prescription_is_free_of_scale(dose_gy, factor):
    below = np.abs(dose_gy - 57.0) > 1e-6  # (a voxel at the threshold may fall to either side by rounding)
    if below.any():
        scaled = value("V95%", factor * dose_gy[below], prescription_gy=factor * 60.0)
        assert scaled == value("V95%", dose_gy[below], prescription_gy=60.0)


@given(doses, st.data(), st.sampled_from(RISING_KEYS))
def test_more_dose_never_lowers_a_metric(dose_gy, data, key):
    more_gy = dose_gy + data.draw(arrays(np.float64, dose_gy.shape, elements=st.floats(0, 10)))
    assert value(key, more_gy) >= value(key, dose_gy) - 1e-9


@given(doses, st.floats(0, 100), st.floats(0, 100))
def test_a_smaller_volume_gets_at_least_the_dose_of_a_larger(dose_gy, a, b):
    small, large = sorted((a, b))
    hot, cold = value(f"D{small:.6f}%", dose_gy), value(f"D{large:.6f}%", dose_gy)
    assert value("Dmax", dose_gy) >= hot - 1e-9
    assert hot >= cold - 1e-9
    assert cold >= value("Dmin", dose_gy) - 1e-9


@given(doses, st.sampled_from(KEYS))
def test_every_voxel_twice_hardly_moves_a_volume(dose_gy, key):
    if ("V" in key and "cc" not in key) or key in ("Dmean", "Dmin", "Dmax", *GEUD_KEYS):
        assert value(key, np.repeat(dose_gy, 2)) == pytest.approx(value(key, dose_gy), abs=1e-9)


@given(doses.map(lambda d: d + 1.0))
def test_geud_rises_with_its_exponent_from_the_minimum_to_the_maximum(dose_gy):
    values = [value(f"gEUD{a}", dose_gy) for a in (-400, -10, -1, 0.5, 1, 2, 10, 400)]
    assert values == sorted(values) or np.allclose(values, sorted(values), rtol=1e-12)
    assert values[0] == pytest.approx(dose_gy.min(), rel=math.log(60) / 400 * 1.1)
    assert values[-1] == pytest.approx(dose_gy.max(), rel=math.log(60) / 400 * 1.1)


@pytest.mark.parametrize("dose_gy", [1e-3, 70.0, 7000.0])
@pytest.mark.parametrize("a", [-1000, -100, 100, 1000])
def test_powers_do_not_overflow(a, dose_gy):
    doses_gy = np.full(50, dose_gy, np.float32)
    doses_gy[::2] *= 2
    expected = dose_gy * (2 if a > 0 else 1) * 0.5 ** (1 / a)
    assert value(f"gEUD{a}", doses_gy) == pytest.approx(expected, rel=1e-6)


def test_geud_of_no_dose_is_zero():
    for a in (-10, 0.5, 8):
        assert value(f"gEUD{a}", np.zeros(5)) == 0.0
    assert value("gEUD8", np.array([0.0, 60.0])) == pytest.approx(60 * 0.5 ** (1 / 8))


@given(doses, st.floats(0.1, 10))
def test_the_homogeneity_index_is_free_of_scale(dose_gy, factor):
    if np.median(dose_gy) > 1e-3:
        assert value("HI", factor * dose_gy) == pytest.approx(value("HI", dose_gy), rel=1e-6, abs=1e-9)


percents = st.one_of(st.integers(0, 100).map(float), st.floats(0, 100))
voxel_volumes_cc = st.one_of(st.sampled_from([0.001, 0.008, 0.015625, 0.027, 0.1]), st.floats(0.001, 0.2))
volumes_cc = st.one_of(st.sampled_from([0.03, 0.035, 0.1, 0.27, 1.0]), st.floats(0.001, 5.0))
KIND_OF = {str(Metric(kind, 1.0)): kind for kind in ("dose_at_percent", "dose_at_cc", "cold_dose_at_cc", "cc_at_gy",
           "volume_at_gy", "cold_cc_at_gy", "cold_volume_at_gy")}  # fmt: skip


def at(word, x, unit, dose_gy, voxel_volume_cc=VOXEL_CC):
    return evaluate(Metric(KIND_OF[f"{word}1{unit}"], float(x)), dose_gy, voxel_volume_cc=voxel_volume_cc)


ROUNDING = 1e-6  # of x: tolerance of equal volumes


@given(doses, percents)
def test_d_and_v_are_inverse_of_each_other_in_percent(dose_gy, x):
    d_gy = at("D", x, "%", dose_gy)
    assert at("V", d_gy + 1e-9, "Gy", dose_gy) <= x
    assert not d_gy or at("V", d_gy, "Gy", dose_gy) >= x


@given(doses, volumes_cc, voxel_volumes_cc)
def test_d_and_v_are_inverse_of_each_other_in_cc(dose_gy, x_cc, voxel_cc):
    if x_cc > dose_gy.size * voxel_cc:
        return
    d_gy = at("D", x_cc, "cc", dose_gy, voxel_volume_cc=voxel_cc)
    assert at("V", d_gy + 1e-9, "Gy[cc]", dose_gy, voxel_volume_cc=voxel_cc) <= x_cc * (1 + ROUNDING)
    assert not d_gy or at("V", d_gy, "Gy[cc]", dose_gy, voxel_volume_cc=voxel_cc) >= x_cc * (1 - ROUNDING)


@given(doses, volumes_cc, voxel_volumes_cc)
def test_dc_and_cv_are_inverse_of_each_other(dose_gy, x_cc, voxel_cc):
    if x_cc > dose_gy.size * voxel_cc:
        return
    d_gy = at("DC", x_cc, "cc", dose_gy, voxel_volume_cc=voxel_cc)
    assert at("CV", d_gy + 1e-9, "Gy[cc]", dose_gy, voxel_volume_cc=voxel_cc) >= x_cc * (1 - ROUNDING)
    assert not d_gy or at("CV", d_gy, "Gy[cc]", dose_gy, voxel_volume_cc=voxel_cc) <= x_cc * (1 + ROUNDING)


@given(doses, st.floats(0.1, 80), percents)
def test_a_goal_in_d_and_the_same_goal_in_v_agree(dose_gy, limit_gy, x):
    """95 % of the prescription to 95 % of the volume: as D95% and as V95%."""
    assert (at("D", x, "%", dose_gy) >= limit_gy) == (at("V", limit_gy, "Gy", dose_gy) >= x) or x == 0


@given(doses, st.floats(0.1, 80))
def test_the_cold_part_is_the_rest(dose_gy, level_gy):
    hot, cold = at("V", level_gy, "Gy", dose_gy), at("CV", level_gy, "Gy", dose_gy)
    assert hot + cold == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize("radius_mm", [10, 15, 25])
def test_a_sphere_in_a_gradient_of_1_gy_per_mm_has_its_closed_form_to_half_a_voxel(radius_mm):
    """On 3 mm voxels, with the grid anywhere and the gradient in any direction; D_x is biased by under 0.25 Gy."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[3.0 * np.arange(-10, 11)] * 3, indexing="ij"))
    keys = {"D98%": 0.98, "D95%": 0.95, "D50%": 0.5, "D2%": 0.02, "D0.1cc": 0.1, "D0.27cc": 0.27, "D1cc": 1.0}
    ball_cc = 4 / 3 * math.pi * radius_mm**3 / 1000
    errors = {key: [] for key in keys}
    for _ in range(40):
        place = grid + 3 * rng.uniform(-0.5, 0.5, (3, 1, 1, 1))
        direction = rng.standard_normal(3)
        dose_gy = 50 + np.tensordot(direction / np.linalg.norm(direction), place, 1)
        inside = (place**2).sum(0) <= radius_mm**2
        for key, x in keys.items():
            heights = np.linspace(0, 2 * radius_mm, 20001)  # of the cap that is hotter
            cap_cc = math.pi * heights**2 * (3 * radius_mm - heights) / 3000
            cap_mm = np.interp(x if "cc" in key else x * ball_cc, cap_cc, heights)
            found = value(key, dose_gy[inside], voxel_volume_cc=0.027)
            errors[key].append(found - (50 + radius_mm - cap_mm))
    for key, error in errors.items():
        assert abs(np.mean(error)) < 0.25, key
        assert np.std(error) < 0.5, key


def test_nothing_is_invented():
    with pytest.raises(InputError, match="the ROI is empty: it has no DVH metrics and must be left out"):
        value("Dmean", np.array([]))
    with pytest.raises(InputError, match="1 of 3 voxel doses are not finite"):
        value("D2%", np.array([1.0, math.nan, 2.0]))
    with pytest.raises(InputError, match=r"floats of shape \(n,\), not float64 of shape \(2, 2\)"):
        value("Dmax", np.ones((2, 2)))
    with pytest.raises(InputError, match="not int64"):
        value("Dmax", np.array([1, 2]))
    with pytest.raises(InputError, match="HI divides by D50%, which is 0 Gy"):
        value("HI", np.array([0.0, 0.0, 50.0]))
    with pytest.raises(InputError, match="gEUD is not defined for negative doses, and the lowest is -1 Gy"):
        value("gEUD8", np.array([-1.0, 50.0]))
    with pytest.raises(InputError, match="percentage of the prescription"):
        value("V95%", np.ones(3), prescription_gy=None)


def test_a_masked_array_is_refused():
    with pytest.raises(InputError, match="a masked array; give only those of the ROI"):
        evaluate(Metric.parse("Dmean"), np.ma.array([1.0, 100.0], mask=[False, True]), voxel_volume_cc=0.027)
