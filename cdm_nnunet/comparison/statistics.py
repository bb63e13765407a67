"""Paired statistics over patients: intervals, sign-flip tests, effect size, Holm.

``docs/comparison.md`` has the definitions, and the coverage and error rates in simulations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
MIN_PATIENTS = 6
MIN_EFFECTIVE = 4.0
DECIMALS = 9
MAX_EXACT = 30
_CHUNK = 10_000
_CACHED = 250_000  # signs summed at a time: as float64 they fit in a processor's cache

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Method = Literal["exact", "random sign flips", "no patient differs"]


class SignFlip(NamedTuple):
    """A two-sided sign-flip test.

    Attributes:
        p: The p-value; 1 if no patient differs.
        method: Whether all sign flips were counted, or random ones.
        n_different: Number of patients that differ.
    """

    p: float
    method: Method
    n_different: int


def weighted_mean(values: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> float:
    """Mean of per-patient means, weighted by the number of terms of each: the mean over all terms.

    Example:
        >>> weighted_mean([1.0, 4.0], [2, 1])
        2.0
    """
    return float(np.dot(values, weights) / np.sum(weights))


def mean_interval(differences: Floats, weights: Floats) -> Interval | None:
    """95 % interval of the weighted mean of per-patient values.

    Args:
        differences: One value per patient, shape (N,).
        weights: Number of terms of each patient, shape (N,).

    Returns:
        As :func:`ratio_interval`.

    Example:
        >>> mean_interval(np.array([2.0] * 6), np.ones(6))
        (2.0, 2.0)
    """
    return ratio_interval(differences * weights, weights)


def ratio_interval(numerators: Floats, denominators: Floats) -> Interval | None:
    """95 % interval of sum(numerators) / sum(denominators) for independent patients.

    It is Student's, with the jackknife's standard error, Hall's transformation for the skewness, and the effective
    number of patients less two as degrees of freedom.

    Args:
        numerators: One value per patient, shape (N,).
        denominators: Likewise, at least zero.

    Returns:
        None for fewer than ``MIN_PATIENTS`` patients, or if so few have most of the denominators that the effective
        number is below ``MIN_EFFECTIVE``.

    References:
        P. Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54 (1992) 221-228.
    """
    n, total = len(numerators), float(denominators.sum())
    if n < MIN_PATIENTS or not total > 0:
        return None
    n_effective = total**2 / float((denominators**2).sum())
    if n_effective < MIN_EFFECTIVE:
        return None
    ratio = float(numerators.sum()) / total
    residuals = (numerators - ratio * denominators) / (total / n)
    if np.allclose(residuals, 0, rtol=0, atol=10.0**-DECIMALS):
        return ratio, ratio
    without = (numerators.sum() - numerators) / (total - denominators)  # (each patient left out in turn)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    skewness = float((residuals**3).mean()) / (float((residuals**2).sum()) / (n - 1)) ** 1.5
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n_effective - 2))
    low, high = (ratio - error * _unskewed(end, skewness, n) for end in (quantile, -quantile))
    return low, high


def _unskewed(quantile: float, skewness: float, n: int) -> float:
    """The studentised mean whose Hall transform is a quantile of Student's distribution."""
    slope = skewness / math.sqrt(n)
    if abs(slope) < 1e-9:
        return quantile
    return float(3 / slope * (np.cbrt(1 + slope * (quantile - slope / 6)) - 1))


def sign_flip(values: Sequence[float] | Floats, *, seed: int, n_flips: int) -> SignFlip:
    """Two-sided sign-flip (permutation) test that the mean of independent values is zero.

    The p-value is the share of sign flips of the patients whose sum is at least as far from zero as the observed
    one. Ties are counted, so that it is exact with them. Values are rounded to ``DECIMALS`` decimals, so that
    differences by rounding do not matter.

    Args:
        values: One finite sum of differences per patient, shape (N,).
        seed: Seed of the random sign flips.
        n_flips: Their number; used if more than ``MAX_EXACT`` patients differ.

    Example:
        >>> sign_flip([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], seed=0, n_flips=999)
        SignFlip(p=0.03125, method='exact', n_different=6)
    """
    return sign_flips([values], seed=seed, n_flips=n_flips)[0]


