"""The results page of one planner's plans: its table is that of the records in the repository."""

import csv
import re
from pathlib import Path

import pytest

from cdm_nnunet.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS = REPOSITORY / "benchmarks" / "results" / "one_planner"
PAGE = (REPOSITORY / "docs" / "results" / "one_planner.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SCORES = {  # README's names
    "dose score (Gy)": "OpenKBP dose score",
    "DVH score (Gy)": "OpenKBP DVH score",
    "PTV score": "PTV score",
    "OAR score (Gy)": "OAR score",
}
README_ROWS = {"mae": {name: name for name in SCORES}, "vanilla": {"PTV score, against vanilla nnU-Net": "PTV score"}}
ROWS = {
    "vanilla": "vanilla nnU-Net, MAE (`nnUNetTrainerDoseVanilla`)",
    "vanilla_cdm": "vanilla nnU-Net, MAE + CDM (`nnUNetTrainerCDMVanilla`)",
    "mae": "our network, MAE (`nnUNetTrainerDoseMAE`)",
    "cdm": "our network, MAE + CDM (`nnUNetTrainerCDM`)",
    "mae_13mm": "fall-off of 13 mm, no details, MAE",
    "cdm_13mm": "fall-off of 13 mm, no details, MAE + CDM",
    "mae_9mm": "fall-off of 9 mm, no details, MAE",
    "cdm_9mm": "fall-off of 9 mm, no details, MAE + CDM",
}
MEANS = ("mean_baseline", "mean_model")
NUMBERS = ("change_percent", "change_low", "change_high")
CHANGES = {
    "change by the loss, vanilla nnU-Net": ("vanilla", "vanilla_cdm"),
    "change by the loss, our network": ("mae", "cdm"),
    "change by network and loss": ("vanilla", "cdm"),
    "change by the loss, 13 mm, no details": ("mae_13mm", "cdm_13mm"),
    "change by the loss, 9 mm, no details": ("mae_9mm", "cdm_9mm"),
}


def cells(begin, page=PAGE):
    """Cells of the row of a page's table that begins so, the first one left out."""
    (rest,) = re.findall(rf"^\| {re.escape(begin)} \|(.*)\|$", page, re.M)
    return [cell.strip() for cell in rest.split("|")]


@pytest.mark.parametrize("change", CHANGES)
def test_the_table_is_that_of_the_records(change, tmp_path):
    baseline, model = CHANGES[change]
    assert main(["compare", *(f"{name}={RECORDS / name}" for name in (baseline, model)), "-o", str(tmp_path)]) == 0
    lines = csv.DictReader((tmp_path / "comparison.csv").read_text(encoding="utf-8").splitlines())
    by_name = {line["name"]: line for line in lines if line["level"] == "score"}
    scores = [by_name[name] for name in SCORES.values()]
    for column, name in zip(MEANS, (baseline, model), strict=True):
        assert cells(ROWS[name]) == [f"{float(score[column]):.2f}" for score in scores]
    assert cells(change) == [
        "{:+.1f} % ({:+.0f} to {:+.0f})".format(*(float(score[key]) for key in NUMBERS)) for score in scores
    ]
    if model == "cdm":
        for begin, name in README_ROWS[baseline].items():
            score = by_name[SCORES[name]]
            change_percent, before, after = (float(score[key]) for key in ("change_percent", *MEANS))
            assert cells(begin, README)[1] == f"{change_percent:+.1f} % ({before:.2f} to {after:.2f})"
