"""Sentences and number formats of a comparison, shared by all renderings."""

from __future__ import annotations

from cdm_nnunet.comparison.record import (
    GOAL_FAMILY,
    LEVELS,
    Comparison,
    GoalComparison,
    Level,
    Paired,
    QuantityResult,
)
from cdm_nnunet.comparison.statistics import CONFIDENCE, DECIMALS, MAX_EXACT, MIN_PATIENTS, Interval
from cdm_nnunet.counting import counted

LEVEL_TITLES: dict[Level, str] = {
    "score": "Scores",
    "pooled": "Metrics pooled over targets and over OARs",
    "roi": "Metrics of each ROI",
}
FAMILY_NAMES: dict[Level, str] = {"score": "scores", "pooled": "pooled metrics", "roi": "metrics of each ROI"}
GOAL_TITLE = "Goals"
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
AT_LEAST, AT_MOST = "\N{GREATER-THAN OR EQUAL TO}", "\N{LESS-THAN OR EQUAL TO}"


def title(comparison: Comparison) -> str:
    """Title of the comparison."""
    models = f"{', '.join(comparison.candidates)} against {comparison.baseline}"
    who = cases_and_patients(len(comparison.cases), comparison.n_patients)
    return f"{models}: {who} of {comparison.dataset}, template {comparison.template}"


def cases_and_patients(n_cases: int, n_patients: int) -> str:
    """Numbers of cases and patients.

    Example:
        >>> cases_and_patients(8, 8), cases_and_patients(224, 77)
        ('8 patients', '224 cases of 77 patients')
    """
    patients = counted(n_patients, "patient")
    return patients if n_cases == n_patients else f"{n_cases} cases of {patients}"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign.

    Example:
        >>> signed(-0.5), signed(0.25), signed(-1e-9)
        ('−0.500', '+0.250', '0.000')
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def interval(low_high: Interval | None, digits: int = 3) -> str:
    """An interval in brackets, or a dash."""
    return NONE if low_high is None else f"[{signed(low_high[0], digits)}, {signed(low_high[1], digits)}]"


def p_value(p: float) -> str:
    """A p-value with three decimals.

    Example:
        >>> p_value(0.0312), p_value(0.00004), p_value(1.0)
        ('0.031', '< 0.001', '1')
    """
    return "< 0.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}"


def effect(value: float | None) -> str:
    """An effect size, or a dash."""
    return NONE if value is None else signed(value, 2)


def bias(value: float | None) -> str:
    """A mean signed difference, or a dash if the error has no sign."""
    return NONE if value is None else signed(value)


def columns(baseline: str, candidate: str) -> tuple[str, ...]:
    """Column headings of a table of quantities."""
    return (
        "",
        "unit",
        "n",
        baseline,
        candidate,
        f"difference [{INTERVAL}]",
        f"change [{INTERVAL}], %",
        "p (Holm)",
        "effect",
    )


def rows(comparison: Comparison, candidate: str, level: Level) -> list[tuple[str, ...]]:
    """The body of the table of a level, as text, in the order of :func:`columns`."""
    body = []
    for result in comparison.at(level):
        paired = result.paired[candidate]
        means = [f"{result.models[name].mean:.3f}" for name in (comparison.baseline, candidate)]
        difference = f"{signed(paired.mean_difference)} {interval(paired.interval)}"
        change = NONE if paired.relative_percent is None else signed(paired.relative_percent, 1)
        body.append(
            (
                result.quantity.name,
                result.quantity.unit,
                str(paired.n),
                *means,
                difference.removesuffix(f" {NONE}"),
                f"{change} {interval(paired.relative_interval, 1)}".removesuffix(f" {NONE}"),
                p_value(paired.p_holm),
                effect(paired.effect),
            )
        )
    return body


def goal_columns(baseline: str, candidate: str) -> tuple[str, ...]:
    """Column headings of the table of goals."""
    right = (f"{baseline} right", f"{candidate} right", f"only {candidate} right", f"only {baseline} right")
    return ("", "cases", "met by reference", *right, "p (Holm)")


def goal_title(goal: GoalComparison) -> str:
    """ROI, metric and limit of a goal, with the sign of its relation."""
    return goal.name.replace(" >= ", f" {AT_LEAST} ").replace(" <= ", f" {AT_MOST} ")


def goal_rows(comparison: Comparison, candidate: str) -> list[tuple[str, ...]]:
    """The body of the table of goals, as text, in the order of :func:`goal_columns`."""
    return [
        (
            goal_title(goal),
            str(goal.n),
            str(goal.n_met),
            str(goal.n_right[comparison.baseline]),
            str(goal.n_right[candidate]),
            str(goal.paired[candidate].n_gained),
            str(goal.paired[candidate].n_lost),
            p_value(goal.paired[candidate].p_holm),
        )
        for goal in comparison.goals
    ]


def headline(result: QuantityResult, candidate: str) -> str:
    """One sentence on a quantity: both means, the relative change with its interval, and the result of the test."""
    quantity, paired = result.quantity, result.paired[candidate]
    baseline = next(iter(result.models))
    mean, reference = result.models[candidate].mean, result.models[baseline].mean
    unit = f" {quantity.unit}" if quantity.unit else ""
    sentence = f"{quantity.name}: {mean:.3f}{unit} ({candidate}) against {reference:.3f}{unit} ({baseline})"
    return f"{sentence}{_change(paired)}; {_tested(paired)}."


