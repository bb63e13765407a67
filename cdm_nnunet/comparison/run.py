"""Compare evaluated models: pair, test, correct, write."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from cdm_nnunet import __version__
from cdm_nnunet.comparison.models import Model, of_patients, shared_cases
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
    Floats,
    Interval,
    SignFlip,
    holm,
    mean_interval,
    rank_biserial,
    ratio_interval,
    sign_flips,
    weighted_mean,
)
from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

MIN_FLIPS = 999


def compare(
    models: Sequence[Model],
    *,
    common_cases: bool = False,
    seed: int = 0,
    n_flips: int = 99_999,
    patients: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare models with the first of them; definitions in ``docs/comparison.md``.

    Args:
        models: From :func:`cdm_nnunet.comparison.models.load_models`, the baseline first.
        common_cases: Drop cases that some model lacks, instead of refusing.
        seed: Seed of random sign flips.
        n_flips: Their number; they are used if there are too many patients to count all.
        patients: The patient by case, instead of those known from the conversion.

    Raises:
        InputError: If the models can't be compared, as :func:`cdm_nnunet.comparison.models.shared_cases`, or an option
            is out of range.
    """
    if seed < 0:
        raise InputError(f"a seed is at least 0, not {seed}")
    if n_flips < MIN_FLIPS:
        raise InputError(f"a test takes at least {MIN_FLIPS} random sign flips, not {n_flips}")
    models, dropped = shared_cases(models, common_cases=common_cases)
    if patients is not None:
        models = of_patients(models, patients)
    quantities, judged = paired_quantities(models), judged_goals(models)
    tested = [of for quantity in quantities for of in _weighted_differences(quantity).values()]
    tested += [np.array(list(net.values())) for goal in judged for net in _net_gains(goal).values()]
    tests = iter(sign_flips(tested, seed=seed, n_flips=n_flips))
    results = [_result(quantity, tests) for quantity in quantities]
    goals = [_flips(goal, tests) for goal in judged]
    corrected = [entry for level in LEVELS for entry in _corrected([r for r in results if r.quantity.level == level])]
    corrected_goals = _corrected_goals(goals)
    families: dict[str, int] = {
        level: sum(len(r.paired) for r in results if r.quantity.level == level) for level in LEVELS
    }
    evaluation = models[0].evaluation
    return Comparison(
        dataset=evaluation.dataset,
        template=evaluation.template.name,
        template_definition=evaluation.template.to_json(),
        dose_region=evaluation.dose_region,
        models={model.name: str(model.path) for model in models},
        cases={case.case: case.patient or case.case for case in evaluation.cases},
        dropped=dropped,
        quantities=tuple(corrected),
        goals=tuple(corrected_goals),
        families={**families, GOAL_FAMILY: sum(len(goal.paired) for goal in goals)},
        seed=seed,
        n_flips=n_flips,
        software={
            "cdm_nnunet": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "scipy", "plotly")},
        },
        origins={model.name: model.evaluation.model for model in models},
        left_out={model.name: model.evaluation.left_out for model in models},
    )


def _weighted_differences(quantity: Quantity) -> dict[str, Floats]:
    """By candidate, the sum of differences of each patient, shape (N,)."""
    weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
    baseline, *candidates = (np.array(values) for values in quantity.errors.values())
    names = list(quantity.errors)[1:]
    return {name: (errors - baseline) * weights for name, errors in zip(names, candidates, strict=True)}


def _result(quantity: Quantity, tests: Iterator[SignFlip]) -> QuantityResult:
    """Result of each model; tests are in the order of :func:`_weighted_differences`."""
    weights = np.array(list(quantity.n_terms.values()), dtype=np.float64)
    errors = {name: np.array(values) for name, values in quantity.errors.items()}
    baseline, *candidates = errors
    return QuantityResult(
        quantity=quantity,
        models={
            name: ModelSummary(
                mean=weighted_mean(values, weights),
                median=float(np.median(values)),
                bias=None if quantity.signed is None else weighted_mean(quantity.signed[name], weights),
            )
            for name, values in errors.items()
        },
        paired={name: _paired(errors[baseline], errors[name], weights, next(tests)) for name in candidates},
    )


