"""How often intervals of `cdm-nnunet compare` contain the true difference, and how often its tests reject wrongly.

    python benchmarks/compare_coverage.py

Two models have the same mean error. The difference of a case is the sum of a patient's part and its own part, each with
mean zero and a skewed distribution; their correlation within a patient is 0.5 or 0.8. A patient has one case, or one to
five (on average 2.9, as in GDP-HMM's test split: 224 plans of 77 patients). Distributions are normal, exponential
(skewness 2) and lognormal (3.3). Each line of the tables is over distributions and correlations: the mean of their
rates, and the worst. ``cover``: share of the 95 % intervals that contain the true difference; ``reject``: share of the
tests with p below 5 %. All columns except the last are over patients.
"""

from __future__ import annotations

import argparse
import itertools
import warnings

import numpy as np
from scipy.stats import bootstrap, t, wilcoxon

from cdm_nnunet.comparison.statistics import mean_interval, ratio_interval, sign_flip

PATIENTS = (6, 8, 10, 15, 20, 30, 40, 60, 80)
CORRELATIONS = (0.5, 0.8)
DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "exponential": lambda rng, shape: rng.exponential(1, shape) - 1,  # skewness 2
    "lognormal": lambda rng, shape: (rng.lognormal(0, 0.75, shape) - np.exp(0.28125)) / 1.146,  # skewness 3.3
}
PLANS_A_PATIENT = (1, 2, 3, 4, 5)
PLAN_SHARES = (0.2, 0.2, 0.25, 0.2, 0.15)


def sample(rng, n, distribution, correlation, *, several):
    """Sums of the differences of each patient and numbers of cases, both of shape (n,); and the cases."""
    draw = DISTRIBUTIONS[distribution]
    counts = rng.choice(PLANS_A_PATIENT, n, p=PLAN_SHARES) if several else np.ones(n, int)
    patient = np.repeat(draw(rng, n), counts)
    cases = np.sqrt(correlation) * patient + np.sqrt(1 - correlation) * draw(rng, int(counts.sum()))
    owners = np.repeat(np.arange(n), counts)
    return np.bincount(owners, cases, n), counts.astype(float), cases


def bca(values, weights, seed):
    """Bias-corrected and accelerated bootstrap of a ratio of sums."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (values, weights), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, n_resamples=999,
            method="BCa", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return found.low, found.high


def t_of_patients(sums, counts):
    """Interval and p of Student's t on linearised patient values."""
    n, mean = len(sums), sums.sum() / counts.sum()
    error = np.sqrt(((sums - mean * counts) ** 2).sum() * n / (n - 1)) / counts.sum()
    half = t.ppf(0.975, n - 1) * error
    return (mean - half, mean + half), 2 * t.sf(abs(mean) / error, n - 1)


def holds(interval, truth):
    """Whether an interval contains the true value; NaN without an interval."""
    return np.nan if interval is None else float(interval[0] <= truth <= interval[1])


def rates(n, distribution, correlation, repeats, seed, *, several, with_bca):
    """Coverage and type I error of each method in percent, by name."""
    rng = np.random.default_rng(seed)
    found = {}
    for k in range(repeats):
        sums, counts, cases = sample(rng, n, distribution, correlation, several=several)
        ones = np.ones(len(cases))
        interval, t_p = t_of_patients(sums, counts)
        ours = mean_interval(sums / counts, counts)
        base = 3 * counts * rng.gamma(4, 0.25, n)  # the baseline's errors: mean 3, spread 1.5 over patients
        change = ratio_interval(base + sums, base)
        row = {
            "cover: interval": holds(ours, 0),
            "cover: interval of the change": holds(change, 1),
            "cover: Student's t": interval[0] <= 0 <= interval[1],
            "reject: sign flips": sign_flip(sums, seed=0, n_flips=999).p < 0.05,
            "reject: Student's t": t_p < 0.05,
            "reject: Wilcoxon": wilcoxon(sums / counts).pvalue < 0.05,
            "reject: Wilcoxon of cases": wilcoxon(cases).pvalue < 0.05,
        }
        if with_bca:
            for name, values in (("patients", (sums, counts)), ("cases", (cases, ones))):
                low, high = bca(*values, k)
                row[f"cover: BCa of {name}"] = low <= 0 <= high
        for name, hit in row.items():
            found.setdefault(name, []).append(hit)
    return {name: 100 * float(np.nanmean(hits)) for name, hits in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons a setting")
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--bca", action="store_true", help="bootstrap intervals too, which take most of the time")
    args = parser.parse_args()
    for several in (False, True):
        print(f"\n{'one to five cases' if several else 'one case'} a patient: mean (worst), percent\n")
        head = None
        for n in args.patients:
            settings = itertools.product(DISTRIBUTIONS, CORRELATIONS if several else CORRELATIONS[:1])
            found = [
                rates(n, *setting, args.repeats, 1000 * n + k, several=several, with_bca=args.bca)
                for k, setting in enumerate(settings)
            ]
            if head is None:
                head = list(found[0])
                print("| patients | " + " | ".join(head) + " |\n" + "| ---: " * (len(head) + 1) + "|")
            worst = {name: (min if name.startswith("cover") else max)(one[name] for one in found) for name in head}
            cells = [f"{np.mean([one[name] for one in found]):.1f} ({worst[name]:.1f})" for name in head]
            print(f"| {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