def verdict(paired: Paired) -> str:
    """Conclusion of a comparison, in the words of all tables.

    Returns:
        ``better``, ``worse``, ``no difference shown`` or ``too few to tell``.
    """
    if paired.n < MIN_PATIENTS:
        return "too few to tell"
    if not paired.is_significant:
        return "no difference shown"
    return "better" if paired.mean_difference < 0 else "worse"


def score_table(comparison: Comparison, candidate: str) -> list[tuple[str, ...]]:
    """The scores of a model against the baseline, headings first, for the terminal."""
    table: list[tuple[str, ...]] = [("", comparison.baseline, candidate, f"difference [{INTERVAL}]", "p (Holm)", "")]
    for result in comparison.at("score"):
        paired, unit = result.paired[candidate], result.quantity.unit
        means = [
            f"{result.models[name].mean:.3f}{f' {unit}' if unit else ''}" for name in (comparison.baseline, candidate)
        ]
        difference = f"{signed(paired.mean_difference)} {interval(paired.interval)}".removesuffix(f" {NONE}")
        table.append((result.quantity.name, *means, difference, p_value(paired.p_holm), verdict(paired)))
    return table


def methods(comparison: Comparison) -> list[str]:
    """Methods of the numbers, in sentences."""
    families = comparison.families
    listed = ", ".join(f"{FAMILY_NAMES[level]} ({counted(families[level], 'test')})" for level in LEVELS)
    return [
        "Errors are absolute differences of prediction and reference. A difference is the error of a model minus that "
        f"of the baseline, {comparison.baseline}, in the same patient: negative is better.",
        "Means are over all terms (ROIs and metrics of all patients), as in the evaluation; medians, tests and effects "
        "are over patients, each with the mean of its terms.",
        "Patients are the unit of analysis, not cases: "
        f"{cases_and_patients(len(comparison.cases), comparison.n_patients)}, as known from the conversion or from the "
        "table of patients.",
        f"Intervals: {100 * CONFIDENCE:.0f} %, of the mean: Student's t over patients with the jackknife's standard "
        "error, corrected for skewness (Hall 1992). In simulations of skewed errors they contain the true value in 92 "
        "to 95 % of comparisons (docs/comparison.md). There is none "
        f"for fewer than {MIN_PATIENTS} patients. They are not corrected for multiple comparisons.",
        "Test, of the same mean: sign flips of patients (permutation test), two-sided; differences are rounded to "
        f"{DECIMALS} decimals. All sign flips are counted if up to {MAX_EXACT} patients differ, ties included, "
        f"otherwise {comparison.n_flips} random ones, seed {comparison.seed}. If no patient differs, p is 1. In "
        "simulations of skewed errors without a true difference, p is below 5 % in 5 to 8 % of comparisons.",
        f"Correction: Holm, in four families, over all models: {listed}, goals "
        f"({counted(families[GOAL_FAMILY], 'test')}).",
        f"Effect: matched-pairs rank-biserial correlation, from {MINUS}1 (better in every patient that differs) to "
        "1 (worse in every one).",
        "Goals: a prediction is right if it meets the goal, acceptable variation included, exactly when the reference "
        "does. The test flips the signs of gained minus lost cases of each patient; with one case per patient it is "
        "McNemar's exact test.",
        "Software: " + ", ".join(f"{name} {number}" for name, number in comparison.software.items()) + ".",
    ]


def dropped(comparison: Comparison) -> list[str]:
    """Excluded cases, one sentence per model; empty if there are none."""
    return [
        f"Left out, because not all models have them: {counted(len(cases), 'case')} of {model} ({', '.join(cases)})."
        for model, cases in comparison.dropped.items()
        if cases
    ] + [
        f"Not scored for {model}, and in no mean: {'; '.join(f'{case} ({why})' for case, why in reasons.items())}."
        for model, reasons in comparison.left_out.items()
        if reasons
    ]


def missing(result: QuantityResult) -> str:
    """Number of cases that a quantity lacks, with reasons."""
    reasons = result.quantity.missing
    return f"{len(reasons)} missing: {', '.join(dict.fromkeys(reasons.values()))}" if reasons else ""


def _change(paired: Paired) -> str:
    if paired.relative_percent is None:
        return ""
    change = paired.relative_percent
    word = "down" if change < 0 else "up"
    text = f", {word} by {abs(change):.1f} %" if round(change, 1) else ", unchanged"
    if paired.relative_interval is not None:
        low, high = (f"{signed(end, 1)}" for end in paired.relative_interval)
        text += f" ({INTERVAL} {low} to {high} %)"
    return text


def _tested(paired: Paired) -> str:
    if paired.n < MIN_PATIENTS:
        return f"{counted(paired.n, 'patient')}, too few to tell"
    verdict = "significant" if paired.is_significant else "not significant"
    return f"{verdict} (p = {p_value(paired.p_holm)} after Holm's correction, n = {paired.n})".replace("= <", "<")
