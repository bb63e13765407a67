"""Tables agree with the record, and names can't break them."""

import csv
import io
import re
import shutil
import subprocess

import pytest

from cdm_nnunet.comparison import sentences
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.comparison.tables import comparison_csv, goals_csv, latex, latex_escaped, markdown

from .conftest import uniform

HOSTILE = 'a|b_$&%#{x}~^\\"<script>alert(1)</script>[*`'


@pytest.fixture
def hostile():
    return compare(
        (
            uniform(HOSTILE, [-2.0, -1.5, 2.5, 3.0, -1.0, 2.0, 0.5]),
            uniform("=B, C", [-1.0, -1.0, 1.0, 0.5, 0.25, 1.5, 1.75]),
        )
    )


def test_csv_holds_the_record(two_models):
    comparison = compare(two_models)
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert len(rows) == len(comparison.quantities)
    for row, result in zip(rows, comparison.quantities, strict=True):
        paired = result.paired["CDM"]
        assert (row["name"], row["level"], row["n"]) == (result.quantity.name, result.quantity.level, "7")
        assert float(row["mean_difference"]) == paired.mean_difference
        assert (float(row["difference_low"]), float(row["difference_high"])) == paired.interval
        assert float(row["p_holm"]) == paired.p_holm
        assert row["bias_model"] == ("" if result.models["CDM"].bias is None else str(result.models["CDM"].bias))
    goals = list(csv.DictReader(io.StringIO(goals_csv(comparison))))
    assert [row["goal"] for row in goals] == [goal.name for goal in comparison.goals]
    assert int(goals[0]["n_only_model_right"]) == comparison.goals[0].paired["CDM"].n_gained


def test_a_headline_is_what_a_paper_quotes(two_models):
    comparison = compare(two_models)
    score = next(r for r in comparison.at("score") if r.quantity.name == "PTV score")
    low, high = score.paired["CDM"].relative_interval
    assert sentences.headline(score, "CDM") == (
        f"PTV score: 1.000 Gy and % (CDM) against 1.786 Gy and % (MAE), down by 44.0 % (95 % interval "
        f"{sentences.signed(low, 1)} to {sentences.signed(high, 1)} %); not significant "
        f"(p = {score.paired['CDM'].p_holm:.3f} after Holm's correction, n = 7)."
    )
    few = compare((uniform("A", [1.0]), uniform("B", [2.0])))
    assert sentences.headline(few.quantities[0], "B").endswith("up by 100.0 %; 1 patient, too few to tell.")


def test_markdown_tables_keep_their_columns(hostile):
    text = markdown(hostile)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {9, 10}
    assert "<script>" not in text.replace("\\<", "")
    assert "Holm, in four families, over all models: scores (4 tests)" in text


def test_latex_rows_keep_their_columns(hostile):
    text = latex(hostile)
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") == 4
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "caption" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7, 8}
    assert not re.search(r"(?<!\\)[#_^~]", "".join(line for line in text.splitlines() if not line.startswith("%")))
    assert latex_escaped("50 % & \\x_1") == r"50 \% \& \textbackslash{}x\_1"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(hostile, tmp_path):
    (tmp_path / "tables.tex").write_text(latex(hostile), encoding="utf-8")
    document = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,longtable}\n"
    (tmp_path / "paper.tex").write_text(
        f"{document}\\begin{{document}}\\input{{tables}}\\end{{document}}\n", encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
