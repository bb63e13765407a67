"""Paired statistics over patients: bootstrap intervals, signed-rank test, effect size, Holm, McNemar.

Definitions are in ``docs/comparison.md``. The tests are those of scipy and statsmodels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, PermutationMethod, bootstrap, rankdata, wilcoxon
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
MIN_PATIENTS = 6
DECIMALS = 9
MAX_PERMUTED = 13
MAX_EXACT = 50

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Method = Literal["exact", "permutation", "asymptotic", "all differences zero"]


class SignedRank(NamedTuple):
    """A two-sided Wilcoxon signed-rank test.

    Attributes:
        p: The p-value; 1 where no patient differs.
        method: How it was found: the exact distribution of the ranks; all sign flips (exact with ties); the normal
            approximation with its correction for ties.
        n_different: Number of differences that are not zero.
        effect: Matched-pairs rank-biserial correlation, from -1 to 1; None where no patient differs.
    """

    p: float
    method: Method
    n_different: int
    effect: float | None


def weighted_mean(values: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> float:
    """Mean of per-patient means, weighted by the number of terms of each: the mean over all terms.

    Example:
        >>> weighted_mean([1.0, 4.0], [2, 1])
        2.0
    """
    return float(np.dot(values, weights) / np.sum(weights))


def mean_interval(differences: Floats, weights: Floats, *, seed: int, n_resamples: int) -> Interval | None:
    """Bootstrap interval of the weighted mean of per-patient values; patients are resampled.

    Args:
        differences: One value a patient, shape (N,).
        weights: Number of terms of each patient, shape (N,).
        seed: Seed of the resampling.
        n_resamples: Number of resamples.

    Returns:
        Bias-corrected and accelerated interval (Efron 1987); None for fewer than ``MIN_PATIENTS`` patients.

    Example:
        >>> mean_interval(np.array([2.0] * 6), np.ones(6), seed=0, n_resamples=99)
        (2.0, 2.0)
    """
    return _ratio_interval(differences * weights, weights, seed, n_resamples)


def ratio_interval(candidate: Floats, baseline: Floats, *, seed: int, n_resamples: int) -> Interval | None:
    """Bootstrap interval of sum(candidate) / sum(baseline); patients are resampled.

    Args:
        candidate: Sum of the errors of each patient, shape (N,).
        baseline: The same of the other model; at least zero.
        seed: Seed of the resampling.
        n_resamples: Number of resamples.

    Returns:
        As :func:`mean_interval`; None also where so many patients have no error in the baseline that a resample might
        have none at all, since the ratio has no distribution then.
    """
    n = len(baseline)
    # (the chance that one of the resamples draws only patients without an error)
    if n and n_resamples * (1 - np.count_nonzero(baseline) / n) ** n > ALPHA / 100:
        return None
    return _ratio_interval(candidate, baseline, seed, n_resamples)


def signed_rank(differences: Sequence[float] | Floats) -> SignedRank:
    """Two-sided Wilcoxon signed-rank test that paired differences are symmetric about zero, and its effect size.

    Differences are rounded to ``DECIMALS`` decimals, so that what differs by rounding alone is tied; zeros are dropped.
    The effect is the matched-pairs rank-biserial correlation (Kerby 2014): the sum of the ranks of positive
    differences minus that of negative ones, divided by the sum of all ranks.

    Args:
        differences: One finite difference a patient, shape (N,).

    Example:
        >>> signed_rank([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
        SignedRank(p=0.03125, method='exact', n_different=6, effect=-1.0)
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), DECIMALS)
    kept = rounded[rounded != 0]
    n = len(kept)
    if n == 0:
        return SignedRank(1.0, "all differences zero", 0, None)
    ranks = rankdata(np.abs(kept))
    effect = float(np.dot(ranks, np.sign(kept)) / ranks.sum())
    tied = len(np.unique(np.abs(kept))) < n
    method: Method
    how: Any
    if tied and n <= MAX_PERMUTED:
        method, how = "permutation", PermutationMethod(n_resamples=2**MAX_PERMUTED)
    elif tied or n > MAX_EXACT:
        method = how = "asymptotic"
    else:
        method = how = "exact"
    return SignedRank(float(wilcoxon(kept, method=how).pvalue), method, n, effect)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down method for a family of tests.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]]


def mcnemar_p(n_gained: int, n_lost: int) -> float:
    """Exact two-sided McNemar test on patients for whom one model is right and the other wrong.

    Args:
        n_gained: Patients where only the candidate is right.
        n_lost: Patients where only the baseline is right.

    Example:
        >>> mcnemar_p(5, 0)
        0.0625
    """
    if n_gained + n_lost == 0:
        return 1.0  # (statsmodels agrees, with a warning)
    return float(mcnemar([[0, n_lost], [n_gained, 0]], exact=True).pvalue)


def _ratio_interval(numerators: Floats, denominators: Floats, seed: int, n_resamples: int) -> Interval | None:
    def ratio(a: Floats, b: Floats, axis: int = -1) -> Floats:
        quotient: Floats = a.sum(axis=axis) / b.sum(axis=axis)
        return quotient

    n = len(numerators)
    if n < MIN_PATIENTS:
        return None
    point = float(ratio(numerators, denominators))
    if np.allclose(numerators, point * denominators, rtol=1e-12, atol=10.0**-DECIMALS):
        return point, point  # (every resample gives the same, where BCa is not defined)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # (answered with None below)
        found = bootstrap(
            (numerators, denominators),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=n_resamples,
            confidence_level=CONFIDENCE,
            method="BCa",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
