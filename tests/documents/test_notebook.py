"""The tutorial notebook runs, cell by cell, and shows its stated results."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cell(source, names):
    """Run a cell; return the value of its last expression, as a notebook displays it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Output of each cell, and the names defined by the notebook."""
    import matplotlib

    matplotlib.use("agg")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("notebook")))
        return [run_cell(source, names) for source in code_cells()], names


def test_metrics_are_those_of_the_rois(shown):
    results, names = shown
    target, cord = (result for result in results if isinstance(result, dict))
    assert list(target) == ["D95%", "D2%", "V95%"]
    assert 60 < target["D95%"] < target["D2%"] < 80
    inside = names["dose_gy"][names["mask"]("SpinalCord")]
    assert cord["Mean[Gy]"] == pytest.approx(inside.mean(dtype=float))
    assert cord["V10Gy[cc]"] > 0


def test_an_evaluation_is_a_frame_and_short_to_look_at(shown):
    names = shown[1]
    evaluation, frame = names["evaluations"]["smeared"], names["frame"]
    assert repr(evaluation).startswith("<Evaluation of Dataset500_Tutorial: 6 of 6 cases, dose MAE ")
    assert len(repr(evaluation)) < 150
    assert len(frame) == len(evaluation.rows()) > 100
    row = frame.iloc[5]
    assert row["difference"] == pytest.approx(row["predicted"] - row["reference"])
    page = evaluation._repr_html_()
    assert "Dataset500_Tutorial" in page
    part = evaluation.scores.parts.target.by_metric["D95%"]
    assert f"<td>targets D95%</td><td>{part.mean_absolute:.3f}</td>" in page
    assert repr(evaluation.cases[0]).startswith("<CaseResult phantom_001: dose MAE ")
    assert repr(evaluation.template) == "<Template openkbp: 11 ROIs, 42 goals>"


def test_a_comparison_shows_its_scores_in_words(shown):
    comparison = shown[1]["comparison"]
    assert repr(comparison) == "<Comparison of smeared, too_low: 6 patients of Dataset500_Tutorial>"
    page = comparison._repr_html_()
    assert page.count("<tr>") == 1 + sum(result.quantity.level == "score" for result in comparison.quantities)
    assert any(f"<td>{word}</td>" in page for word in ("better", "worse", "no difference shown"))


def test_without_pandas_one_line_says_what_to_do(shown, monkeypatch):
    import sys

    from cdm_nnunet.errors import InputError

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'cdm_nnunet\[notebook\]'; or take rows\(\)"):
        shown[1]["evaluations"]["smeared"].to_frame()
