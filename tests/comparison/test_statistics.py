"""The statistics against hand calculation, published tables, and scipy used in another way."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from cdm_nnunet.comparison.statistics import (
    MIN_PATIENTS,
    holm,
    mcnemar_p,
    mean_interval,
    ratio_interval,
    signed_rank,
    weighted_mean,
)

DIFFERENCES = st.lists(st.integers(-50, 50).map(lambda n: n / 8), min_size=1, max_size=8)


def signed_rank_p_by_enumeration(differences):
    """Two-sided p over all sign flips of the non-zero differences: doubled smaller tail, at most 1."""
    kept = [d for d in differences if d != 0]
    ranks = rankdata(np.abs(kept))
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(kept))]
    lower, upper = (np.mean([compare(s, observed) for s in sums]) for compare in (np.less_equal, np.greater_equal))
    return min(1.0, 2 * min(lower, upper))


def test_signed_rank_of_wilcoxons_table():
    # n = 8, smaller rank sum 3: two-sided 0.0390625 = 10 / 256 (5 of the 2^8 subsets of 1 ... 8 sum to at most 3)
    test = signed_rank([1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert test.p == pytest.approx(10 / 256, rel=1e-12)
    assert (test.method, test.n_different) == ("exact", 8)
    assert test.effect == pytest.approx((36 - 2 * 3) / 36, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES)
def test_signed_rank_is_exact_with_ties_and_zeros(differences):
    test = signed_rank(differences)
    if not any(differences):
        assert test == (1.0, "all differences zero", 0, None)
        return
    assert test.p == pytest.approx(signed_rank_p_by_enumeration(differences), rel=1e-9)
    assert test.n_different == sum(d != 0 for d in differences)


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES, st.sampled_from([0.5, 3.0, 1000.0]))
def test_swapping_flips_the_effect_and_scaling_changes_nothing(differences, factor):
    test = signed_rank(differences)
    swapped = signed_rank([-d for d in differences])
    scaled = signed_rank([factor * d for d in differences])
    assert swapped.p == pytest.approx(test.p, rel=1e-9)
    assert scaled.p == pytest.approx(test.p, rel=1e-9)
    assert scaled.effect == test.effect
    assert swapped.effect == (None if test.effect is None else -test.effect)


def test_rounding_errors_are_ties_not_differences():
    assert signed_rank([0.1 + 0.2 - 0.3, -1e-16, 0.0]).n_different == 0
    noisy = [0.3, 0.1 + 0.2, -0.1, 0.5, 0.6, 0.7, 0.8]
    assert signed_rank(noisy).method == "permutation"
    assert signed_rank(noisy) == signed_rank([0.3, 0.3, -0.1, 0.5, 0.6, 0.7, 0.8])


def test_many_patients_take_the_normal_approximation():
    n = 60
    differences = np.arange(1.0, n + 1) * np.where(np.arange(n) % 3 == 0, -1, 1)
    rank_sum = -differences[differences < 0].sum()
    z = (rank_sum - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    test = signed_rank(differences)
    assert test.method == "asymptotic"
    assert test.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=1e-9)
    assert signed_rank([*([1.0] * 14), -1.0]).method == "asymptotic"  # ties, and too many to flip all signs


def test_holm_by_hand():
    # sorted 0.005, 0.011, 0.02, 0.04 times 4, 3, 2, 1 = 0.02, 0.033, 0.04, 0.04; they never fall
    assert holm([0.04, 0.005, 0.02, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (7, 2), (3, 3), (0, 12)])
def test_mcnemar_is_the_binomial_of_discordant_pairs(gained, lost):
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    assert mcnemar_p(gained, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_weighted_mean_is_the_mean_over_all_terms():
    terms = [[1.0, 2.0, 6.0], [5.0], [4.0, 8.0]]
    means, counts = [np.mean(t) for t in terms], [len(t) for t in terms]
    assert weighted_mean(means, counts) == pytest.approx(np.mean([x for t in terms for x in t]), rel=1e-12)


def test_bootstrap_interval_covers_the_truth_at_its_rate():
    """400 simulated comparisons of 30 patients with skewed differences: 95 % intervals cover about 95 %."""
    rng = np.random.default_rng(1)
    weights = np.ones(30)
    covered = [
        low <= 0.5 <= high
        for low, high in (
            mean_interval(rng.gamma(4.0, 0.5, 30) - 1.5, weights, seed=s, n_resamples=999) for s in range(400)
        )
    ]
    assert 0.91 <= np.mean(covered) <= 0.98  # (binomial error at 400: 1.1 %; the bootstrap's own error a little more)


def test_bootstrap_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(2).normal(1.0, 2.0, 200)
    low, high = mean_interval(values, np.ones(200), seed=0, n_resamples=9999)
    standard_error = values.std() / math.sqrt(200)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * standard_error, values.mean() + 1.96 * standard_error), abs=0.12 * standard_error
    )


def test_patients_are_resampled_not_terms():
    """Ten equal terms of each patient say no more than one."""
    values = np.random.default_rng(3).normal(0.0, 1.0, 20)
    once = mean_interval(values, np.ones(20), seed=0, n_resamples=999)
    assert mean_interval(values, np.full(20, 10.0), seed=0, n_resamples=999) == pytest.approx(once, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=6, max_size=9), st.sampled_from([0.25, 1.0, 8.0]))
def test_a_constant_ratio_has_a_point_as_interval(baseline, factor):
    errors = np.array(baseline)
    interval = ratio_interval(factor * errors, errors, seed=0, n_resamples=99)
    assert interval == pytest.approx((factor, factor), rel=1e-9)


def test_intervals_scale_and_flip_with_the_data():
    rng = np.random.default_rng(4)
    values, weights = rng.normal(0.3, 1.0, 15), rng.integers(1, 4, 15).astype(float)
    low, high = mean_interval(values, weights, seed=5, n_resamples=1999)
    assert low < weighted_mean(values, weights) < high
    assert mean_interval(4 * values, weights, seed=5, n_resamples=1999) == pytest.approx((4 * low, 4 * high))
    assert mean_interval(-values, weights, seed=5, n_resamples=1999) == pytest.approx((-high, -low), abs=1e-9)
    assert mean_interval(values, weights, seed=6, n_resamples=1999) != (low, high)


def test_no_interval_where_there_can_be_none():
    few = np.arange(1.0, MIN_PATIENTS)
    assert mean_interval(few, np.ones(len(few)), seed=0, n_resamples=999) is None
    assert ratio_interval(np.ones(12), np.eye(12)[0], seed=0, n_resamples=999) is None  # one patient with an error
    assert ratio_interval(np.ones(12), np.zeros(12), seed=0, n_resamples=999) is None
    assert mean_interval(np.zeros(8), np.ones(8), seed=0, n_resamples=999) == (0.0, 0.0)
