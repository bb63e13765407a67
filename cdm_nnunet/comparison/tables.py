"""CSV, Markdown and LaTeX tables of a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from cdm_nnunet.comparison import origins, sentences
from cdm_nnunet.comparison.record import LEVELS, Comparison
from cdm_nnunet.comparison.statistics import Interval
from cdm_nnunet.files import csv_text

COLUMNS = (
    "level", "name", "unit", "baseline", "model", "n", "n_missing",
    "mean_baseline", "mean_model", "median_baseline", "median_model", "bias_baseline", "bias_model",
    "mean_difference", "difference_low", "difference_high", "median_difference",
    "change_percent", "change_low", "change_high",
    "n_better", "n_equal", "n_worse", "p", "p_holm", "p_method", "effect", "notes",
)  # fmt: skip
GOAL_COLUMNS = (
    "goal", "baseline", "model", "n", "n_patients", "n_met_by_reference", "n_right_baseline", "n_right_model",
    "n_only_model_right", "n_only_baseline_right", "p", "p_holm",
)  # fmt: skip
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': r"\textquotedbl{}",
    "-": r"{-}",  # (no ligatures: "--" stays two hyphens)
    "[": r"{[}",  # (at the start of a line it is an option of the preceding line break)
    "]": r"{]}",
    sentences.MINUS: r"$-$",
    sentences.NONE: r"--",
    sentences.AT_LEAST: r"$\geq$",
    sentences.AT_MOST: r"$\leq$",
}


def comparison_csv(comparison: Comparison) -> str:
    """One row for each quantity and model other than the baseline; undefined values are empty."""
    return csv_text(COLUMNS, _quantity_rows(comparison))


def goals_csv(comparison: Comparison) -> str:
    """One row for each goal and model other than the baseline."""
    return csv_text(GOAL_COLUMNS, _goal_rows(comparison))


def markdown(comparison: Comparison) -> str:
    """All tables with their headlines and methods."""
    lines = [f"# {_markdown(sentences.title(comparison))}", "", *map(_markdown, sentences.dropped(comparison)), ""]
    lines += [_markdown(" ".join(origins.unknown(comparison))), ""]
    for candidate in comparison.candidates:
        lines += [f"## {_markdown(candidate)} against {_markdown(comparison.baseline)}", ""]
        lines += [f"- {_markdown(sentences.headline(result, candidate))}" for result in comparison.at("score")]
        for caption, head, body in _tables(comparison, candidate):
            lines += ["", f"### {_markdown(caption)}", "", *_markdown_table(head, body)]
        lines.append("")
    lines += ["## Methods", "", *(f"- {_markdown(sentence)}" for sentence in sentences.methods(comparison))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def latex(comparison: Comparison) -> str:
    r"""All tables for ``\input`` into a document with the packages ``booktabs`` and ``longtable``."""
    parts = [r"% \usepackage{booktabs,longtable}"]
    who = sentences.cases_and_patients(len(comparison.cases), comparison.n_patients)
    for candidate in comparison.candidates:
        for caption, head, body in _tables(comparison, candidate):
            whole = f"{caption}: {candidate} against {comparison.baseline}, {who} of {comparison.dataset}."
            parts.append(_longtable(whole, head, body))
    parts += [f"% {' '.join(sentence.split())}" for sentence in sentences.methods(comparison)]
    return "\n".join(parts) + "\n"


def latex_escaped(text: str) -> str:
    r"""Text with LaTeX's special characters escaped.

    Example:
        >>> print(latex_escaped("PTV_7000 D95%"))
        PTV\_7000 D95\%
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _tables(comparison: Comparison, candidate: str) -> Iterator[tuple[str, Sequence[str], Sequence[tuple[str, ...]]]]:
    for level in LEVELS:
        body = sentences.rows(comparison, candidate, level)
        if body:
            yield sentences.LEVEL_TITLES[level], sentences.columns(comparison.baseline, candidate), body
    if comparison.goals:
        head = sentences.goal_columns(comparison.baseline, candidate)
        yield sentences.GOAL_TITLE, head, sentences.goal_rows(comparison, candidate)
    if body := origins.rows(comparison, candidate):
        yield origins.TITLE, origins.columns(comparison.baseline, candidate), body


def _quantity_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    for result in comparison.quantities:
        quantity, baseline = result.quantity, result.models[comparison.baseline]
        for name, paired in result.paired.items():
            model = result.models[name]
            yield (
                quantity.level, quantity.name, quantity.unit, comparison.baseline, name, paired.n,
                len(quantity.missing), baseline.mean, model.mean, baseline.median, model.median,
                baseline.bias, model.bias, paired.mean_difference, *_ends(paired.interval), paired.median_difference,
                paired.relative_percent, *_ends(paired.relative_interval),
                paired.n_better, paired.n_equal, paired.n_worse, paired.p, paired.p_holm, paired.method,
                paired.effect, "; ".join(paired.notes),
            )  # fmt: skip


def _goal_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    baseline = comparison.baseline
    for goal in comparison.goals:
        for name, flips in goal.paired.items():
            right = (goal.n_right[baseline], goal.n_right[name], flips.n_gained, flips.n_lost)
            yield (goal.name, baseline, name, goal.n, goal.n_patients, goal.n_met, *right, flips.p, flips.p_holm)


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else interval


def _markdown(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def _markdown_table(head: Sequence[str], body: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield _markdown_row(head)
    yield "| --- |" + " ---: |" * (len(head) - 1)
    yield from map(_markdown_row, body)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_markdown, cells))} |"


def _longtable(caption: str, head: Sequence[str], body: Sequence[tuple[str, ...]]) -> str:
    lines = [
        rf"\begin{{longtable}}{{l{'r' * (len(head) - 1)}}}",
        rf"\caption{{{latex_escaped(caption)}}}\\",
        r"\toprule",
        _latex_row(head),
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *map(_latex_row, body),
        r"\end{longtable}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(latex_escaped, cells)) + r" \\"
