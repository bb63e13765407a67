"""The results page of one planner's plans: its table is that of the records in the repository."""

import csv
import re
from pathlib import Path

import pytest

from cdm_nnunet.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS = REPOSITORY / "benchmarks" / "results" / "one_planner"
PAGE = (REPOSITORY / "docs" / "results" / "one_planner.md").read_text(encoding="utf-8")
SCORES = ("OpenKBP dose score", "OpenKBP DVH score", "PTV score", "OAR score")
ROWS = {
    "vanilla": "vanilla nnU-Net, MAE (`nnUNetTrainerDoseVanilla`)",
    "vanilla_cdm": "vanilla nnU-Net, MAE + CDM (`nnUNetTrainerCDMVanilla`)",
    "mae": "our network, MAE (`nnUNetTrainerDoseMAE`)",
    "cdm": "our network, MAE + CDM (`nnUNetTrainerCDM`)",
}
NUMBERS = ("change_percent", "change_low", "change_high")
CHANGES = {
    "change by the loss, our network": ("mae", "cdm"),
}


def cells(begin):
    """Cells of the row of the page's table that begins so, the first one left out."""
    (rest,) = re.findall(rf"^\| {re.escape(begin)} \|(.*)\|$", PAGE, re.M)
    return [cell.strip() for cell in rest.split("|")]


@pytest.mark.parametrize("change", CHANGES)
def test_the_table_is_that_of_the_records(change, tmp_path):
    baseline, model = CHANGES[change]
    assert main(["compare", *(f"{name}={RECORDS / name}" for name in (baseline, model)), "-o", str(tmp_path)]) == 0
    lines = csv.DictReader((tmp_path / "comparison.csv").read_text(encoding="utf-8").splitlines())
    by_name = {line["name"]: line for line in lines if line["level"] == "score"}
    scores = [by_name[name] for name in SCORES]
    for column, name in (("mean_baseline", baseline), ("mean_model", model)):
        assert cells(ROWS[name]) == [f"{float(score[column]):.2f}" for score in scores]
    assert cells(change) == [
        "{:+.1f} % ({:+.0f} to {:+.0f})".format(*(float(score[key]) for key in NUMBERS)) for score in scores
    ]
