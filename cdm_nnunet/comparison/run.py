"""Compare evaluated models: pair, test, correct, write."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from cdm_nnunet import __version__
from cdm_nnunet.comparison.models import Model, shared_cases
from cdm_nnunet.comparison.quantities import JudgedGoal, goal_name, judged_goals, paired_quantities
from cdm_nnunet.comparison.record import (
    GOAL_FAMILY,
    LEVELS,
    Comparison,
    Flips,
    GoalComparison,
    ModelSummary,
    Paired,
    Quantity,
    QuantityResult,
)
from cdm_nnunet.comparison.statistics import (
    DECIMALS,
    MIN_PATIENTS,
    holm,
    mcnemar_p,
    mean_interval,
    ratio_interval,
    signed_rank,
    weighted_mean,
)
from cdm_nnunet.errors import InputError

MIN_RESAMPLES = 999


def compare(
    models: Sequence[Model],
    *,
    common_cases: bool = False,
    seed: int = 0,
    n_resamples: int = 9999,
) -> Comparison:
    """Compare models with the first of them; definitions in ``docs/comparison.md``.

    Args:
        models: As :func:`cdm_nnunet.comparison.models.load_models` reads them, the baseline first.
        common_cases: Drop cases that some model lacks, instead of refusing.
        seed: Seed of every bootstrap.
        n_resamples: Number of bootstrap resamples.

    Raises:
        InputError: If the models can't be compared, as :func:`cdm_nnunet.comparison.models.shared_cases`, or an option
            is out of range.
    """
    if seed < 0:
        raise InputError(f"a seed is at least 0, not {seed}")
    if n_resamples < MIN_RESAMPLES:
        raise InputError(f"a 95 % interval takes at least {MIN_RESAMPLES} resamples, not {n_resamples}")
    models, dropped = shared_cases(models, common_cases=common_cases)
    results = [_result(quantity, seed, n_resamples) for quantity in paired_quantities(models)]
    goals = [_flips(goal) for goal in judged_goals(models)]
    corrected = [entry for level in LEVELS for entry in _corrected([r for r in results if r.quantity.level == level])]
    corrected_goals = _corrected_goals(goals)
    families: dict[str, int] = {
        level: sum(len(r.paired) for r in results if r.quantity.level == level) for level in LEVELS
    }
    evaluation = models[0].evaluation
    return Comparison(
        evaluation.dataset,
        evaluation.template.name,
        evaluation.template.to_json(),
        evaluation.dose_region,
        {model.name: str(model.path) for model in models},
        tuple(case.case for case in evaluation.cases),
        dropped,
        tuple(corrected),
        tuple(corrected_goals),
        {**families, GOAL_FAMILY: sum(len(goal.paired) for goal in goals)},
        seed,
        n_resamples,
        {
            "cdm_nnunet": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "scipy", "statsmodels", "plotly")},
        },
    )


def _result(quantity: Quantity, seed: int, n_resamples: int) -> QuantityResult:
    weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
    errors = {name: np.array(values) for name, values in quantity.errors.items()}
    baseline, *candidates = errors
    return QuantityResult(
        quantity,
        {
            name: ModelSummary(
                weighted_mean(values, weights),
                float(np.median(values)),
                None if quantity.signed is None else weighted_mean(quantity.signed[name], weights),
            )
            for name, values in errors.items()
        },
        {name: _paired(errors[baseline], errors[name], weights, seed, n_resamples) for name in candidates},
    )


def _paired(baseline: np.ndarray, candidate: np.ndarray, weights: np.ndarray, seed: int, n_resamples: int) -> Paired:
    differences = candidate - baseline
    signs = np.sign(np.round(differences, DECIMALS))
    n_better, n_equal, n_worse = (int(np.count_nonzero(signs == sign)) for sign in (-1, 0, 1))
    test = signed_rank(differences)
    interval = mean_interval(differences, weights, seed=seed, n_resamples=n_resamples)
    reference = weighted_mean(baseline, weights)
    relative = relative_interval = None
    if reference > 0:
        relative = 100 * (weighted_mean(candidate, weights) / reference - 1)
        ratios = ratio_interval(candidate * weights, baseline * weights, seed=seed, n_resamples=n_resamples)
        relative_interval = ratios and (100 * (ratios[0] - 1), 100 * (ratios[1] - 1))
    return Paired(
        len(weights), n_better, n_equal, n_worse,
        weighted_mean(differences, weights), interval, float(np.median(differences)),
        relative, relative_interval,
        test.p, test.p, test.method, test.effect,
        _notes(len(weights), test.n_different, reference, relative_interval is None),
    )  # fmt: skip


def _notes(n: int, n_different: int, baseline_mean: float, no_ratio: bool) -> tuple[str, ...]:
    notes = []
    patients = f"{n} patient{'' if n == 1 else 's'}"
    if n < MIN_PATIENTS:
        notes.append(f"{patients}: fewer than {MIN_PATIENTS}, no bootstrap interval")
    if n_different == 0:
        notes.append("no patient differs")
    elif n_different < MIN_PATIENTS:
        notes.append(f"{n_different} of {patients} differ: p cannot be below {2.0 ** (1 - n_different):.3g}")
    if baseline_mean == 0:
        notes.append("the baseline has no error: no relative change")
    elif no_ratio and n >= MIN_PATIENTS:
        notes.append("too many patients without an error in the baseline: no interval of the relative change")
    return tuple(notes)


def _corrected(results: Sequence[QuantityResult]) -> list[QuantityResult]:
    """The results of a family, with Holm's correction over its quantities and candidates."""
    corrected = iter(holm([paired.p for result in results for paired in result.paired.values()]))
    return [
        replace(result, paired={name: replace(p, p_holm=next(corrected)) for name, p in result.paired.items()})
        for result in results
    ]


def _flips(judged: JudgedGoal) -> GoalComparison:
    baseline, *candidates = judged.right
    paired = {}
    for name in candidates:
        pairs = list(zip(judged.right[baseline], judged.right[name], strict=True))
        n_gained, n_lost = pairs.count((False, True)), pairs.count((True, False))
        p = mcnemar_p(n_gained, n_lost)
        paired[name] = Flips(n_gained, n_lost, p, p)
    n_right = {name: sum(right) for name, right in judged.right.items()}
    return GoalComparison(goal_name(judged.goal), len(judged.met), sum(judged.met), n_right, paired)


def _corrected_goals(goals: Sequence[GoalComparison]) -> list[GoalComparison]:
    corrected = iter(holm([flips.p for goal in goals for flips in goal.paired.values()]))
    return [
        replace(goal, paired={name: replace(flips, p_holm=next(corrected)) for name, flips in goal.paired.items()})
        for goal in goals
    ]
