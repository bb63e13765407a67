import argparse
import json
import re
import subprocess
import sys

import pytest

from cdm_nnunet.cli import compare as verb
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.roi_record import MetricResult, RoiResult


def parse(*arguments):
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def evaluations(tmp_path):
    """Folders ``mae`` and ``cdm`` with the evaluations of eight patients, the second a third better in each."""
    for name, factor in (("mae", 1.5), ("cdm", 1.0)):
        cases = []
        for i in range(1, 9):
            metric = MetricResult(reference=40.0, predicted=40.0 + factor * i, unit="Gy")
            cord = RoiResult(kind="oar", n_voxels=500, volume_cc=9.0, prescription_gy=None, metrics={"Dmean": metric})
            cases.append(CaseResult(case=f"pt_{i}", dose_mae_gy=0.2 * factor * i, rois={"SpinalCord": cord}))
        mapping = Template.load("openkbp").to_json()
        mapping["goals"] = [{"roi": "SpinalCord", "metric": "Dmean"}]
        template = Template.from_json(mapping, "test")
        record = Evaluation(
            dataset="Dataset501_Test", template=template, dose_region=None, n_dataset_cases=8, cases=tuple(cases),
            scores=pooled_scores(cases),
        )  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(record.to_json()), encoding="utf-8")
    return tmp_path


def test_it_writes_what_it_says(evaluations, capsys):
    out = evaluations / "out"
    record = verb.run(parse(f"MAE={evaluations / 'mae'}", str(evaluations / "cdm"), "-o", str(out), "--seed", "4"))
    assert capsys.readouterr().out == ""
    assert json.loads(json.dumps(record)) == record
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.html",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "comparison.tex",
        "goals.csv",
    ]
    whole = json.loads((out / "comparison.json").read_text())
    assert (whole["baseline"], whole["statistics"]["seed"]) == ("MAE", 4)
    text = verb.render(record)
    assert "Dataset501_Test: 8 patients, template openkbp" in text
    (row,) = (line for line in text.splitlines() if line.strip().startswith("Dose MAE"))
    assert re.split(r" {3,}", row.strip())[1:3] == ["1.350 Gy", "0.900 Gy"]
    assert row.split()[-2:] == ["0.016", "better"]  # (2 / 2^8, two scores)
    assert (
        "Dose MAE: 0.900 Gy (cdm) against 1.350 Gy (MAE), down by 33.3 % (95 % interval " in record["summary"]["cdm"][0]
    )
    assert str(out / "compare.html") in text


def test_a_refusal_writes_nothing(evaluations):
    with pytest.raises(InputError, match="are the same evaluation"):
        verb.run(parse(str(evaluations / "mae"), f"B={evaluations / 'mae'}", "-o", str(evaluations / "out")))
    assert not (evaluations / "out").exists()


def test_importing_the_verb_is_light():
    heavy = ("numpy", "scipy", "plotly", "pydantic", "torch")
    code = f"import sys, cdm_nnunet.cli.compare; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
