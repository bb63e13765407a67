"""The verb from end to end, through the entry point's protocol."""

import argparse
import json

import numpy as np
import pytest

from cdm_nnunet.cli import evaluate as verb
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import FOLDER_VARIABLES

from .conftest import synthetic_case


@pytest.fixture
def run(make_dataset, predict, monkeypatch, tmp_path):
    cases = {"a": synthetic_case(1), "b": synthetic_case(2, absent=("Larynx",))}
    dataset = make_dataset(cases)
    folder = predict({name: case.dose_gy * np.float32(0.95) for name, case in cases.items()})
    for variable in FOLDER_VARIABLES:
        monkeypatch.setenv(variable, str(dataset.folder.parent))

    def run(*arguments):
        parser = argparse.ArgumentParser()
        verb.configure(parser)
        out = tmp_path / "out"
        return verb.run(parser.parse_args(["-d", "501", "-i", str(folder), "-o", str(out), "-np", "1", *arguments]))

    return run


def test_it_writes_what_it_says(run, tmp_path, capsys):
    record = run("--pictures", "1")
    assert capsys.readouterr().out == ""  # stdout is for the caller's result
    assert json.loads(json.dumps(record)) == record
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["scores"] == result["scores"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != ".lock") == [
        ".images.json",
        ".scored_cases",
        "cases.csv",
        "metrics.csv",
        "pictures",
        "report.html",
        "result.json",
        "scores.csv",
    ]
    assert [len(paths) for paths in record["files"]["pictures"].values()] == [2]
    text = verb.render(record)
    assert "Dataset501_Test: 2 of 2 cases evaluated, template openkbp" in text
    assert f"{result['scores']['ptv_score']:.3f}" in text
    assert f"OpenKBP DVH score   {result['scores']['openkbp']['dvh_score']:.3f} Gy" in text
    assert "left out: 1 absent ROI, in 1 case" in text


def test_no_pictures_and_another_template(run, tmp_path):
    record = run("--pictures", "0", "--template", "head_neck")
    assert record["template"] == "head_neck"
    assert record["scores"]["ptv_score"] is None
    assert not (tmp_path / "out" / "pictures").exists()
    assert "PTV score            none" in verb.render(record)


def test_gamma_and_one_case(run):
    record = run("--pictures", "0", "--case", "b", "--gamma")
    assert record["n_cases"] == 1
    text = verb.render(record)
    assert "gamma 3 %/2 mm global from 10 %" in text
    assert "of the voxels, mean of 1 case" in text


def test_intervals_are_told():
    assert (
        verb._coverage_line({"nominal_percent": 90.0, "observed_percent": 92.31, "n": 26}, {"n_cases": 12})
        == "intervals of 90 %, calibrated on 12 cases, contain 92.3 % of 26 reference values"
    )
    assert verb._coverage_line({"n": 0}, {}) == "intervals: none; no metric has enough calibration cases"


def test_bad_options_are_refused(run):
    with pytest.raises(InputError, match="--pictures takes a number of cases, not -1"):
        run("--pictures", "-1")
    with pytest.raises(InputError, match="no template 'nope'"):
        run("--template", "nope")