def sign_flips(tests: Sequence[Sequence[float] | Floats], *, seed: int, n_flips: int) -> list[SignFlip]:
    """Many tests, each as :func:`sign_flip`; tests with the same number of patients share random sign flips."""
    kept = [_that_differ(values) for values in tests]
    least = [_least(values) for values in kept]
    at_random: dict[int, list[int]] = {}
    for place, values in enumerate(kept):
        if values.size > MAX_EXACT and least[place] > 0:
            at_random.setdefault(values.size, []).append(place)
    flipped: dict[int, int] = {}
    for places in at_random.values():
        values = np.stack([kept[place] for place in places])
        far = _count_far(values, np.array([least[place] for place in places]), seed=seed, n_flips=n_flips)
        flipped.update(zip(places, far, strict=True))
    return [
        SignFlip((1 + flipped[place]) / (1 + n_flips), "random sign flips", values.size)
        if place in flipped
        else _counted(values, least[place])
        for place, values in enumerate(kept)
    ]


def _that_differ(values: Sequence[float] | Floats) -> Floats:
    rounded = np.round(np.asarray(values, dtype=np.float64), DECIMALS)
    kept: Floats = rounded[rounded != 0]
    return kept


def _least(kept: Floats) -> float:
    """Least distance from zero of a counted sum: that of the observed sum, minus rounding."""
    return abs(float(kept.sum())) - 1e-9 * float(np.abs(kept).sum())


def _counted(kept: Floats, least: float) -> SignFlip:
    """The test with all sign flips counted, or without need to count."""
    if not kept.size:
        return SignFlip(1.0, "no patient differs", 0)
    return SignFlip(_exact_share(kept, least) if least > 0 else 1.0, "exact", kept.size)


def _count_far(tests: Floats, least: Floats, *, seed: int, n_flips: int) -> list[int]:
    """Number of random sign flips whose sum is at least this far from zero, for each test, shape (tests, N)."""
    rows = max(1, _CACHED // tests.shape[1])
    far = np.zeros(len(tests), np.int64)
    for signs in _random_signs(tests.shape[1], n_flips, seed):
        for first in range(0, len(signs), rows):
            far += np.count_nonzero(np.abs(signs[first : first + rows] @ tests.T) >= least, axis=0)
    return [int(count) for count in far]


def _exact_share(values: Floats, least: float) -> float:
    """Share of all sign flips whose sum is at least this far from zero, by combining the two halves of the patients."""
    half = len(values) // 2
    one, two = _signed_sums(values[:half]), np.sort(_signed_sums(values[half:]))
    above = int((two.size - np.searchsorted(two, least - one, side="left")).sum())
    return float(2 * above / (one.size * two.size))


def _signed_sums(values: Floats) -> Floats:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


@functools.lru_cache(maxsize=2)
def _random_signs(n: int, n_flips: int, seed: int) -> tuple[NDArray[np.int8], ...]:
    rng = np.random.default_rng(seed)
    sizes = [min(_CHUNK, n_flips - start) for start in range(0, n_flips, _CHUNK)]
    return tuple(2 * rng.integers(0, 2, (size, n), dtype=np.int8) - 1 for size in sizes)


def rank_biserial(differences: Sequence[float] | Floats) -> float | None:
    """Matched-pairs rank-biserial correlation (Kerby 2014), from -1 to 1; None if no patient differs.

    It is the sum of the ranks of positive differences minus that of negative ones, divided by the sum of all ranks.

    Example:
        >>> rank_biserial([-1.0, -2.0, 3.0])
        0.0
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), DECIMALS)
    kept = rounded[rounded != 0]
    if not kept.size:
        return None
    ranks = rankdata(np.abs(kept))
    return float(np.dot(ranks, np.sign(kept)) / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down method for a family of tests.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return [float(value) for value in corrected]