def _paired(baseline: Floats, candidate: Floats, weights: Floats, test: SignFlip) -> Paired:
    differences = candidate - baseline
    signs = np.sign(np.round(differences, DECIMALS))
    n_better, n_equal, n_worse = (int(np.count_nonzero(signs == sign)) for sign in (-1, 0, 1))
    interval = mean_interval(differences, weights)
    reference = weighted_mean(baseline, weights)
    relative = relative_interval = None
    if reference > 0:
        relative = 100 * (weighted_mean(candidate, weights) / reference - 1)
        ratios = ratio_interval(candidate * weights, baseline * weights)
        relative_interval = ratios and (max(-100.0, 100 * (ratios[0] - 1)), 100 * (ratios[1] - 1))
    return Paired(
        n=len(weights),
        n_better=n_better,
        n_equal=n_equal,
        n_worse=n_worse,
        mean_difference=weighted_mean(differences, weights),
        interval=interval,
        median_difference=float(np.median(differences)),
        relative_percent=relative,
        relative_interval=relative_interval,
        p=test.p,
        p_holm=test.p,
        method=test.method,
        effect=rank_biserial(differences),
        notes=tuple(_notes(len(weights), test.n_different, reference, interval, relative_interval)),
    )


def _notes(
    n: int, n_different: int, baseline_mean: float, interval: Interval | None, relative: Interval | None
) -> Iterator[str]:
    patients = counted(n, "patient")
    if n < MIN_PATIENTS:
        yield f"{patients}: fewer than {MIN_PATIENTS}, no interval"
    elif interval is None:
        yield f"a few of {patients} have most of the terms: no interval"
    if n_different == 0:
        yield "no patient differs"
    elif n_different < MIN_PATIENTS:
        yield f"{n_different} of {patients} differ: p cannot be below {2.0 ** (1 - n_different):.3g}"
    if baseline_mean == 0:
        yield "the baseline has no error: no relative change"
    elif relative is None and interval is not None:
        yield "too few patients have most of the baseline's error: no interval of the relative change"


def _corrected(results: Sequence[QuantityResult]) -> list[QuantityResult]:
    """The results of a family, with Holm's correction over its quantities and candidates."""
    corrected = iter(holm([paired.p for result in results for paired in result.paired.values()]))
    return [
        replace(result, paired={name: replace(p, p_holm=next(corrected)) for name, p in result.paired.items()})
        for result in results
    ]


def _net_gains(judged: JudgedGoal) -> dict[str, dict[str, float]]:
    """By candidate and patient: cases in which only the candidate is right, minus those with only the baseline."""
    baseline, *candidates = judged.right
    gains: dict[str, dict[str, float]] = {}
    for name in candidates:
        net = dict.fromkeys(judged.patients, 0.0)
        for patient, before, after in zip(judged.patients, judged.right[baseline], judged.right[name], strict=True):
            net[patient] += int(after) - int(before)
        gains[name] = net
    return gains


def _flips(judged: JudgedGoal, tests: Iterator[SignFlip]) -> GoalComparison:
    """Differences of the models on a goal; tests are in the order of :func:`_net_gains`."""
    baseline, *candidates = judged.right
    paired = {}
    for name in candidates:
        pairs = list(zip(judged.right[baseline], judged.right[name], strict=True))
        p = next(tests).p
        n_gained, n_lost = pairs.count((False, True)), pairs.count((True, False))
        paired[name] = Flips(n_gained=n_gained, n_lost=n_lost, p=p, p_holm=p)
    return GoalComparison(
        name=goal_name(judged.goal),
        n=len(judged.met),
        n_patients=len(set(judged.patients)),
        n_met=sum(judged.met),
        n_right={name: sum(right) for name, right in judged.right.items()},
        paired=paired,
    )


def _corrected_goals(goals: Sequence[GoalComparison]) -> list[GoalComparison]:
    corrected = iter(holm([flips.p for goal in goals for flips in goal.paired.values()]))
    return [
        replace(goal, paired={name: replace(flips, p_holm=next(corrected)) for name, flips in goal.paired.items()})
        for goal in goals
    ]
