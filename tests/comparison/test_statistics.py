"""The statistics against hand calculation, enumeration, and scipy used in another way."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test, t

from cdm_nnunet.comparison.statistics import (
    MIN_PATIENTS,
    holm,
    mean_interval,
    rank_biserial,
    ratio_interval,
    sign_flip,
    sign_flips,
    weighted_mean,
)

DIFFERENCES = st.lists(st.integers(-50, 50).map(lambda n: n / 8), min_size=1, max_size=8)


def flip(values, n_flips=999):
    return sign_flip(values, seed=0, n_flips=n_flips)


def p_by_enumeration(values):
    """Share of all sign flips with a sum at least as far from zero."""
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    return float(np.mean(np.abs(sums) >= abs(sum(values)) - 1e-9))


def test_sign_flips_by_hand():
    # 1 + 2 + 3 - 4 = 2; of the 16 sums 0 0 +-2 +-2 +-4 +-4 +-6 +-8 +-10, all but the two zeros are as far
    assert flip([1.0, 2.0, 3.0, -4.0]) == (14 / 16, "exact", 4)
    assert flip([1.0] * 6) == (2 / 2**6, "exact", 6)
    assert flip([0.0, 0.0]) == (1.0, "no patient differs", 0)
    assert flip([1.0, -1.0, 0.0]) == (1.0, "exact", 2)


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES)
def test_sign_flips_are_exact_with_ties_and_zeros(differences):
    test = flip(differences)
    assert test.p == pytest.approx(p_by_enumeration(differences), rel=1e-9)
    assert test.n_different == sum(d != 0 for d in differences)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 0), (7, 2), (3, 3), (0, 12), (20, 9)])
def test_sign_flips_of_one_case_a_patient_are_mcnemars_exact_test(gained, lost):
    wanted = binomtest(gained, gained + lost).pvalue
    assert flip([1.0] * gained + [-1.0] * lost).p == pytest.approx(wanted, rel=1e-9)


def test_ties_from_14_patients_on_are_exact():
    values = [0.5] * 12 + [-0.5] * 4 + [1.0, -1.5, 2.0, 2.0]
    found = permutation_test(
        (np.array(values),), np.mean, permutation_type="samples", n_resamples=2**20 + 1, alternative="two-sided"
    )
    assert flip(values) == (pytest.approx(found.pvalue, rel=1e-9), "exact", 20)


def test_many_patients_take_random_sign_flips_with_a_seed():
    rng = np.random.default_rng(3)
    values = rng.normal(0.3, 1.0, 40)
    test = flip(values, 99_999)
    assert test.method == "random sign flips"
    z = abs(values.sum()) / math.sqrt((values**2).sum())
    assert test.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)  # (the normal approximation)
    assert test == flip(values, 99_999)
    assert test != sign_flip(values, seed=1, n_flips=99_999)
    assert flip(np.ones(40)).p == 1 / 1000  # never below the resolution of the number of flips


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES, st.sampled_from([0.5, 3.0, 1000.0]))
def test_swapping_flips_the_effect_and_scaling_changes_nothing(differences, factor):
    swapped, scaled = [-d for d in differences], [factor * d for d in differences]
    assert flip(swapped).p == pytest.approx(flip(differences).p, rel=1e-9)
    assert flip(scaled).p == pytest.approx(flip(differences).p, rel=1e-9)
    effect = rank_biserial(differences)
    assert rank_biserial(scaled) == effect
    assert rank_biserial(swapped) == (None if effect is None else -effect)


def test_the_effect_is_that_of_the_ranks():
    # ranks 1 2 3 4 5 6 7 8, smaller rank sum 3
    assert rank_biserial([1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) == pytest.approx((36 - 2 * 3) / 36)
    assert rank_biserial([0.0, 0.0]) is None


def test_rounding_errors_are_no_differences():
    assert flip([0.1 + 0.2 - 0.3, -1e-16, 0.0]).n_different == 0
    assert flip([0.3, 0.1 + 0.2, -0.1, 0.5]) == flip([0.3, 0.3, -0.1, 0.5])


def test_holm_by_hand():
    # sorted 0.005, 0.011, 0.02, 0.04 times 4, 3, 2, 1 = 0.02, 0.033, 0.04, 0.04; they never fall
    assert holm([0.04, 0.005, 0.02, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_weighted_mean_is_the_mean_over_all_terms():
    terms = [[1.0, 2.0, 6.0], [5.0], [4.0, 8.0]]
    means, counts = [np.mean(terms_) for terms_ in terms], [len(terms_) for terms_ in terms]
    assert weighted_mean(means, counts) == pytest.approx(np.mean([x for terms_ in terms for x in terms_]), rel=1e-12)


def test_without_skewness_the_interval_is_students():
    values = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]) + 5.0
    half = t.ppf(0.975, 4) * values.std(ddof=1) / math.sqrt(6)
    assert mean_interval(values, np.ones(6)) == pytest.approx((5.0 - half, 5.0 + half))


def test_a_skewed_interval_reaches_farther_to_the_long_side():
    values = np.array([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 3.0])
    low, high = mean_interval(values, np.ones(8))
    assert high - values.mean() > 1.5 * (values.mean() - low)


def simulate(n, repeats, several, seed):
    """Sums and numbers of cases of patients whose differences are skewed, correlated and of mean zero."""
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        counts = rng.integers(1, 6, n) if several else np.ones(n, int)
        cases = (rng.exponential(1, (n, 5)) - 1 + 1.5 * (rng.exponential(1, (n, 1)) - 1)) * (
            np.arange(5) < counts[:, None]
        )
        yield cases.sum(axis=1), counts.astype(float)


@pytest.mark.parametrize(("n", "several"), [(6, False), (10, False), (10, True), (40, True)])
def test_intervals_and_tests_keep_what_is_said_of_them(n, several):
    """1000 comparisons without a true difference; binomial error 0.7 percentage points."""
    covered, rejected = [], []
    for sums, counts in simulate(n, 1000, several, n):
        low, high = mean_interval(sums / counts, counts)
        covered.append(low <= 0 <= high)
        rejected.append(flip(sums).p < 0.05)
    assert 0.915 <= np.mean(covered) <= 0.975
    assert 0.02 <= np.mean(rejected) <= 0.12


def test_cases_of_a_patient_are_no_more_patients():
    """Ten equal terms of each patient say no more than one."""
    values = np.random.default_rng(3).normal(0.0, 1.0, 20)
    assert mean_interval(values, np.full(20, 10.0)) == pytest.approx(mean_interval(values, np.ones(20)), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1, 2), min_size=6, max_size=9), st.sampled_from([0.25, 1.0, 8.0]))
def test_a_constant_ratio_has_a_point_as_interval(baseline, factor):
    errors = np.array(baseline)
    assert ratio_interval(factor * errors, errors) == pytest.approx((factor, factor), rel=1e-9)


def test_intervals_scale_and_flip_with_the_data():
    rng = np.random.default_rng(4)
    values, weights = rng.normal(0.3, 1.0, 15), rng.integers(1, 4, 15).astype(float)
    low, high = mean_interval(values, weights)
    assert low < weighted_mean(values, weights) < high
    assert mean_interval(4 * values, weights) == pytest.approx((4 * low, 4 * high))
    assert mean_interval(-values, weights) == pytest.approx((-high, -low))
    assert mean_interval(values + 7, weights) == pytest.approx((low + 7, high + 7))


def test_no_interval_where_there_can_be_none():
    few = np.arange(1.0, MIN_PATIENTS)
    assert mean_interval(few, np.ones(len(few))) is None
    assert ratio_interval(np.ones(12), np.eye(12)[0]) is None  # one patient with an error
    assert ratio_interval(np.ones(12), np.zeros(12)) is None
    assert mean_interval(np.arange(8.0), np.array([50.0, *[1.0] * 7])) is None  # one patient has nearly all terms
    assert mean_interval(np.zeros(8), np.ones(8)) == (0.0, 0.0)


def test_many_tests_at_once_are_each_as_alone():
    rng = np.random.default_rng(5)
    sizes = (0, 4, 30, 40, 41, 40, 600)
    tests = [rng.normal(0.2, 1.0, n) for n in sizes] + [
        rng.integers(-1, 2, 90).astype(float),
        np.array([1.0, -1.0] * 20),
    ]
    together = sign_flips(tests, seed=3, n_flips=1999)
    assert together == [sign_flip(values, seed=3, n_flips=1999) for values in tests]
    assert {result.method for result in together} == {"no patient differs", "exact", "random sign flips"}
    signs = 2 * np.random.default_rng(3).integers(0, 2, (1999, 600), dtype=np.int8) - 1.0
    far = np.abs(signs @ tests[6]) >= abs(tests[6].sum()) - 1e-9
    assert together[6].p == (1 + far.sum()) / 2000
